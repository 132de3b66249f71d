//! A hub's server, repositories, whoever writes them, and a reader of the stream.

use std::{collections::BTreeMap, process::Command, sync::Mutex};

use bus::{Bus, ServiceName, Subject, User, proto, streams};
use git_state::{Draft, FileChange, Manifest, Message, Repository, Series, Writer, layout};
use identity::{
    SigningKey,
    trust::{HEAD_NAMESPACE, sign_keys},
};
use jiff::Timestamp;
use margo::{ClientName, Head, KeySet, ManifestVersion, NodeId, RepositoryName, TenantName};
use tempfile::TempDir;
use testkit::{NatsServer, Running, start_traces, wait_for};

pub const ID: &str = "00000000-0000-4000-8000-000000000001";

pub fn plant() -> ClientName {
    "plant".parse().unwrap()
}

pub fn port() -> ClientName {
    "port".parse().unwrap()
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(plant(), name.parse().unwrap())
}

pub fn site() -> User {
    User::Site(plant())
}

pub fn central(service: ServiceName) -> User {
    User::Central(service)
}

/// The hub, a repository, and whoever writes it.
pub struct World {
    pub server: NatsServer,
    folder: TempDir,
    pub root: SigningKey,
    pub writer: Mutex<Writer>,
    pub repository: Repository,
    pub keys: KeySet,
}

impl World {
    pub async fn new() -> Self {
        start_traces();
        let services = [ServiceName::GitObserver, ServiceName::GitWriter, ServiceName::ApiGateway];
        let members = [User::Front(ServiceName::GitObserver), site(), User::Site(port())];
        let roles: Vec<_> = services.into_iter().map(central).chain(members).collect();
        let server = NatsServer::start(&roles).await;
        let folder = TempDir::new().unwrap();
        let [root, key] = ["root", "git-writer"].map(|name| SigningKey::generate(name).unwrap());
        let keys = KeySet { tenant: TenantName::default(), number: 2, keys: vec![key.public().to_string()] };
        let mut writer = Writer::new(folder.path(), &TenantName::default(), &keys, key).unwrap();
        let repository = writer.open_or_create(&RepositoryName::Client(plant())).unwrap();
        Self { server, folder, root, writer: Mutex::new(writer), repository, keys }
    }

    pub async fn ready(&self) -> Running {
        let login = self.server.login(&central(ServiceName::GitObserver));
        let front = self.server.login(&User::Front(ServiceName::GitObserver));
        let running = Running::start_with_front(ServiceName::GitObserver, login, front, |base, shutdown| {
            let (repositories, root_key) = (self.folder.path().to_owned(), self.root.public().to_string());
            git_observer::run(git_observer::Config { base, repositories, root_key }, shutdown)
        });
        running.ready().await;
        running
    }

    /// The repository of another client.
    pub fn of_port(&self) -> Repository {
        self.writer.lock().unwrap().open_or_create(&RepositoryName::Client(port())).unwrap()
    }

    /// The files of the tip after these documents were put, with a valid head.
    pub fn files(&self, documents: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        self.files_of(&self.repository, plant(), documents)
    }

    pub fn files_of(
        &self,
        repository: &Repository,
        client: ClientName,
        documents: &[(&str, &str)],
    ) -> BTreeMap<String, Vec<u8>> {
        let tip = repository.tip().unwrap();
        let mut files = tip.map(|tip| repository.files(tip).unwrap()).unwrap_or_default();
        let version =
            Manifest::read(&files).map_or(ManifestVersion::FIRST, |manifest| manifest.version.next().unwrap());
        files.insert(layout::VERSION.to_owned(), format!("{version}\n").into_bytes());
        for (node, document) in documents {
            let node = node.parse().unwrap();
            files.insert(layout::node_version(&node), format!("{version}\n").into_bytes());
            files.insert(layout::document(&node, &ID.parse().unwrap()), document.as_bytes().to_vec());
        }
        let list = Manifest::read(&files).unwrap().list().digest();
        let head = Head { tenant: TenantName::default(), client, version, list }.to_bytes();
        let signature = self.writer.lock().unwrap().sign(HEAD_NAMESPACE, &head).unwrap();
        files.insert(layout::HEAD_SIGNATURE.to_owned(), signature.into_bytes());
        files.insert(layout::HEAD.to_owned(), head);
        self.put_keys(&mut files, &self.keys);
        files
    }

    pub fn put_keys(&self, files: &mut BTreeMap<String, Vec<u8>>, keys: &KeySet) {
        let (bytes, signature) = sign_keys(&self.root, keys).unwrap();
        files.insert(layout::KEYS.to_owned(), bytes);
        files.insert(layout::KEYS_SIGNATURE.to_owned(), signature.into_bytes());
    }

    /// A signed commit of these files.
    pub fn commit(&self, files: BTreeMap<String, Vec<u8>>) {
        self.commit_to(&self.repository, files);
    }

    pub fn commit_to(&self, repository: &Repository, files: BTreeMap<String, Vec<u8>>) {
        let change =
            |(path, content): (String, Vec<u8>)| FileChange { path: path.try_into().unwrap(), content: Some(content) };
        let changes: Vec<_> = files.into_iter().map(change).collect();
        let message = Message::new("test").with("Traceparent", TRACEPARENT).with("Handled", "deployment-registry=1");
        let draft = Draft { author: "ada", message: &message, changes: &changes, at: Timestamp::now() };
        self.write(repository, draft);
    }

    pub fn write(&self, repository: &Repository, draft: Draft<'_>) {
        let mut writer = self.writer.lock().unwrap();
        let mut series = Series::on(repository, repository.tip().unwrap());
        writer.write(&mut series, draft).unwrap();
        writer.advance(vec![series]).remove(0).unwrap();
    }

    pub fn put(&self, documents: &[(&str, &str)]) {
        self.commit(self.files(documents));
    }

    pub fn put_to_port(&self, repository: &Repository, documents: &[(&str, &str)]) {
        self.commit_to(repository, self.files_of(repository, port(), documents));
    }

    pub fn git(&self, arguments: &[&str]) -> String {
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
    pub async fn signal(&self) {
        self.signal_of(plant()).await;
    }

    pub async fn signal_of(&self, client: ClientName) {
        let writer = self.server.connect_central(ServiceName::GitWriter).await;
        writer.signal(&Subject::GitCommittedClient(client), "".into()).await.unwrap();
        writer.client().flush().await.unwrap();
    }

    pub async fn refusals(&self) -> Vec<api::Refusal> {
        let operator = self.server.connect_central(ServiceName::ApiGateway).await;
        operator.call(&Subject::service(ServiceName::GitObserver, "refusals"), &(), None).await.unwrap()
    }

    /// Waits for a refusal with these words, and sees that the version published stays.
    pub async fn wait_for_refusal(&self, lo: &Lo, words: &str, version: u64) {
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

pub const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The hub as a reader of its stream sees it.
pub struct Lo {
    bus: Bus,
    /// The last message of the stream that was looked at.
    read: Mutex<u64>,
}

impl Lo {
    pub async fn connect(world: &World) -> Self {
        Self { bus: world.server.operator().await, read: Mutex::new(0) }
    }

    pub async fn get<M: prost::Message + Default>(&self, subject: Subject) -> Option<M> {
        let stream = self.bus.jetstream().get_stream_no_info(streams::DESIRED).await.unwrap();
        let message = stream.direct_get_last_for_subject(subject.to_string()).await.ok()?;
        bus::decode(&message.payload).ok()
    }

    pub async fn trace(&self, subject: Subject) -> String {
        let stream = self.bus.jetstream().get_stream_no_info(streams::DESIRED).await.unwrap();
        let message = stream.direct_get_last_for_subject(subject.to_string()).await.unwrap();
        message.headers.get("traceparent").unwrap().to_string()
    }

    pub async fn head(&self) -> Option<proto::DesiredHead> {
        self.get(Subject::DesiredHead(plant())).await
    }

    pub async fn version(&self) -> Option<u64> {
        self.version_of(plant()).await
    }

    pub async fn version_of(&self, client: ClientName) -> Option<u64> {
        let head: proto::DesiredHead = self.get(Subject::DesiredHead(client)).await?;
        Some(Head::parse(&head.head).ok()?.version.get())
    }

    pub async fn wait_for_version(&self, version: u64) {
        self.wait_for_version_of(plant(), version).await;
    }

    pub async fn wait_for_version_of(&self, client: ClientName, version: u64) {
        wait_for("the head", async || match self.version_of(client.clone()).await {
            Some(found) if found == version => Ok(()),
            other => Err(other),
        })
        .await;
    }

    pub async fn document(&self, name: &str) -> Option<String> {
        let message: proto::DesiredNode = self.get(Subject::DesiredNode(node(name))).await?;
        Some(String::from_utf8(message.deployments.first()?.document.to_vec()).unwrap())
    }

    /// Subjects of the next messages of the stream.
    pub async fn pull(&self, count: usize) -> Vec<String> {
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
