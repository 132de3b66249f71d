//! The whole service between a real store at the hub and nodes, over a real NATS server with production's permissions.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use api::{IsWanted, KeyAsked, KeyInForce, Problem, StoreAccess, WantedArtifact, WantedArtifacts};
use axum::{Router, http::StatusCode, routing::get};
use bus::{Bus, Call, ServiceEndpoints, ServiceName, Subject, User};
use identity::nats::generate;
use margo::{ClientName, Digest, UserNkey};
use oci::{
    ArtifactManifest, Client, ContentStore, Descriptor, PullError, RepositoryName, media,
    server::{Admission, Availability, Policy, router},
};
use oci_fetcher::Config;
use service::TokenSecret;
use tempfile::TempDir;
use testkit::{NatsServer, Running, wait_for};
use tokio::{net::TcpListener, task::JoinHandle};

const SECRET: &str = "of the site";

fn plant() -> ClientName {
    "plant".parse().unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What the test has the LO answer: what is wanted, and where the platform has it.
#[derive(Default)]
struct Answers {
    wanted: Vec<WantedArtifact>,
    store: Option<StoreAccess>,
    /// The keys in force of the site's nodes.
    keys: BTreeMap<String, UserNkey>,
}

/// A site: its server, the LO's part of the conversation, the fetcher and its data.
struct Site {
    server: NatsServer,
    orchestrator: Bus,
    answers: Arc<Mutex<Answers>>,
    node_key: UserNkey,
    data: TempDir,
    running: Option<Running>,
    address: Option<SocketAddr>,
    _endpoints: ServiceEndpoints<()>,
}

impl Site {
    async fn start() -> Self {
        let orchestrator = User::LocalOrchestrator(plant());
        let server = NatsServer::start(&[orchestrator.clone(), User::OciFetcher(plant())]).await;
        let orchestrator = server.connect(&orchestrator).await;
        let answers: Arc<Mutex<Answers>> = Arc::default();
        let mut endpoints =
            orchestrator.register(ServiceName::LocalOrchestrator, std::sync::Arc::new(())).await.unwrap();
        let it = answers.clone();
        let artifacts = move |_, _: Call<()>| {
            let artifacts = it.lock().unwrap().wanted.clone();
            std::future::ready(Ok::<_, Problem>(WantedArtifacts { artifacts }))
        };
        endpoints.verb("artifacts", artifacts).await.unwrap();
        let it = answers.clone();
        let store = move |_, _: Call<()>| {
            let store = it.lock().unwrap().store.clone();
            std::future::ready(store.ok_or_else(|| Problem::unavailable("the hub is away")))
        };
        endpoints.verb("store", store).await.unwrap();
        let it = answers.clone();
        let artifact = move |_, call: Call<WantedArtifact>| {
            let wanted = it.lock().unwrap().wanted.contains(&call.body);
            std::future::ready(Ok::<_, Problem>(IsWanted { wanted }))
        };
        endpoints.verb("artifact", artifact).await.unwrap();
        let (node_key, it) = (generate().1, answers.clone());
        it.lock().unwrap().keys.insert("press".to_owned(), node_key.clone());
        let key = move |_, call: Call<KeyAsked>| {
            let key = it.lock().unwrap().keys.get(&call.body.name).cloned();
            std::future::ready(Ok::<_, Problem>(KeyInForce { key }))
        };
        endpoints.verb("key", key).await.unwrap();
        endpoints.reachable().await;
        let data = TempDir::new().unwrap();
        let mut site =
            Self { server, orchestrator, answers, node_key, data, running: None, address: None, _endpoints: endpoints };
        site.launch().await;
        site
    }

    async fn launch(&mut self) {
        let (listener, address) = listen().await;
        let login = self.server.login(&User::OciFetcher(plant()));
        let running = Running::start(ServiceName::OciFetcher, login, |base, shutdown| {
            let (data, secret) = (self.data.path().to_owned(), SECRET.to_owned());
            let config = Config { base, client: plant(), data, listen: address, tls: None, hub_tls: None, secret };
            oci_fetcher::serve(listener, config, shutdown)
        });
        running.ready().await;
        (self.running, self.address) = (Some(running), Some(address));
    }

    async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    fn want(&self, artifact: &WantedArtifact) {
        self.answers.lock().unwrap().wanted.push(artifact.clone());
    }

    fn reach(&self, store: Option<&StoreAccess>) {
        self.answers.lock().unwrap().store = store.cloned();
    }

    /// Signals to a node, as an adoption does.
    async fn signal(&self) {
        let press = Subject::ChangedNode("plant/press".parse().unwrap());
        self.orchestrator.signal(&press, Default::default()).await.unwrap();
    }

    /// The token of the node `press`.
    fn token(&self) -> String {
        TokenSecret::new(SECRET).token("press", &self.node_key)
    }

    async fn pull_as_node(&self, artifact: &WantedArtifact, token: &str) -> Result<(), PullError> {
        let folder = TempDir::new().unwrap();
        let store = ContentStore::open(folder.path()).await.unwrap();
        let client = Client::new(&format!("http://{}", self.address.unwrap()), token, None).unwrap();
        client.pull(&store, &artifact.name.parse().unwrap(), &artifact.digest).await.map(|_| ())
    }

    async fn pulled_by_node(&self, artifact: &WantedArtifact) {
        wait_for("a node to have the artifact", async || {
            self.pull_as_node(artifact, &self.token()).await.map_err(|error| error.to_string())
        })
        .await;
    }

    /// The marker that the site's store sets when a name holds a manifest whole.
    fn holds(&self, artifact: &WantedArtifact) -> bool {
        let marker = format!("repositories/{}/_manifests/{}", artifact.name, artifact.digest.hex());
        self.data.path().join(marker).exists()
    }

    async fn held(&self, artifact: &WantedArtifact) {
        wait_for("the site to hold the artifact", async || if self.holds(artifact) { Ok(()) } else { Err(artifact) })
            .await;
    }
}

#[derive(Clone)]
struct Token(String);

impl Policy for Token {
    async fn admit(&self, token: &str) -> Admission {
        if token == self.0 { Admission::Admitted } else { Admission::Refused }
    }

    async fn provide(&self, _: &RepositoryName, _: &Digest) -> Availability {
        Availability::Absent
    }
}

/// The platform's store; each life has another address and another token.
struct Hub {
    _folder: TempDir,
    store: ContentStore,
    life: u32,
    serving: Option<JoinHandle<()>>,
}

impl Hub {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = ContentStore::open(folder.path()).await.unwrap();
        Self { _folder: folder, store, life: 0, serving: None }
    }

    async fn serve(&mut self) -> StoreAccess {
        self.life += 1;
        let token = format!("life {}", self.life);
        let router = router(self.store.clone(), Token(token.clone()));
        self.serve_instead(router, token).await
    }

    async fn serve_instead(&mut self, router: Router, token: String) -> StoreAccess {
        let (listener, address) = listen().await;
        self.stop().await;
        self.serving = Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
        StoreAccess { url: format!("http://{address}"), token }
    }

    async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            serving.await.unwrap_err();
        }
    }

    async fn artifact(&self, name: &str, content: &[u8]) -> WantedArtifact {
        let artifact = ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, content)]);
        self.store.put(media::EMPTY_CONFIG).await.unwrap();
        self.store.put(content).await.unwrap();
        let digest = self.store.put(&artifact.to_json()).await.unwrap();
        self.store.link(&name.parse().unwrap(), &digest).await.unwrap();
        WantedArtifact { name: name.to_owned(), digest }
    }
}

#[tokio::test]
async fn what_is_adopted_is_fetched_on_the_signal_and_served_with_the_hub_away() {
    let (mut site, mut hub) = (Site::start().await, Hub::new().await);
    let hello = hub.artifact("hello", b"hello").await;
    site.reach(Some(&hub.serve().await));
    site.want(&hello);
    site.signal().await;
    site.held(&hello).await;

    hub.stop().await;
    site.reach(None);
    site.pull_as_node(&hello, &site.token()).await.unwrap();
    let stranger = site.pull_as_node(&hello, "guess").await.unwrap_err();
    assert!(matches!(stranger, PullError::Unauthorized), "{stranger}");

    site.stop().await;
    site.launch().await;
    site.pull_as_node(&hello, &site.token()).await.unwrap();
}

#[tokio::test]
async fn an_artifact_token_opens_for_its_node_only_and_ends_with_its_key() {
    let (site, mut hub) = (Site::start().await, Hub::new().await);
    let hello = hub.artifact("hello", b"hello").await;
    site.reach(Some(&hub.serve().await));
    site.want(&hello);
    site.pulled_by_node(&hello).await;

    let secret = TokenSecret::new(SECRET);
    let (stranger, token) = (generate().1, site.token());
    for forged in [
        secret.token("press", &stranger),
        secret.token("lathe", &site.node_key),
        TokenSecret::new("another site's").token("press", &site.node_key),
        token.replace("press.", "lathe."),
        SECRET.to_owned(),
    ] {
        let refused = site.pull_as_node(&hello, &forged).await.unwrap_err();
        assert!(matches!(refused, PullError::Unauthorized), "{forged}: {refused}");
    }

    let (key, next) = (site.node_key.clone(), generate().1);
    site.answers.lock().unwrap().keys.insert("press".to_owned(), next.clone());
    wait_for("the token to have ended", async || match site.pull_as_node(&hello, &token).await {
        Err(PullError::Unauthorized) => Ok(()),
        other => Err(format!("{other:?} with {key:?}")),
    })
    .await;
    site.pull_as_node(&hello, &secret.token("press", &next)).await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_faster_than_the_signal_gets_its_artifact() {
    let (site, mut hub) = (Site::start().await, Hub::new().await);
    site.reach(Some(&hub.serve().await));
    let (wanted, unwanted) = (hub.artifact("hello", b"hello").await, hub.artifact("other", b"other").await);
    site.want(&wanted);
    let token = site.token();
    let nodes = futures::future::join_all((0..8).map(|_| site.pull_as_node(&wanted, &token)));
    for node in nodes.await {
        node.unwrap();
    }
    let absent = site.pull_as_node(&unwanted, &site.token()).await.unwrap_err();
    assert!(matches!(absent, PullError::Absent(_)), "{absent}");
}

#[tokio::test]
async fn with_the_hub_away_a_node_is_told_to_ask_again() {
    let (site, mut hub) = (Site::start().await, Hub::new().await);
    let hello = hub.artifact("hello", b"hello").await;
    site.want(&hello);
    let later = site.pull_as_node(&hello, &site.token()).await.unwrap_err();
    assert!(matches!(later, PullError::Later(_)), "{later}");
    site.reach(Some(&hub.serve().await));
    site.pulled_by_node(&hello).await;
}

#[tokio::test]
async fn a_store_that_restarts_with_another_token_is_found_again() {
    let (site, mut hub) = (Site::start().await, Hub::new().await);
    let (first, second, third) =
        (hub.artifact("first", b"1").await, hub.artifact("second", b"2").await, hub.artifact("third", b"3").await);
    let before = hub.serve().await;
    site.reach(Some(&before));
    site.want(&first);
    site.signal().await;
    site.held(&first).await;

    // Another address.
    let moved = hub.serve().await;
    site.reach(Some(&moved));
    site.want(&second);
    site.signal().await;
    site.held(&second).await;

    // The same address, another token: the answer is 401.
    let address = moved.url.strip_prefix("http://").unwrap().parse::<SocketAddr>().unwrap();
    hub.stop().await;
    let listener = wait_for("the port to be free", async || TcpListener::bind(address).await).await;
    let again = router(hub.store.clone(), Token("new".to_owned()));
    hub.serving = Some(tokio::spawn(async move { axum::serve(listener, again).await.unwrap() }));
    site.reach(Some(&StoreAccess { token: "new".to_owned(), ..moved }));
    site.want(&third);
    site.signal().await;
    site.held(&third).await;
}

#[tokio::test]
async fn content_with_a_wrong_digest_is_refused_until_the_right_one_comes() {
    let (site, mut hub) = (Site::start().await, Hub::new().await);
    let hello = hub.artifact("hello", b"hello").await;
    let manifest = fs::read(hub.store.path(&hello.digest)).unwrap();
    let evil = Router::new()
        .route("/v2/hello/manifests/{digest}", get(move || std::future::ready(manifest.clone())))
        .route("/v2/hello/blobs/{digest}", get(|| std::future::ready("evil!")));
    let access = hub.serve_instead(evil, "any".to_owned()).await;
    site.reach(Some(&access));
    site.want(&hello);
    let refused = site.pull_as_node(&hello, &site.token()).await.unwrap_err();
    assert!(matches!(refused, PullError::Later(_)), "{refused}");
    assert!(!site.holds(&hello));
    assert!(!site.data.path().join("blobs/sha256").join(Digest::of(b"hello").hex()).exists());
    // Of what came nothing is left; one folder is that in which this process writes, and holds its lock.
    assert_eq!(fs::read_dir(site.data.path().join("partial")).unwrap().count(), 0);
    let staging = fs::read_dir(site.data.path().join("staging")).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read_dir(staging.path()).unwrap().count(), 1);

    site.reach(Some(&hub.serve().await));
    site.pulled_by_node(&hello).await;
}

#[tokio::test]
async fn a_damaged_blob_of_the_site_is_fetched_again() {
    let (site, mut hub) = (Site::start().await, Hub::new().await);
    let hello = hub.artifact("hello", b"hello").await;
    site.reach(Some(&hub.serve().await));
    site.want(&hello);
    site.pulled_by_node(&hello).await;
    fs::write(site.data.path().join("blobs/sha256").join(Digest::of(b"hello").hex()), b"hullo").unwrap();
    site.pulled_by_node(&hello).await;
}

#[tokio::test]
async fn the_site_s_server_may_restart() {
    let (mut site, mut hub) = (Site::start().await, Hub::new().await);
    let (first, second) = (hub.artifact("first", b"1").await, hub.artifact("second", b"2").await);
    site.reach(Some(&hub.serve().await));
    site.want(&first);
    site.signal().await;
    site.pulled_by_node(&first).await;
    site.server.kill().await;
    site.want(&second);
    site.pull_as_node(&first, &site.token()).await.unwrap();
    site.server.restart().await;
    site.held(&second).await;
}

#[tokio::test]
async fn the_version_check_of_oci_distribution_wants_the_token() {
    let site = Site::start().await;
    let url = format!("http://{}/v2/", site.address.unwrap());
    let http = reqwest::Client::new();
    assert_eq!(http.get(&url).send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(http.get(&url).bearer_auth(site.token()).send().await.unwrap().status(), StatusCode::OK);
}
