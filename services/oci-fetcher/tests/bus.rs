//! The whole service between a real store at the hub and nodes, over a real NATS server with production's permissions.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    num::NonZeroU64,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use api::{IsWanted, KeyAsked, KeyInForce, Problem, StoreAccess, WantedArtifact, WantedArtifacts};
use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    routing::get,
};
use bus::{Bus, Call, ServiceEndpoints, ServiceName, Subject, User};
use identity::nats::generate;
use margo::{ClientName, Digest, UserNkey};
use oci::{
    ArtifactManifest, Client, ContentStore, Descriptor, Index, Limits, Location, Platform, PullError, RepositoryName,
    media,
    registry::Credentials,
    server::{Admission, Availability, Policy, router},
};
use oci_fetcher::{Config, Downloads, Hours, RegistryAccess};
use service::TokenSecret;
use tempfile::TempDir;
use testkit::{DockerRegistry, NatsServer, Running, loopback, wait_for};
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
            let is_asked = |one: &WantedArtifact| (&one.name, one.digest) == (&call.body.name, call.body.digest);
            let wanted = it.lock().unwrap().wanted.iter().any(is_asked);
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

    /// Starts the fetcher anew, with these settings.
    async fn restart_with(&mut self, downloads: Downloads) {
        self.stop().await;
        self.launch_with(downloads).await;
    }

    async fn launch(&mut self) {
        self.launch_with(Downloads::default()).await;
    }

    async fn launch_with(&mut self, downloads: Downloads) {
        let (listener, address) = listen().await;
        let login = self.server.login(&User::OciFetcher(plant()));
        let running = Running::start(ServiceName::OciFetcher, login, |base, shutdown| {
            let (data, secret) = (self.data.path().to_owned(), SECRET.to_owned());
            let (client, listen, tls, hub_tls) = (plant(), address, None, None);
            let config = Config { base, client, data, listen, tls, hub_tls, secret, downloads };
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
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = ContentStore::open(folder.path()).await.unwrap();
        Self { _folder: folder, store, life: 0, serving: None, asked: Arc::default() }
    }

    async fn serve(&mut self) -> StoreAccess {
        self.life += 1;
        let token = format!("life {}", self.life);
        let asked = self.asked.clone();
        let count = move |request: Request, next: Next| {
            asked.lock().unwrap().push(request.uri().path().to_owned());
            next.run(request)
        };
        let router = router(self.store.clone(), Token(token.clone())).layer(from_fn(count));
        self.serve_instead(router, token).await
    }

    /// How often somebody asked for this content.
    fn asked_for(&self, digest: &Digest) -> usize {
        self.asked.lock().unwrap().iter().filter(|path| path.ends_with(&digest.to_string())).count()
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
        WantedArtifact { name: name.to_owned(), digest, registry: None }
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
    // However many nodes ask at once, the site has pulled everything once.
    for digest in [wanted.digest, Digest::of(b"hello"), Digest::of(media::EMPTY_CONFIG)] {
        assert_eq!(hub.asked_for(&digest), 1, "{digest}");
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
    // Of what came nothing is left, unless it is just tried again; one folder is that in which this process writes, and holds its lock.
    let count = |folder: PathBuf| fs::read_dir(folder).unwrap().count();
    wait_for("nothing to be left", async || {
        let staging = fs::read_dir(site.data.path().join("staging")).unwrap().next().unwrap().unwrap();
        match (count(site.data.path().join("partial")), count(staging.path())) {
            (0, 1) => Ok(()),
            left => Err(left),
        }
    })
    .await;

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

/// `open sesame` of the account `press`, by bcrypt.
const HTPASSWD: &str = "press:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

/// A real registry that wants a password, with one artifact of this content.
async fn registry(folder: &TempDir, content: &[u8]) -> (DockerRegistry, WantedArtifact) {
    let file = folder.path().join("htpasswd");
    fs::write(&file, HTPASSWD).unwrap();
    let registry =
        DockerRegistry::start_with(&format!("auth: {{ htpasswd: {{ realm: test, path: {file:?} }} }}")).await;
    let account = Some("Basic cHJlc3M6b3BlbiBzZXNhbWU=");
    registry.push_blob("factory/press", content, account).await;
    registry.push_blob("factory/press", media::EMPTY_CONFIG, account).await;
    let layers = vec![Descriptor::of(media::WASM, content)];
    let manifest = ArtifactManifest::artifact(media::WASM_ARTIFACT, layers).to_json();
    let digest = registry.push_manifest("factory/press", None, media::MANIFEST, &manifest, account).await;
    let location: Location = format!("oci://{}/factory/press", registry.name()).parse().unwrap();
    let name = location.name_at_site().unwrap().to_string();
    (registry, WantedArtifact { name, digest, registry: location.registry.map(String::from) })
}

fn account(password: &str) -> Option<Credentials> {
    Some(Credentials { username: "press".to_owned(), password: password.to_owned() })
}

#[tokio::test]
async fn an_artifact_of_another_registry_comes_with_the_site_s_own_password_and_past_a_dead_mirror() {
    let (mut site, folder) = (Site::start().await, TempDir::new().unwrap());
    let (registry, artifact) = registry(&folder, b"press").await;
    site.want(&artifact);
    site.signal().await;
    // Nobody has named this registry to the site, so the site does not ask there.
    let refused = site.pull_as_node(&artifact, &site.token()).await.unwrap_err();
    assert!(matches!(refused, PullError::Later(_)), "{refused}");
    assert_eq!(registry.requests(&artifact.digest.to_string()).await, ["PUT 201"]);

    let downloads = |password: &str| {
        let dead = format!("{}:5000", loopback());
        let access = RegistryAccess {
            url: Some(registry.url()),
            mirrors: vec![dead.parse().unwrap()],
            credentials: account(password),
            ..RegistryAccess::default()
        };
        let mirror = RegistryAccess { url: Some(format!("http://{dead}")), ..RegistryAccess::default() };
        let registries = [(registry.name().parse().unwrap(), access), (dead.parse().unwrap(), mirror)].into();
        Downloads { registries, ..Downloads::default() }
    };
    site.restart_with(downloads("guess")).await;
    let refused = site.pull_as_node(&artifact, &site.token()).await.unwrap_err();
    assert!(matches!(refused, PullError::Later(_)), "{refused}");
    site.restart_with(downloads("open sesame")).await;
    site.held(&artifact).await;
    site.pulled_by_node(&artifact).await;
    let blob = format!("blobs/{}", Digest::of(b"press"));
    assert_eq!(registry.requests(&blob).await, ["GET 200"]);
}

#[tokio::test]
async fn a_mirror_is_asked_first_under_its_own_names_and_the_registry_not_at_all() {
    let (mut site, folder, mut hub) = (Site::start().await, TempDir::new().unwrap(), Hub::new().await);
    let (registry, artifact) = registry(&folder, b"press").await;
    // The mirror is a store of the platform: it wants a token, which nobody has, so it is put behind a door without one.
    let mirrored = hub.artifact("proxied/factory/press", b"press").await;
    assert_eq!(mirrored.digest, artifact.digest);
    #[derive(Clone)]
    struct Open;
    impl Policy for Open {
        async fn admit(&self, _: &str) -> Admission {
            Admission::Admitted
        }
        async fn provide(&self, _: &RepositoryName, _: &Digest) -> Availability {
            Availability::Absent
        }
    }
    let anonymous = |mut request: Request, next: Next| {
        assert!(request.headers().get("authorization").is_none(), "the password of another registry");
        request.headers_mut().insert("authorization", "Bearer any".parse().unwrap());
        next.run(request)
    };
    let mirror = hub.serve_instead(router(hub.store.clone(), Open).layer(from_fn(anonymous)), String::new()).await;
    let name = mirror.url.strip_prefix("http://").unwrap();
    let access = RegistryAccess {
        url: Some(registry.url()),
        mirrors: vec![format!("{name}/proxied").parse().unwrap()],
        credentials: account("open sesame"),
        ..RegistryAccess::default()
    };
    let mirror = RegistryAccess { url: Some(mirror.url.clone()), ..RegistryAccess::default() };
    let registries = [(registry.name().parse().unwrap(), access), (name.parse().unwrap(), mirror)].into();
    site.restart_with(Downloads { registries, ..Downloads::default() }).await;
    site.want(&artifact);
    site.signal().await;
    site.held(&artifact).await;
    assert_eq!(registry.requests(&artifact.digest.to_string()).await, ["PUT 201"]);
}

#[tokio::test]
async fn of_an_artifact_for_several_platforms_the_site_has_those_of_its_nodes() {
    let (mut site, mut hub) = (Site::start().await, Hub::new().await);
    let platform = |text: &str| -> Platform { text.parse().unwrap() };
    let (amd, arm) = (hub.artifact("press", b"for amd64").await, hub.artifact("press", b"for arm64").await);
    let listed = |artifact: &WantedArtifact, text: &str| Descriptor {
        platform: Some(platform(text)),
        ..Descriptor::new(media::MANIFEST, artifact.digest, 1_000)
    };
    let manifests = vec![listed(&amd, "linux/amd64"), listed(&arm, "linux/arm64")];
    let index = Index { schema_version: 2, media_type: None, manifests };
    let digest = hub.store.put(&serde_json::to_vec(&index).unwrap()).await.unwrap();
    let index = WantedArtifact { name: "press".to_owned(), digest, registry: None };
    hub.store.link(&"press".parse().unwrap(), &digest).await.unwrap();
    site.reach(Some(&hub.serve().await));
    site.restart_with(Downloads { platforms: vec![platform("linux/arm64")], ..Downloads::default() }).await;
    site.want(&index);
    site.signal().await;
    site.held(&index).await;
    assert_eq!((hub.asked_for(&arm.digest), hub.asked_for(&amd.digest)), (1, 0));

    let folder = TempDir::new().unwrap();
    let store = ContentStore::open(folder.path()).await.unwrap();
    let client = Client::new(&format!("http://{}", site.address.unwrap()), site.token(), None).unwrap();
    let name = index.name.parse().unwrap();
    client.pull_for(&store, &name, &name, &digest, &[platform("linux/arm64/v8")]).await.unwrap();
    assert!(store.contains(&Digest::of(b"for arm64")));
    let absent = client.pull(&store, &name, &amd.digest).await.unwrap_err();
    assert!(matches!(absent, PullError::Absent(_)), "{absent}");
}

#[tokio::test]
async fn nothing_is_downloaded_outside_the_hours_and_the_rest_goes_on() {
    let (mut site, mut hub) = (Site::start().await, Hub::new().await);
    let (hello, later) = (hub.artifact("hello", b"hello").await, hub.artifact("later", b"later").await);
    site.reach(Some(&hub.serve().await));
    site.want(&hello);
    site.pulled_by_node(&hello).await;
    // A window that begins in two hours and ends an hour later, whatever the time is.
    let minute = (jiff::Timestamp::now().as_second().rem_euclid(86_400) / 60 + 120) % 1_440;
    let end = (minute + 60) % 1_440;
    let window = format!("{:02}:{:02}-{:02}:{:02}", minute / 60, minute % 60, end / 60, end % 60);
    let hours = Hours(vec![window.parse().unwrap()]);
    site.restart_with(Downloads { hours, ..Downloads::default() }).await;
    site.want(&later);
    site.signal().await;
    // The node has waited for the pull, which has not begun; what is here is served.
    let refused = site.pull_as_node(&later, &site.token()).await.unwrap_err();
    assert!(matches!(refused, PullError::Later(_)), "{refused}");
    assert_eq!(hub.asked_for(&later.digest), 0);
    site.pull_as_node(&hello, &site.token()).await.unwrap();

    site.restart_with(Downloads::default()).await;
    site.held(&later).await;
}

#[tokio::test]
async fn downloads_keep_to_their_rate_and_to_their_size() {
    let (mut site, mut hub) = (Site::start().await, Hub::new().await);
    let content = vec![7; 300_000];
    let (small, large) = (hub.artifact("small", &content).await, hub.artifact("large", &[8; 300_001]).await);
    site.reach(Some(&hub.serve().await));
    let limits = Limits { artifact: 300_002, ..Limits::default() };
    let bytes_per_second = NonZeroU64::new(150_000);
    site.restart_with(Downloads { limits, bytes_per_second, ..Downloads::default() }).await;
    let begin = Instant::now();
    site.want(&large);
    site.want(&small);
    site.signal().await;
    site.held(&small).await;
    assert!(begin.elapsed() > Duration::from_secs(2), "{:?}", begin.elapsed());
    let refused = site.pull_as_node(&large, &site.token()).await.unwrap_err();
    assert!(matches!(refused, PullError::Later(_)), "{refused}");
    assert_eq!(hub.asked_for(&Digest::of(&[8; 300_001])), 0);
}
