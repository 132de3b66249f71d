//! What is refused, with a reason that an operator sees, while the last good state stays in force.
//!
//! The forger here has git-observer's and a site's own NATS credentials: signatures and digests are all that protects.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use bus::{
    Bus, Front, Jwt, NodeVerb, Pattern, Rules, ServiceName, SiteVerb, Subject, User, decode, encode, proto, streams,
};
use bytes::Bytes;
use identity::{
    SigningKey,
    nats::{generate, public_key},
    tls::{Peer, Trust},
    trust,
};
use margo::{
    ClientName, Digest, Head, Identity, KeySet, ManifestList, ManifestVersion, NodeEntry, NodeId, NodeIdentity,
    TenantName, UserNkey,
};
use proto::desired_part::Part;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::wait_for;
use tokio_util::task::AbortOnDropHandle;

use crate::kills::git;
use end_to_end::{Platform, answers};

/// Answers sites in the place of git-observer, with its credentials.
struct Forger {
    back: Bus,
    /// The last good head.
    head: proto::DesiredHead,
    /// Who the nodes are and what they run, as the last good head says.
    list: ManifestList,
    told: Arc<Mutex<Told>>,
    _answers: AbortOnDropHandle<()>,
}

/// What the forger answers.
#[derive(Clone, Default)]
struct Told {
    head: proto::DesiredHead,
    list: ManifestList,
    document: Bytes,
}

impl Forger {
    async fn at(platform: &Platform) -> Self {
        let login = |user: User| {
            let key = |kind: &str| platform.hub().join(format!("keys/nats/{user}.{kind}"));
            let seed = std::fs::read_to_string(key("seed")).unwrap();
            platform.login("hub", user.clone(), seed, Jwt::File(key("jwt")))
        };
        let back = Bus::connect(&login(User::Central(ServiceName::GitObserver))).await.unwrap();
        back.connected().await;
        let stream = back.jetstream().get_stream(streams::DESIRED).await.unwrap();
        let last =
            async |subject: Subject| stream.direct_get_last_for_subject(subject.to_string()).await.unwrap().payload;
        let head = decode(&last(Subject::DesiredHead(plant())).await).unwrap();
        let mut list = ManifestList::default();
        for node in ["press", "oven"] {
            let id = NodeId::new(plant(), node.parse().unwrap());
            let message: proto::DesiredNode = decode(&last(Subject::DesiredNode(id.clone())).await).unwrap();
            let digests = message.deployments.iter().map(|it| (it.id.parse().unwrap(), it.digest.parse().unwrap()));
            let entry = NodeEntry {
                identity: Some(Digest::of(&message.identity)),
                version: message.version.try_into().unwrap(),
                deployments: digests.collect(),
            };
            list.put(id.node, entry);
        }
        let front = Front::connect(&login(User::Front(ServiceName::GitObserver)), |_| {}).await.unwrap();
        let rules = Rules { longest: 64 << 10, ..Rules::SMALL };
        let mut asks = front.asks(Pattern::Sites(SiteVerb::Desired), rules).await.unwrap();
        front.reachable().await;
        let told: Arc<Mutex<Told>> = Arc::default();
        let state = told.clone();
        let answers = tokio::spawn(async move {
            while let Some(ask) = asks.next().await {
                let asked = prost::Message::decode(ask.payload.clone()).unwrap();
                let answer = state.lock().unwrap().answer(&asked);
                ask.answer(encode(&answer)).await;
            }
        });
        Self { back, head, list, told, _answers: AbortOnDropHandle::new(answers) }
    }

    /// Answers with this from now on, and has the site ask.
    async fn tell(&self, told: Told) {
        *self.told.lock().unwrap() = told;
        self.back.signal(&Subject::ChangedHead(plant()), Bytes::new()).await.unwrap();
    }

    /// Answers with this head, and the last good list.
    async fn tell_head(&self, head: proto::DesiredHead) {
        self.tell(Told { head, list: self.list.clone(), ..Told::default() }).await;
    }

    /// The last good state under the next version, altered by `change` and then signed by `key`.
    fn signed(&self, key: &SigningKey, change: impl FnOnce(&mut Head)) -> proto::DesiredHead {
        let mut head = Head::parse(&self.head.head).unwrap();
        head.version = head.version.next().unwrap();
        change(&mut head);
        let bytes = head.to_bytes();
        let signature = key.sign(trust::HEAD_NAMESPACE, &bytes).unwrap();
        proto::DesiredHead { head: bytes.into(), head_signature: signature.into(), ..self.head.clone() }
    }
}

impl Told {
    fn answer(&self, ask: &proto::DesiredAsk) -> proto::DesiredAnswer {
        let outcome = proto::DesiredOutcome::Found.into();
        if ask.commit.is_empty() {
            return proto::DesiredAnswer { outcome, head: Some(self.head.clone()), ..Default::default() };
        }
        let content = |part: &proto::DesiredPart| match part.part.clone().unwrap() {
            Part::Folder(folder) => self.list.folder_text(folder.parse().unwrap()).unwrap_or_default().into(),
            Part::Node(node) => self.list.get(&node.parse().unwrap()).unwrap().to_text().into(),
            Part::Identity(_) | Part::Document(_) => self.document.clone(),
        };
        let piece = |content: Bytes| proto::Piece { size: content.len() as u64, content };
        proto::DesiredAnswer {
            outcome,
            pieces: ask.parts.iter().map(content).map(piece).collect(),
            ..Default::default()
        }
    }
}

fn plant() -> ClientName {
    "plant".parse().unwrap()
}

/// Waits until the site shows a refusal whose reason contains these words.
async fn site_refuses(platform: &Platform, words: &str) {
    wait_for(&format!("the site to refuse: {words}"), async || {
        let status = platform.edgectl_json(&["lo", "status", "--site", "plant"]);
        let refusals = status["refusals"].as_array().cloned().unwrap_or_default();
        let told = refusals.iter().any(|refusal| refusal["reason"].as_str().unwrap().contains(words));
        if told { Ok(()) } else { Err(refusals) }
    })
    .await;
}

#[tokio::test]
async fn forged_desired_state_is_refused_and_the_last_good_state_stays() {
    let mut platform = Platform::with_sample(None).await;
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Second", "--wait"]);
    let forger = Forger::at(&platform).await;
    // git-observer would repair at once what is forged here.
    platform.kill("git-observer");
    let key = |name: &str| SigningKey::load(&platform.hub().join("keys").join(name)).unwrap();
    let (writer, root, foreign) = (key("git-writer"), key("root"), SigningKey::generate("foreign").unwrap());

    forger.tell_head(forger.signed(&foreign, |_| {})).await;
    site_refuses(&platform, "not signed by a key in KEYS").await;

    forger.tell_head(forger.signed(&writer, |head| head.client = "other".parse().unwrap())).await;
    site_refuses(&platform, "is of default/other, not of default/plant").await;

    let keys = KeySet { tenant: TenantName::default(), number: 0, keys: vec![writer.public().to_string()] };
    let (bytes, signature) = trust::sign_keys(&root, &keys).unwrap();
    let head = forger.signed(&writer, |_| {});
    forger.tell_head(proto::DesiredHead { keys: bytes.into(), keys_signature: signature.into(), ..head }).await;
    site_refuses(&platform, "KEYS has number 0").await;

    // An older version comes again, as it was signed at its time.
    let head = forger.signed(&writer, |head| {
        head.version = ManifestVersion::FIRST;
        head.list = Digest::of(b"");
    });
    forger.tell_head(proto::DesiredHead { list: Bytes::new(), ..head }).await;
    site_refuses(&platform, "version 1 is older than version").await;

    // A document is not the one that was signed for.
    let (press, mut list) = ("press".parse().unwrap(), forger.list.clone());
    let mut entry = NodeEntry::clone(list.get(&press).unwrap());
    entry.version = Head::parse(&forger.head.head).unwrap().version.next().unwrap();
    let signed = Digest::of(b"id: signed");
    entry.deployments = entry.deployments.iter().map(|(id, _)| (*id, signed)).collect();
    list.put(press, entry);
    let head = forger.signed(&writer, |head| head.list = list.digest());
    let head = proto::DesiredHead { list: list.top_text().to_owned().into(), ..head };
    forger.tell(Told { head, list, document: "id: forged".into() }).await;
    site_refuses(&platform, "is not whole").await;

    // What somebody writes into the stream moves nobody: sites do not read it.
    let evil =
        proto::DesiredNode { version: 1 << 50, client: "plant".into(), node: "press".into(), ..Default::default() };
    let subject = Subject::DesiredNode("plant/press".parse().unwrap());
    forger.back.publish_batch(vec![bus::Outgoing::new(subject, encode(&evil))]).await.unwrap();

    for node in ["press", "oven"] {
        answers(platform.node_address(node), "Second").await;
    }

    // git-observer repairs the bus, and orders go through as before.
    drop(forger);
    platform.run("git-observer");
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Third", "--wait"]);
    answers(platform.node_address("press"), "Third").await;
}

/// Which keys a site lets in stands under the signed head. Whoever answers in the place of the hub changes the key of no node.
#[tokio::test]
async fn a_key_that_nobody_signed_for_is_let_in_nowhere() {
    let mut platform = Platform::with_sample(None).await;
    let forger = Forger::at(&platform).await;
    platform.kill("git-observer");
    let (own, thief) = (public_key(&seed_of(&platform, "press")).unwrap(), generate().1);
    let node = |key: &UserNkey| NodeIdentity {
        device: "plant/press".parse().unwrap(),
        identity: Some(Identity::Nkey(key.clone())),
        former: Vec::new(),
    };
    // The press has got a new key, for which the writer has signed, and the thief's stands in its place in the answer.
    let (press, mut list) = ("press".parse().unwrap(), forger.list.clone());
    let mut entry = NodeEntry::clone(list.get(&press).unwrap());
    assert_eq!(entry.identity, Some(Digest::of(&node(&own).to_bytes())));
    entry.version = Head::parse(&forger.head.head).unwrap().version.next().unwrap();
    entry.identity = Some(Digest::of(&node(&generate().1).to_bytes()));
    list.put(press, entry);
    let writer = SigningKey::load(&platform.hub().join("keys/git-writer")).unwrap();
    let head = forger.signed(&writer, |head| head.list = list.digest());
    let head = proto::DesiredHead { list: list.top_text().to_owned().into(), ..head };
    forger.tell(Told { head, list, document: node(&thief).to_bytes().into() }).await;
    site_refuses(&platform, "is not whole").await;

    let trust = Trust::load(&platform.trust_file()).unwrap().peer(&Peer::Site("plant".parse().unwrap()));
    let http = reqwest::Client::builder().tls_backend_preconfigured((*trust).clone()).build().unwrap();
    for (key, status) in [(thief, StatusCode::NOT_FOUND), (own, StatusCode::OK)] {
        let answer = http.get(format!("{}/v1/jwt/{key}", platform.site_url("plant"))).send().await.unwrap();
        assert_eq!(answer.status(), status, "{key}");
    }
}

#[tokio::test]
async fn an_unsigned_commit_reaches_nobody() {
    let mut platform = Platform::with_sample(None).await;
    platform.all_installed().await;
    forge_commit(&platform.hub().join("repositories/default/clients/plant.git"));
    // git-observer looks at its start, on every signal and every hour. An hour is too long here.
    platform.kill("git-observer");
    platform.run("git-observer");
    wait_for("the centre to show the refusal", async || {
        let status = platform.edgectl_json(&["co", "status"]);
        let refusals = status["refusals"].as_array().cloned().unwrap_or_default();
        let told = refusals.iter().any(|refusal| refusal["reason"].as_str().unwrap().contains("is not signed"));
        if told { Ok(()) } else { Err(status) }
    })
    .await;
    for node in ["press", "oven"] {
        answers(platform.node_address(node), "First").await;
    }
}

/// What somebody with a shell on the hub could do: a commit on `desired` that git-writer did not sign.
fn forge_commit(repository: &Path) {
    let tree = git(repository, &["rev-parse", "desired^{tree}"]);
    let identity = ["-c", "user.name=Mallory", "-c", "user.email=mallory@example.org", "-c", "commit.gpgsign=false"];
    let commit = [&identity[..], &["commit-tree", "-p", "desired", "-m", "harmless", tree.trim()]].concat();
    let commit = git(repository, &commit);
    git(repository, &["update-ref", "refs/heads/desired", commit.trim()]);
}

#[tokio::test]
async fn a_report_of_an_earlier_incarnation_is_refused() {
    let mut platform = Platform::with_sample(None).await;
    platform.all_installed().await;
    platform.kill("plant.press");
    let seed = seed_of(&platform, "press");
    let user = User::Node("plant/press".parse().unwrap());
    let jwt = Jwt::File(platform.node("press").join("login.jwt"));
    let bus = Bus::connect(&platform.login("plant", user, seed, jwt)).await.unwrap();
    bus.connected().await;
    // The node lost its disk: it registers anew and gets the next incarnation. Then a report of the old one comes late.
    let register = proto::RegisterRequest { incarnation: 0, sequence: 0 };
    let subject = Subject::Node("plant/press".parse().unwrap(), NodeVerb::Register);
    let answer = request(&bus, &subject, &register).await;
    let answer: proto::RegisterAnswer = prost::Message::decode(answer).unwrap();
    assert!(answer.incarnation > 1, "{answer:?}");
    let status = proto::NodeStatus { incarnation: answer.incarnation - 1, sequence: 1 << 40, ..Default::default() };
    let report = proto::ReportRequest { status: Some(status), ..Default::default() };
    let answer = request(&bus, &Subject::Node("plant/press".parse().unwrap(), NodeVerb::Report), &report).await;
    let answer: proto::ReportAnswer = prost::Message::decode(answer).unwrap();
    assert!(!answer.stored && answer.refused.contains("incarnation"), "{answer:?}");
    site_refuses(&platform, "incarnation").await;
    let deployments = platform.edgectl_json(&["co", "list", "deployments"]);
    assert!(deployments.as_array().unwrap().iter().all(|deployment| deployment["state"] == "installed"));
}

async fn request(bus: &Bus, subject: &Subject, message: &impl prost::Message) -> bytes::Bytes {
    bus.request(subject, bus::trace::headers(), message.encode_to_vec().into()).await.unwrap().payload
}

fn seed_of(platform: &Platform, node: &str) -> String {
    let file = platform.context().with_file_name(format!("{node}.toml"));
    identity::credentials::load::<identity::credentials::NodeCredentials>(&file).unwrap().seed
}

#[tokio::test]
async fn an_update_without_or_with_a_stale_revision_is_refused() {
    let platform = Platform::with_sample(None).await;
    let body = |greeting: &str| {
        json!({
            "app": { "id": "hello", "version": "1.0.0" },
            "parameters": { "greeting": greeting },
            "targets": { "nodes": ["plant/press"] },
        })
    };
    let send = async |revision: Option<&str>, body: Value| {
        let request = reqwest::Client::new().put(format!("{}/assignments/hello", platform.api()));
        let request = request.bearer_auth(platform.token()).json(&body);
        let request = revision.into_iter().fold(request, |request, revision| request.header("if-match", revision));
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success() || answer.headers()["content-type"] == "application/problem+json");
        answer.status()
    };
    assert_eq!(send(None, body("A")).await, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(send(Some("\"1\""), body("B")).await, StatusCode::ACCEPTED);
    assert_eq!(send(Some("\"1\""), body("C")).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(send(Some("\"2\""), json!({ "app": 7 })).await, StatusCode::UNPROCESSABLE_ENTITY);
    let anonymous = reqwest::get(format!("{}/assignments", platform.api())).await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    answers(platform.node_address("press"), "B").await;
}
