//! git-observer as a whole: commits in real repositories become messages on a real NATS server, with the users and
//! permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{collections::BTreeMap, process::Command, sync::Mutex};

use async_nats::jetstream::consumer::{Consumer, pull};
use bus::{Bus, Outgoing, ServiceName, SiteVerb, Subject, User, proto, streams};
use futures::StreamExt;
use git_state::{Draft, FileChange, Manifest, Message, Repository, Series, Writer, layout};
use identity::{
    SigningKey,
    trust::{self, HEAD_NAMESPACE, sign_keys},
};
use jiff::Timestamp;
use margo::{ClientName, Head, KeySet, ManifestVersion, NodeId, RepositoryName, TenantName};
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
        let roles: Vec<_> = services.into_iter().map(central).chain([site()]).collect();
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
        let running = Running::start(ServiceName::GitObserver, login, |base, shutdown| {
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
            files.insert(format!("nodes/{node}/VERSION"), format!("{version}\n").into_bytes());
            files.insert(format!("nodes/{node}/{ID}.yaml"), document.as_bytes().to_vec());
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

/// The hub as the site's LO sees it, with no more permissions than that.
struct Lo {
    bus: Bus,
}

impl Lo {
    async fn connect(world: &World) -> Self {
        Self { bus: world.server.connect(&site()).await }
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

    /// Subjects of the next messages of its consumer, acknowledged.
    async fn pull(&self, count: usize) -> Vec<String> {
        let request = format!("$JS.API.CONSUMER.MSG.NEXT.{}.plant", streams::DESIRED);
        let mut subjects = Vec::new();
        for _ in 0..count {
            let inbox = self.bus.client().new_inbox();
            let mut answers = self.bus.client().subscribe(inbox.clone()).await.unwrap();
            let body = r#"{"batch":1,"expires":30000000000}"#;
            self.bus.client().publish_with_reply(request.clone(), inbox, body.into()).await.unwrap();
            let message = answers.next().await.unwrap();
            assert!(!message.payload.is_empty(), "{message:?}");
            self.bus.client().publish(message.reply.clone().unwrap(), "+ACK".into()).await.unwrap();
            subjects.push(message.subject.to_string());
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
    wrong_document.insert(format!("nodes/press/{ID}.yaml"), b"id: other".to_vec());
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
    let owner = world.server.connect_central(ServiceName::GitObserver).await;
    owner.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    lo.wait_for_version(1).await;
    assert_eq!(lo.pull(2).await, ["desired.plant.node.press", "desired.plant.head"]);

    // The same when it was away, and when somebody made another one.
    running.stop().await;
    owner.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    let other = async_nats::jetstream::stream::Config {
        name: streams::DESIRED.to_owned(),
        subjects: vec!["desired.>".to_owned()],
        ..Default::default()
    };
    owner.jetstream().create_stream(other).await.unwrap();
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
    let evil = proto::DesiredNode { version: 99, deployments: vec![deployment] };
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

#[tokio::test]
async fn a_site_that_lost_its_copy_gets_everything_again() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    let everything = ["desired.plant.node.press", "desired.plant.head"];
    assert_eq!(lo.pull(2).await, everything);
    let () = lo.bus.call(&Subject::Site(plant(), SiteVerb::Resync), &(), None).await.unwrap();
    assert_eq!(lo.pull(2).await, everything);
    running.stop().await;
}

#[tokio::test]
async fn a_client_gets_its_consumer_before_its_first_deployment() {
    let world = World::new().await;
    let fleet = world.writer.lock().unwrap().open_or_create(&RepositoryName::Fleet).unwrap();
    let file = layout::ClientFile {
        name: "farm".parse().unwrap(),
        identity: margo::Identity::Nkey(identity::nats::generate().1),
        state: api::NodeState::Active,
        former_keys: vec![],
    };
    let change =
        FileChange { path: layout::client(&file.name).try_into().unwrap(), content: Some(layout::to_yaml(&file)) };
    let running = world.ready().await;
    let message = Message::new("add site farm").with("Handled", "node-capabilities=1");
    let draft = Draft { author: "ada", message: &message, changes: &[change], at: Timestamp::now() };
    world.write(&fleet, draft);
    let writer = world.server.connect_central(ServiceName::GitWriter).await;
    writer.signal(&Subject::GitCommittedFleet, "".into()).await.unwrap();

    let owner = world.server.connect_central(ServiceName::GitObserver).await;
    let stream = owner.jetstream().get_stream(streams::DESIRED).await.unwrap();
    let consumer: Consumer<pull::Config> = wait_for("the consumer", async || stream.get_consumer("farm").await).await;
    assert_eq!(consumer.cached_info().config.filter_subject, "desired.farm.>");
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
