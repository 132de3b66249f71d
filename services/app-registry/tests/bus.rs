//! The whole service: real tars over HTTP, a real NATS server with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use api::{App, AppContent, AppRef, KeyAsked, KeyInForce, Problem, StoreAccess, UploadTicket};
use app_registry::Config;
use bus::{Bus, Call, ServiceEndpoints, ServiceName, SiteVerb, Subject, User, proto, streams};
use identity::nats::generate;
use margo::{Digest, UserNkey};
use oci::{Client, ContentStore, PullError, RepositoryName, layout::pack};
use reqwest::StatusCode;
use serde_json::json;
use store::Location;
use tempfile::TempDir;
use testkit::{HELLO, NatsServer, Running, ada, on_each_database, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A hub with one app-registry and those who talk to it.
struct Hub {
    server: NatsServer,
    folder: TempDir,
    database: Location,
    gateway: Bus,
    writer: Bus,
    site: Bus,
    port: Bus,
    /// The keys in force of the sites; identity answers with them.
    keys: Arc<Mutex<BTreeMap<String, UserNkey>>>,
    _identity: ServiceEndpoints<()>,
    running: Option<Running>,
}

impl Hub {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let database = Location::File(folder.path().join("database/app-registry.sqlite"));
        Self::start_in(folder, database).await
    }

    async fn start_in(folder: TempDir, database: Location) -> Self {
        let [gateway, writer, identity] =
            [ServiceName::ApiGateway, ServiceName::GitWriter, ServiceName::Identity].map(User::Central);
        let [site, port] = ["plant", "port"].map(|name| User::Site(name.parse().unwrap()));
        let own = [User::Central(ServiceName::AppRegistry), User::Front(ServiceName::AppRegistry)];
        let roles =
            [&[gateway.clone(), writer.clone(), identity.clone(), site.clone(), port.clone()], own.as_slice()].concat();
        let server = NatsServer::start(&roles).await;
        let (gateway, writer) = (server.connect(&gateway).await, server.operator().await);
        let (site, port) = (server.connect(&site).await, server.connect(&port).await);
        let keys: BTreeMap<_, _> = ["plant", "port"].map(|name| (name.to_owned(), generate().1)).into();
        let keys = Arc::new(Mutex::new(keys));
        let identity = answer_keys(&server.connect(&identity).await, keys.clone()).await;
        let mut hub =
            Self { server, folder, database, gateway, writer, site, port, keys, _identity: identity, running: None };
        hub.launch().await;
        hub
    }

    async fn launch(&mut self) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let login = self.server.login(&User::Central(ServiceName::AppRegistry));
        let front = self.server.login(&User::Front(ServiceName::AppRegistry));
        let running = Running::start_with_front(ServiceName::AppRegistry, login, front, |base, shutdown| {
            let config = Config {
                base,
                database: self.database.clone(),
                store: self.store(),
                listen: listener.local_addr().unwrap(),
                tls: None,
                public_url: None,
            };
            app_registry::serve(listener, config, shutdown)
        });
        running.ready().await;
        self.running = Some(running);
        wait_for("app-registry to answer", async || self.list().await).await;
    }

    async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    async fn list(&self) -> Result<Vec<App>, Problem> {
        self.gateway.call(&Subject::service(ServiceName::AppRegistry, "list"), &(), Some(&ada())).await
    }

    async fn ticket(&self) -> Result<UploadTicket, Problem> {
        self.gateway.call(&Subject::service(ServiceName::AppRegistry, "upload"), &(), Some(&ada())).await
    }

    async fn access(&self) -> StoreAccess {
        Self::access_of(&self.site, "plant").await.unwrap()
    }

    async fn access_of(site: &Bus, name: &str) -> Result<StoreAccess, Problem> {
        site.call(&Subject::Site(name.parse().unwrap(), SiteVerb::Store), &(), None).await
    }

    async fn upload(&self, tar: Vec<u8>) -> reqwest::Response {
        let ticket = self.ticket().await.unwrap();
        put(&ticket, &ticket.token, tar).await
    }

    async fn refused(&self, tar: Vec<u8>) -> Problem {
        let answer = self.upload(tar).await;
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let status = answer.status();
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!(problem.status, status.as_u16());
        problem
    }

    /// Files that an upload left where it was staged.
    fn staged(&self) -> usize {
        let entries = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        // Each process writes in a folder of its own, with a lock in it.
        entries(self.store().join("staging")).flat_map(entries).filter(|path| !path.ends_with("lock")).count()
    }

    async fn nothing_is_left(&self) {
        wait_for("staging to be empty", async || match self.staged() {
            0 => Ok(()),
            left => Err(left),
        })
        .await;
        assert_eq!(fs::read_dir(self.store().join("blobs/sha256")).unwrap().count(), 0);
        assert_eq!(self.list().await.unwrap(), []);
    }

    /// The changes of `fleet.git` on their way, in order.
    async fn writes(&self) -> Vec<proto::GitWrite> {
        let mut stream = self.writer.jetstream().get_stream(streams::GIT_WRITES).await.unwrap();
        let last = stream.info().await.unwrap().state.last_sequence;
        let mut writes: Vec<proto::GitWrite> = Vec::new();
        for sequence in 1..=last {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let write: proto::GitWrite = bus::decode(&message.payload).unwrap();
            // An open row is published again and again.
            if writes.last().is_none_or(|before| before.number < write.number) {
                writes.push(write);
            }
        }
        writes
    }
}

async fn put(ticket: &UploadTicket, token: &str, tar: Vec<u8>) -> reqwest::Response {
    reqwest::Client::new().put(&ticket.url).bearer_auth(token).body(tar).send().await.unwrap()
}

/// An app's folder as a tar.
fn app(margo: &str, wasm: &[u8]) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("margo.yaml"), margo).unwrap();
    fs::write(folder.path().join("hello.wasm"), wasm).unwrap();
    let tar = folder.path().join("hello.tar");
    pack(folder.path(), &tar).unwrap();
    fs::read(tar).unwrap()
}

/// The same tar with other bytes of the same length in one place.
fn tampered(mut tar: Vec<u8>, was: &str, is: &str) -> Vec<u8> {
    let at = tar.windows(was.len()).position(|it| it == was.as_bytes()).unwrap();
    tar[at..at + is.len()].copy_from_slice(is.as_bytes());
    tar
}

/// Answers `svc.identity.key` as identity does.
async fn answer_keys(identity: &Bus, keys: Arc<Mutex<BTreeMap<String, UserNkey>>>) -> ServiceEndpoints<()> {
    let mut endpoints = identity.register(ServiceName::Identity, Arc::new(())).await.unwrap();
    let key = move |_, call: Call<KeyAsked>| {
        let key = keys.lock().unwrap().get(&call.body.name).cloned();
        std::future::ready(Ok::<_, Problem>(KeyInForce { key }))
    };
    endpoints.verb("key", key).await.unwrap();
    endpoints.reachable().await;
    endpoints
}

#[tokio::test]
async fn an_artifact_token_opens_for_its_owner_only_and_ends_with_its_key() {
    let hub = Hub::start().await;
    let uploaded: App = hub.upload(app(HELLO, b"one")).await.json().await.unwrap();
    assert_eq!(uploaded.version.to_string(), "1.0.0");
    let (plant, port) = (hub.access().await, Hub::access_of(&hub.port, "port").await.unwrap());
    assert_ne!(plant.token, port.token);
    let get = async |token: &str| {
        let request = reqwest::Client::new().get(format!("{}/v2/", plant.url)).bearer_auth(token);
        request.send().await.unwrap().status()
    };
    for token in [&plant.token, &port.token] {
        assert_eq!(get(token).await, StatusCode::OK);
    }
    let as_port = plant.token.replacen("plant", "port", 1);
    assert_eq!(get(&as_port).await, StatusCode::UNAUTHORIZED);

    // The site's key is revoked: nobody gets a token for it, and the one that it has ends.
    hub.keys.lock().unwrap().remove("plant");
    wait_for("the token to have ended", async || match get(&plant.token).await {
        StatusCode::UNAUTHORIZED => Ok(()),
        other => Err(other),
    })
    .await;
    Hub::access_of(&hub.site, "plant").await.unwrap_err();
    assert_eq!(get(&port.token).await, StatusCode::OK);
}

#[tokio::test]
async fn an_upload_becomes_an_app_a_commit_and_content() {
    let hub = Hub::start().await;
    let answer = hub.upload(app(HELLO, b"one")).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let added: App = answer.json().await.unwrap();
    assert_eq!((added.id.as_str(), added.version.as_str(), added.added_by.as_str()), ("hello", "1.0.0", "ada"));
    assert_eq!(hub.list().await.unwrap(), std::slice::from_ref(&added));
    assert_eq!(hub.staged(), 0);

    let get = Subject::service(ServiceName::AppRegistry, "get");
    let wanted = AppRef { id: added.id.clone(), version: added.version.clone() };
    let content: AppContent = hub.gateway.call(&get, &wanted, None).await.unwrap();
    assert_eq!((content.app, content.description.as_str()), (added.clone(), HELLO));
    let (component, digest) = content.lock.first_key_value().unwrap();
    assert_eq!(component.as_str(), "hello");
    let unknown = AppRef { version: "9.9.9".parse().unwrap(), ..wanted };
    assert_eq!(hub.gateway.call::<_, AppContent>(&get, &unknown, None).await.unwrap_err().status, 404);

    let write = wait_for("the commit to be ordered", async || {
        let writes = hub.writes().await;
        if let [write] = &writes[..] { Ok(write.clone()) } else { Err(writes) }
    })
    .await;
    assert_eq!((write.number, write.author.as_str()), (1, "ada"));
    let Some(proto::git_write::Change::Fleet(change)) = write.change else { panic!("a change of fleet.git") };
    let paths: Vec<_> = change.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["apps/hello/1.0.0/margo.yaml", "apps/hello/1.0.0/origin.yaml"]);

    let access = hub.access().await;
    let folder = TempDir::new().unwrap();
    let held = ContentStore::open(folder.path()).await.unwrap();
    let name: RepositoryName = "hello".parse().unwrap();
    let client = Client::new(&access.url, &access.token, None).unwrap();
    client.pull(&held, &name, digest).await.unwrap();
    assert!(held.contains(&Digest::of(b"one")));
    client.pull(&held, &name, &added.digest).await.unwrap();
    assert!(held.contains(&Digest::of(HELLO.as_bytes())));
}

#[tokio::test]
async fn a_version_is_never_changed() {
    let hub = Hub::start().await;
    let first: App = hub.upload(app(HELLO, b"one")).await.json().await.unwrap();
    let again = hub.upload(app(HELLO, b"one")).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert_eq!(again.json::<App>().await.unwrap(), first);

    let changed = [app(HELLO, b"two"), app(&HELLO.replace("name: Hello", "name: Hallo"), b"one")];
    for tar in changed {
        assert_eq!(hub.refused(tar).await.status, 409);
    }
    assert!(!hub.store().join("blobs/sha256").join(Digest::of(b"two").hex()).exists());
    assert_eq!(hub.list().await.unwrap(), [first]);

    let next = HELLO.replace("version: 1.0.0", "version: 1.0.1").replace("revision: 1.0.0", "revision: 1.0.1");
    assert_eq!(hub.upload(app(&next, b"two")).await.status(), StatusCode::CREATED);
    let versions: Vec<_> = hub.list().await.unwrap().into_iter().map(|app| app.version.to_string()).collect();
    assert_eq!(versions, ["1.0.0", "1.0.1"]);
    wait_for("one commit for each", async || match hub.writes().await {
        writes if writes.len() == 2 => Ok(()),
        writes => Err(writes),
    })
    .await;
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_and_leaves_nothing() {
    let hub = Hub::start().await;
    let tar = app(HELLO, b"one");
    let truncated = tar[..tar.len() / 2].to_vec();
    for (tar, told) in [
        (truncated, "not the tar of an OCI image layout"),
        (b"no tar at all".repeat(1_000), "not the tar of an OCI image layout"),
        (tampered(tar.clone(), "apiVersion: v1", "apiVersion: v2"), "its content has digest"),
        (tampered(tar.clone(), "hello:1.0.0", "other:1.0.0"), "hello:1.0.0 is not in the upload"),
        (tampered(tar.clone(), "index.json", "/ndex.json"), "checksum"),
    ] {
        let problem = hub.refused(tar).await;
        assert!(problem.status == 422 && problem.to_string().contains(told), "{told}: {problem}");
    }
    hub.nothing_is_left().await;
}

#[tokio::test]
async fn a_description_that_breaks_a_rule_is_told_with_its_place() {
    let hub = Hub::start().await;
    let folder = TempDir::new().unwrap();
    // `pack` refuses such a description, so the layout is made by hand around it.
    let text = HELLO.replace("type: custom", "type: magic");
    let description = oci::Descriptor::of(oci::media::DESCRIPTION, text.as_bytes());
    let package = oci::ArtifactManifest::artifact(oci::media::APP, vec![description]).to_json();
    let listed = oci::Descriptor::of(oci::media::MANIFEST, &package).annotated(oci::media::REF_NAME, "hello:1.0.0");
    let index = json!({ "schemaVersion": 2, "manifests": [listed] }).to_string();
    fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
    fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(folder.path().join("index.json"), index).unwrap();
    for blob in [text.as_bytes(), package.as_slice(), oci::media::EMPTY_CONFIG] {
        fs::write(folder.path().join("blobs/sha256").join(Digest::of(blob).hex()), blob).unwrap();
    }
    let packed = std::process::Command::new("tar").arg("-C").arg(folder.path()).args(["-c", "."]).output().unwrap();
    assert!(packed.status.success());

    let problem = hub.refused(packed.stdout).await;
    assert_eq!(problem.status, 422);
    let [error] = &problem.errors[..] else { panic!("{problem:?}") };
    assert_eq!(error.field, "deploymentProfiles[0].type");
    assert!(error.message.starts_with("margo.yaml:11:11: "), "{error:?}");
    hub.nothing_is_left().await;
}

#[tokio::test]
async fn a_ticket_is_good_for_one_upload() {
    let hub = Hub::start().await;
    let ticket = hub.ticket().await.unwrap();
    assert_eq!(put(&ticket, "guess", app(HELLO, b"one")).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(put(&ticket, &ticket.token, app(HELLO, b"one")).await.status(), StatusCode::CREATED);
    assert_eq!(put(&ticket, &ticket.token, app(HELLO, b"one")).await.status(), StatusCode::UNAUTHORIZED);
    let unknown = UploadTicket { url: hub.access().await.url + "/uploads/../apps", ..ticket };
    assert_eq!(put(&unknown, &unknown.token, Vec::new()).await.status(), StatusCode::NOT_FOUND);

    let refusal = wait_for("the places to run out", async || hub.ticket().await.map_or_else(Ok, Err)).await;
    assert_eq!((refusal.status, refusal.retryable), (429, true));
}

#[tokio::test]
async fn an_interrupted_upload_leaves_nothing() {
    let hub = Hub::start().await;
    let ticket = hub.ticket().await.unwrap();
    let address = ticket.url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let tar = app(HELLO, &[7; 100_000]);
    let mut line = TcpStream::connect(address.0).await.unwrap();
    let head = format!(
        "PUT /{} HTTP/1.1\r\nhost: store\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        address.1,
        ticket.token,
        tar.len()
    );
    line.write_all(head.as_bytes()).await.unwrap();
    line.write_all(&tar[..tar.len() - 50_000]).await.unwrap();
    wait_for("the upload to be staged", async || if hub.staged() > 0 { Ok(()) } else { Err("nothing yet") }).await;
    drop(line);
    hub.nothing_is_left().await;
}

#[tokio::test]
async fn an_upload_that_says_it_is_too_large_is_refused_at_once() {
    let hub = Hub::start().await;
    let ticket = hub.ticket().await.unwrap();
    let address = ticket.url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut line = TcpStream::connect(address.0).await.unwrap();
    let head = format!(
        "PUT /{} HTTP/1.1\r\nhost: store\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n",
        address.1,
        ticket.token,
        (1u64 << 30) + 1
    );
    line.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    line.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    hub.nothing_is_left().await;
}

#[tokio::test]
async fn a_restart_keeps_the_apps_and_ends_the_old_token() {
    on_each_database(async |location| {
        let mut hub = Hub::start_in(TempDir::new().unwrap(), location).await;
        let added: App = hub.upload(app(HELLO, b"one")).await.json().await.unwrap();
        let before = hub.access().await;
        fs::create_dir_all(hub.store().join("staging/left-behind/upload")).unwrap();
        hub.stop().await;
        hub.launch().await;
        assert_eq!(hub.staged(), 0);
        assert_eq!(hub.list().await.unwrap(), std::slice::from_ref(&added));

        let after = hub.access().await;
        let folder = TempDir::new().unwrap();
        let held = ContentStore::open(folder.path()).await.unwrap();
        let name: RepositoryName = "hello".parse().unwrap();
        let old = Client::new(&after.url, &before.token, None).unwrap();
        assert!(matches!(old.pull(&held, &name, &added.digest).await, Err(PullError::Unauthorized)));
        let new = Client::new(&after.url, &after.token, None).unwrap();
        new.pull(&held, &name, &added.digest).await.unwrap();
    })
    .await;
}
