//! git-observer as a whole: commits in real repositories become messages on a real NATS server, with the users and
//! permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{collections::BTreeMap, process::Command, sync::Mutex};

use bus::{Bus, Outgoing, ServiceName, SiteVerb, Subject, User, proto, streams};
use futures::StreamExt;
use git_state::{Draft, FileChange, Manifest, Message, Repository, Series, Writer, layout};
use identity::{
    SigningKey,
    trust::{self, HEAD_NAMESPACE, sign_keys},
};
use jiff::Timestamp;
use margo::{ClientName, Head, KeySet, ManifestVersion, NodeFolder, NodeId, NodeName, RepositoryName, TenantName};
use proto::desired_part::Part;
use tempfile::TempDir;
use testkit::{NatsServer, Running, start_traces, wait_for};

const ID: &str = "00000000-0000-4000-8000-000000000001";

fn plant() -> ClientName {
    "plant".parse().unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::new(plant(), name.parse().unwrap())
}

fn site() -> User {
    User::Site(plant())
}

fn central(service: ServiceName) -> User {
    User::Central(service)
}

/// The hub, a repository, and whoever writes it.
struct World {
    server: NatsServer,
    folder: TempDir,
    root: SigningKey,
    writer: Mutex<Writer>,
    repository: Repository,
    keys: KeySet,
}

impl World {
    async fn new() -> Self {
        start_traces();
        let services = [ServiceName::GitObserver, ServiceName::GitWriter, ServiceName::ApiGateway];
        let roles: Vec<_> =
            services.into_iter().map(central).chain([User::Front(ServiceName::GitObserver), site()]).collect();
        let server = NatsServer::start(&roles).await;
        let folder = TempDir::new().unwrap();
        let [root, key] = ["root", "git-writer"].map(|name| SigningKey::generate(name).unwrap());
        let keys = KeySet { tenant: TenantName::default(), number: 2, keys: vec![key.public().to_string()] };
        let mut writer = Writer::new(folder.path(), &TenantName::default(), &keys, key).unwrap();
        let repository = writer.open_or_create(&RepositoryName::Client(plant())).unwrap();
        Self { server, folder, root, writer: Mutex::new(writer), repository, keys }
    }

    async fn ready(&self) -> Running {
        let login = self.server.login(&central(ServiceName::GitObserver));
        let front = self.server.login(&User::Front(ServiceName::GitObserver));
        let running = Running::start_with_front(ServiceName::GitObserver, login, front, |base, shutdown| {
            let (repositories, root_key) = (self.folder.path().to_owned(), self.root.public().to_string());
            git_observer::run(git_observer::Config { base, repositories, root_key }, shutdown)
        });
        running.ready().await;
        running
    }

    /// The files of the tip after these documents were put, with a valid head.
    fn files(&self, documents: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let tip = self.repository.tip().unwrap();
        let mut files = tip.map(|tip| self.repository.files(tip).unwrap()).unwrap_or_default();
        let version =
            Manifest::read(&files).map_or(ManifestVersion::FIRST, |manifest| manifest.version.next().unwrap());
        files.insert(layout::VERSION.to_owned(), format!("{version}\n").into_bytes());
        for (node, document) in documents {
            let node = node.parse().unwrap();
            files.insert(layout::node_version(&node), format!("{version}\n").into_bytes());
            files.insert(layout::document(&node, &ID.parse().unwrap()), document.as_bytes().to_vec());
        }
        let list = Manifest::read(&files).unwrap().list().digest();
        let head = Head { tenant: TenantName::default(), client: plant(), version, list }.to_bytes();
        let signature = self.writer.lock().unwrap().sign(HEAD_NAMESPACE, &head).unwrap();
        files.insert(layout::HEAD_SIGNATURE.to_owned(), signature.into_bytes());
        files.insert(layout::HEAD.to_owned(), head);
        self.put_keys(&mut files, &self.keys);
        files
    }

    fn put_keys(&self, files: &mut BTreeMap<String, Vec<u8>>, keys: &KeySet) {
        let (bytes, signature) = sign_keys(&self.root, keys).unwrap();
        files.insert(layout::KEYS.to_owned(), bytes);
        files.insert(layout::KEYS_SIGNATURE.to_owned(), signature.into_bytes());
    }

    /// A signed commit of these files.
    fn commit(&self, files: BTreeMap<String, Vec<u8>>) {
        let change =
            |(path, content): (String, Vec<u8>)| FileChange { path: path.try_into().unwrap(), content: Some(content) };
        let changes: Vec<_> = files.into_iter().map(change).collect();
        let message = Message::new("test").with("Traceparent", TRACEPARENT).with("Handled", "deployment-registry=1");
        let draft = Draft { author: "ada", message: &message, changes: &changes, at: Timestamp::now() };
        self.write(&self.repository, draft);
    }

    fn write(&self, repository: &Repository, draft: Draft<'_>) {
        let mut writer = self.writer.lock().unwrap();
        let mut series = Series::on(repository, repository.tip().unwrap());
        writer.write(&mut series, draft).unwrap();
        writer.advance(vec![series]).remove(0).unwrap();
    }

    fn put(&self, documents: &[(&str, &str)]) {
        self.commit(self.files(documents));
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .arg("-C")
            .arg(self.repository.path())
            .args(["-c", "user.name=mallory", "-c", "user.email=mallory@example.com"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What git-writer says after a commit.
    async fn signal(&self) {
        let writer = self.server.connect_central(ServiceName::GitWriter).await;
        writer.signal(&Subject::GitCommittedClient(plant()), "".into()).await.unwrap();
        writer.client().flush().await.unwrap();
    }

    async fn refusals(&self) -> Vec<api::Refusal> {
        let operator = self.server.connect_central(ServiceName::ApiGateway).await;
        operator.call(&Subject::service(ServiceName::GitObserver, "refusals"), &(), None).await.unwrap()
    }

    /// Waits for a refusal with these words, and sees that the version published stays.
    async fn wait_for_refusal(&self, lo: &Lo, words: &str, version: u64) {
        wait_for("the refusal", async || {
            let refusals = self.refusals().await;
            if refusals.iter().any(|refusal| refusal.reason.contains(words)) { Ok(()) } else { Err(refusals) }
        })
        .await;
        assert_eq!(lo.version().await, Some(version));
        let refusals = self.refusals().await;
        assert_eq!(refusals[0].subject, "desired.plant.head");
    }
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The hub as a reader of its stream sees it.
struct Lo {
    bus: Bus,
    /// The last message of the stream that was looked at.
    read: Mutex<u64>,
}

impl Lo {
    async fn connect(world: &World) -> Self {
        Self { bus: world.server.operator().await, read: Mutex::new(0) }
    }

    async fn get<M: prost::Message + Default>(&self, subject: Subject) -> Option<M> {
        let stream = self.bus.jetstream().get_stream_no_info(streams::DESIRED).await.unwrap();
        let message = stream.direct_get_last_for_subject(subject.to_string()).await.ok()?;
        bus::decode(&message.payload).ok()
    }

    async fn trace(&self, subject: Subject) -> String {
        let stream = self.bus.jetstream().get_stream_no_info(streams::DESIRED).await.unwrap();
        let message = stream.direct_get_last_for_subject(subject.to_string()).await.unwrap();
        message.headers.get("traceparent").unwrap().to_string()
    }

    async fn head(&self) -> Option<proto::DesiredHead> {
        self.get(Subject::DesiredHead(plant())).await
    }

    async fn version(&self) -> Option<u64> {
        Some(Head::parse(&self.head().await?.head).ok()?.version.get())
    }

    async fn wait_for_version(&self, version: u64) {
        wait_for("the head", async || match self.version().await {
            Some(found) if found == version => Ok(()),
            other => Err(other),
        })
        .await;
    }

    async fn document(&self, name: &str) -> Option<String> {
        let message: proto::DesiredNode = self.get(Subject::DesiredNode(node(name))).await?;
        Some(String::from_utf8(message.deployments.first()?.document.to_vec()).unwrap())
    }

    /// Subjects of the next messages of the stream.
    async fn pull(&self, count: usize) -> Vec<String> {
        let stream = self.bus.jetstream().get_stream(streams::DESIRED).await.unwrap();
        let mut subjects = Vec::new();
        while subjects.len() < count {
            let next = *self.read.lock().unwrap() + 1;
            let message = wait_for("a message", async || {
                let last = stream.get_info().await.unwrap().state.last_sequence;
                if last < next { Err(last) } else { Ok(stream.get_raw_message(next).await) }
            });
            // A newer value of the same subject has replaced it.
            if let Ok(message) = message.await {
                subjects.push(message.subject.to_string());
            }
            *self.read.lock().unwrap() = next;
        }
        subjects
    }
}

#[tokio::test]
async fn a_commit_is_published_whole_with_the_head_last() {
    let world = World::new().await;
    world.put(&[("press", "id: a"), ("saw", "id: b")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    assert_eq!(lo.pull(3).await, ["desired.plant.node.press", "desired.plant.node.saw", "desired.plant.head"]);

    let head = lo.head().await.unwrap();
    let root = world.root.public();
    let keys = trust::verify_keys(&root, &TenantName::default(), 2, &head.keys, &head.keys_signature).unwrap();
    trust::verify_head(&keys, &plant(), &head.head, &head.head_signature).unwrap();
    assert_eq!(head.commit, world.repository.tip().unwrap().unwrap().to_string());

    // The trace of the commit goes on, and not from the commit's own span.
    for subject in [Subject::DesiredHead(plant()), Subject::DesiredNode(node("press"))] {
        let carried = lo.trace(subject).await;
        assert!(carried.starts_with(&TRACEPARENT[..35]) && carried != TRACEPARENT, "{carried}");
    }

    // Only what changed travels.
    world.put(&[("saw", "id: c")]);
    world.signal().await;
    lo.wait_for_version(2).await;
    assert_eq!(lo.pull(2).await, ["desired.plant.node.saw", "desired.plant.head"]);
    assert_eq!(lo.document("saw").await.unwrap(), "id: c");
    assert_eq!(world.refusals().await, []);
    running.stop().await;
}

#[tokio::test]
async fn what_was_committed_while_it_was_away_is_published_at_start() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    world.ready().await.stop().await;
    world.put(&[("press", "id: b")]);
    world.put(&[("saw", "id: c")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(3).await;
    assert_eq!(
        (lo.document("press").await.unwrap(), lo.document("saw").await.unwrap()),
        ("id: b".into(), "id: c".into())
    );
    running.stop().await;
}

#[tokio::test]
async fn more_nodes_than_a_batch_takes_are_published_too() {
    let world = World::new().await;
    let names: Vec<_> = (0..1_100).map(|at| format!("n{at}")).collect();
    let documents: Vec<_> = names.iter().map(|name| (name.as_str(), "id: a")).collect();
    world.put(&documents);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    for name in [&names[0], &names[1_099]] {
        assert_eq!(lo.document(name).await.unwrap(), "id: a");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_tip_that_nobody_vouches_for_is_refused_and_the_last_good_state_stays() {
    let world = World::new().await;
    world.put(&[("press", "id: good")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    let good = world.git(&["rev-parse", "desired"]);
    let reset = || world.git(&["update-ref", "refs/heads/desired", &good]);

    let unsigned = world.git(&["commit-tree", "desired^{tree}", "-p", "desired", "-m", "mine"]);
    world.git(&["update-ref", "refs/heads/desired", &unsigned]);
    world.signal().await;
    world.wait_for_refusal(&lo, "is not signed", 1).await;
    reset();

    let mut wrong_document = world.files(&[("press", "id: announced")]);
    wrong_document.insert(layout::document(&"press".parse().unwrap(), &ID.parse().unwrap()), b"id: other".to_vec());
    world.commit(wrong_document);
    world.signal().await;
    world.wait_for_refusal(&lo, "the head names the list", 1).await;
    reset();

    let mut forged_head = world.files(&[("press", "id: forged")]);
    let signature = world.root.sign(HEAD_NAMESPACE, &forged_head[layout::HEAD]).unwrap();
    forged_head.insert(layout::HEAD_SIGNATURE.to_owned(), signature.into_bytes());
    world.commit(forged_head);
    world.signal().await;
    world.wait_for_refusal(&lo, "the head is not signed by a key in KEYS", 1).await;
    reset();

    let mut older_keys = world.files(&[("press", "id: older")]);
    world.put_keys(&mut older_keys, &KeySet { number: 1, ..world.keys.clone() });
    world.commit(older_keys);
    world.signal().await;
    world.wait_for_refusal(&lo, "KEYS has number 1, number 2 is held", 1).await;
    reset();

    assert_eq!(lo.document("press").await.unwrap(), "id: good");
    world.put(&[("press", "id: better")]);
    world.signal().await;
    lo.wait_for_version(2).await;
    wait_for("no refusal", async || match world.refusals().await {
        refusals if refusals.is_empty() => Ok(()),
        refusals => Err(refusals),
    })
    .await;

    // A repository that went back, and one that tells another story under the same version.
    reset();
    world.signal().await;
    world.wait_for_refusal(&lo, "the repository is at version 1, version 2 is published", 2).await;
    world.put(&[("press", "id: another story")]);
    world.signal().await;
    world.wait_for_refusal(&lo, "version 2 is published with another list", 2).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: better");
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_stream_is_made_and_filled_again() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    let owner = world.server.operator().await;
    owner.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    lo.wait_for_version(1).await;
    assert_eq!(lo.pull(2).await, ["desired.plant.node.press", "desired.plant.head"]);

    // The same when it was away, and when somebody made another one of it.
    running.stop().await;
    owner.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    wait_for("the stream to be made", async || owner.jetstream().get_stream(streams::DESIRED).await.map(drop)).await;
    let other = async_nats::jetstream::stream::Config {
        name: streams::DESIRED.to_owned(),
        subjects: vec!["desired.>".to_owned()],
        // These two cannot be taken back.
        deny_delete: true,
        deny_purge: true,
        ..Default::default()
    };
    owner.jetstream().update_stream(other).await.unwrap();
    let running = world.ready().await;
    lo.wait_for_version(1).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: a");
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_as_the_repository_says_is_put_right() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    world.ready().await.stop().await;
    // Whoever has git-observer's credentials can write this; nobody signed it.
    let owner = world.server.connect_central(ServiceName::GitObserver).await;
    let deployment = proto::DesiredDeployment { id: ID.into(), document: "id: evil".into(), ..Default::default() };
    let evil = proto::DesiredNode { version: 99, deployments: vec![deployment], ..Default::default() };
    let head = proto::DesiredHead { head: "no head".into(), ..Default::default() };
    let messages = vec![
        Outgoing::new(Subject::DesiredNode(node("press")), bus::encode(&evil)),
        Outgoing::new(Subject::DesiredNode(node("ghost")), bus::encode(&evil)),
        Outgoing::new(Subject::DesiredNode(node("saw")), "garbage".into()),
        Outgoing::new(Subject::DesiredHead(plant()), bus::encode(&head)),
    ];
    owner.publish_batch(messages).await.unwrap();
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: a");
    let ghost: proto::DesiredNode = lo.get(Subject::DesiredNode(node("ghost"))).await.unwrap();
    assert_eq!(ghost.deployments, []);
    let saw: proto::DesiredNode = lo.get(Subject::DesiredNode(node("saw"))).await.unwrap();
    assert_eq!(saw.deployments, []);
    running.stop().await;
}

/// The site's connection to the hub, which asks.
async fn ask(site: &Bus, ask: proto::DesiredAsk) -> proto::DesiredAnswer {
    let subject = Subject::Site(plant(), SiteVerb::Desired);
    let answer = site.request(&subject, Default::default(), prost::Message::encode_to_vec(&ask).into()).await.unwrap();
    bus::decode_within(&answer.payload, 2 << 20).unwrap()
}

/// The newest head, as soon as the service has looked at the client.
async fn newest(site: &Bus, held: u64) -> proto::DesiredAnswer {
    wait_for("the newest head", async || {
        let answer = ask(site, proto::DesiredAsk { held, ..Default::default() }).await;
        if answer.outcome() == proto::DesiredOutcome::Found { Ok(answer) } else { Err(answer.outcome()) }
    })
    .await
}

fn contents(answer: &proto::DesiredAnswer) -> Vec<String> {
    answer.pieces.iter().map(|piece| String::from_utf8(piece.content.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_site_is_told_of_a_change_and_its_ask_is_answered_with_what_changed() {
    let world = World::new().await;
    world.put(&[("press", "id: a"), ("saw", "id: b")]);
    let running = world.ready().await;
    let site = world.server.connect(&site()).await;
    let mut signals = site.subscribe(Subject::ChangedHead(plant())).await.unwrap();
    let first = newest(&site, 0).await;
    assert_eq!(Head::parse(&first.head.unwrap().head).unwrap().version.get(), 1);

    world.put(&[("saw", "id: c")]);
    world.signal().await;
    signals.next().await.unwrap();
    let second = newest(&site, 1).await;
    let list =
        Manifest::read(&world.repository.files(world.repository.tip().unwrap().unwrap()).unwrap()).unwrap().list();
    let head = second.head.clone().unwrap();
    assert_eq!(head.list, list.top_text());
    let saw: NodeName = "saw".parse().unwrap();
    let folder = list.folder_text(NodeFolder::of(&saw)).unwrap();
    assert_eq!(contents(&second), [folder, list.get(&saw).unwrap().to_text(), "id: c".to_owned()]);
    // The trace of the commit goes on, and not from the commit's own span.
    assert!(second.traceparent.starts_with(&TRACEPARENT[..35]) && second.traceparent != TRACEPARENT);
    assert_eq!(second.node_traces["saw"], second.traceparent);
    running.stop().await;
}

#[tokio::test]
async fn parts_are_answered_from_the_commit_that_the_ask_names_while_heads_move_on() {
    let world = World::new().await;
    let large = "x".repeat(2 << 20);
    world.put(&[("press", &large), ("saw", "id: b")]);
    let running = world.ready().await;
    let site = world.server.connect(&site()).await;
    let commit = newest(&site, 0).await.head.unwrap().commit;
    let document = |node: &str, offset| {
        let name = proto::DocumentName { node: node.into(), deployment: ID.into() };
        proto::DesiredPart { part: Some(Part::Document(name)), offset }
    };
    let mut found = String::new();
    for number in 0.. {
        // A restart, or whatever else makes it forget, costs time and nothing else.
        world.put(&[("press", &format!("id: {number}"))]);
        world.signal().await;
        let parts = vec![document("press", found.len() as u64), document("saw", 0)];
        let answer = ask(&site, proto::DesiredAsk { commit: commit.clone(), parts, ..Default::default() }).await;
        assert_eq!(answer.outcome(), proto::DesiredOutcome::Found);
        assert_eq!(answer.pieces[0].size, large.len() as u64);
        found.push_str(&contents(&answer)[0]);
        if let Some(piece) = answer.pieces.get(1) {
            assert_eq!((&found, &piece.content[..]), (&large, &b"id: b"[..]));
            break;
        }
    }
    for (commit, part) in
        [("no commit", document("saw", 0)), (&commit, document("none", 0)), (&commit, document("saw", 9))]
    {
        let ask_for = proto::DesiredAsk { commit: commit.to_owned(), parts: vec![part], ..Default::default() };
        assert_eq!(ask(&site, ask_for).await.outcome(), proto::DesiredOutcome::Gone);
    }
    running.stop().await;
}

#[tokio::test]
async fn the_server_may_be_lost() {
    let mut world = World::new().await;
    world.put(&[("press", "id: a")]);
    let running = world.ready().await;
    world.server.kill().await;
    world.put(&[("press", "id: b")]);
    world.server.restart().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(2).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: b");
    running.stop().await;
}
