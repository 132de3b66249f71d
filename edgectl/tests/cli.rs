//! The program against a small server that answers as the contract says: exit codes, errors, and what goes to which stream.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Mutex},
};

use api::{KeyRevoked, NodeAdmitted, Problem, RepositoryAccess, SiteAdmitted};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use edgectl::context::{Context, SiteContext};
use identity::credentials::{self, NodeCredentials, SiteCredentials};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command};

const ID: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";

/// Stands for the platform: it says what a test tells it to say, and notes what it was asked.
#[derive(Clone, Default)]
struct Platform(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    /// The state in which `/deployments` shows the only deployment.
    state: String,
    /// Whether the next POST is carried out but answered with a timeout.
    lose_answer: bool,
    /// Public keys that were brought into force.
    keys: Vec<String>,
    /// The bodies of the requests that did it.
    added: Vec<String>,
    /// The path and query of each request that revoked a key.
    revoked: Vec<String>,
    /// The body and the `If-Match` header of each order.
    orders: Vec<(Value, Option<String>)>,
    /// The sum of the sizes of all uploads, in bytes.
    uploaded: usize,
}

impl Platform {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    /// Notes the key of what is added, and gives the answer unless it shall be lost.
    fn added(&self, body: &Value, answer: impl IntoResponse) -> Response {
        let mut told = self.told();
        told.keys.push(body["identity"]["nkey"].as_str().unwrap().to_owned());
        told.added.push(body.to_string());
        if std::mem::take(&mut told.lose_answer) {
            return problem(&Problem::new(504, "no answer in time"));
        }
        (StatusCode::CREATED, answer).into_response()
    }

    /// Answers an order that brings the key of a site into force.
    fn admitted_site(&self, name: &str, body: &Value) -> Response {
        let (order, name, hub) = ("1".to_owned(), name.parse().unwrap(), "nats://hub:4222".to_owned());
        let (root_key, minter) = ("ssh-ed25519 AAAA".to_owned(), "https://hub:8083".to_owned());
        let (root_certificates, certificate) = ("the root".to_owned(), Some("the site".to_owned()));
        let (url, token) = (format!("https://hub:8084/default/clients/{name}.git"), "a token".to_owned());
        let repository = Some(RepositoryAccess { url, token });
        let admitted = SiteAdmitted { order, name, hub, minter, root_key, root_certificates, certificate, repository };
        self.added(body, Json(admitted))
    }

    /// Answers an order that brings the key of a node into force.
    fn admitted_node(&self, name: &str, body: &Value) -> Response {
        if name == "plant/taken" {
            return problem(&Problem::conflict("node plant/taken exists"));
        }
        let (order, root_certificates) = ("1".to_owned(), "the root".to_owned());
        self.added(body, Json(NodeAdmitted { order, name: name.parse().unwrap(), root_certificates }))
    }

    fn revoked(&self, name: &str, uri: &Uri) -> Response {
        self.told().revoked.push(uri.to_string());
        let former_keys = vec![format!("nkey:{}", identity::nats::generate().1).parse().unwrap()];
        Json(KeyRevoked { order: "1".to_owned(), name: name.to_owned(), former_keys }).into_response()
    }

    fn ordered(&self, body: Value, headers: &HeaderMap) -> Response {
        let if_match = headers.get(header::IF_MATCH).map(|value| value.to_str().unwrap().to_owned());
        self.told().orders.push((body, if_match));
        (StatusCode::ACCEPTED, Json(json!({ "order": "0193", "assignment": assignment() }))).into_response()
    }
}

fn problem(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], serde_json::to_vec(problem).unwrap()).into_response()
}

fn assignment() -> Value {
    json!({
        "name": "hello", "revision": 3, "app": { "id": "hello", "version": "1.0.0" }, "profile": "wasm",
        "parameters": { "greeting": "Moin" }, "targets": { "nodes": ["plant/press"] }, "state": "active",
        "placement": [{ "node": "plant/press", "deployment": ID, "profile": "wasm", "digest": "sha256:a" }],
    })
}

fn deployments(state: &str) -> Value {
    json!([{
        "id": ID, "assignment": "hello", "node": "plant/press", "app": "hello", "version": "1.0.0", "profile": "wasm",
        "digest": "sha256:a", "revision": 3, "state": state,
        "actual": {
            "id": ID, "node": "plant/press", "digest": "sha256:a", "state": state, "adoptedManifestVersion": 1,
            "reportedAt": "2026-11-21T10:00:00Z",
            "failure": (state == "failed").then(|| json!({ "code": "exited", "source": "hello", "message": "status 1" })),
            "components": [{ "name": "hello", "state": state, "endpoint": "http://127.0.0.1:8080/" }],
        },
    }])
}

const DESCRIPTION: &str = r#"
apiVersion: v1
id: hello
metadata: { name: Hello, version: 1.0.0, catalog: { organization: [{ name: Example }] } }
deploymentProfiles:
  - id: wasm
    type: custom
    x-edgewright-extensions: { runtime: wasm }
    components:
      - name: hello
        properties: { repository: "oci://edgewright.local/hello", revision: 1.0.0 }
        x-edgewright-extensions: { http: { port: 8080 } }
parameters:
  greeting: { value: "120", targets: [{ pointer: A, components: [hello] }] }
  times: { value: 3, targets: [{ pointer: A, components: [hello] }] }
"#;

fn app() -> Value {
    json!({
        "id": "hello", "version": "1.0.0", "name": "Hello", "profiles": [], "digest": margo::Digest::of(b""),
        "addedBy": "ada", "addedAt": "2026-11-21T10:00:00Z",
    })
}

/// A running [`Platform`] and a folder whose context file names it.
struct World {
    platform: Platform,
    folder: TempDir,
}

impl World {
    async fn start() -> Self {
        let platform = Platform::default();
        let router = Router::new()
            .route(
                "/api/v1/sites",
                get(async || Json(json!([]))).post(
                    async |State(platform): State<Platform>, Json(body): Json<Value>| {
                        platform.admitted_site(body["name"].as_str().unwrap(), &body)
                    },
                ),
            )
            .route(
                "/api/v1/sites/{name}/key",
                put(
                    async |State(platform): State<Platform>,
                           UrlPath(name): UrlPath<String>,
                           Json(body): Json<Value>| { platform.admitted_site(&name, &body) },
                )
                .delete(
                    async |State(platform): State<Platform>, UrlPath(name): UrlPath<String>, uri: Uri| {
                        platform.revoked(&name, &uri)
                    },
                ),
            )
            .route(
                "/api/v1/nodes",
                get(async || problem(&Problem::new(403, "this needs the role viewer"))).post(
                    async |State(platform): State<Platform>, Json(body): Json<Value>| {
                        platform.admitted_node(body["name"].as_str().unwrap(), &body)
                    },
                ),
            )
            .route(
                "/api/v1/nodes/{site}/{name}/key",
                put(
                    async |State(platform): State<Platform>,
                           UrlPath((site, name)): UrlPath<(String, String)>,
                           Json(body): Json<Value>| {
                        platform.admitted_node(&format!("{site}/{name}"), &body)
                    },
                )
                .delete(
                    async |State(platform): State<Platform>,
                           UrlPath((site, name)): UrlPath<(String, String)>,
                           uri: Uri| { platform.revoked(&format!("{site}/{name}"), &uri) },
                ),
            )
            .route(
                "/api/v1/apps",
                post(async |State(platform): State<Platform>, body: Bytes| {
                    platform.told().uploaded += body.len();
                    (StatusCode::CREATED, Json(app()))
                }),
            )
            .route(
                "/api/v1/apps/{id}/{version}",
                get(async || Json(json!({ "app": app(), "description": DESCRIPTION, "lock": {} }))),
            )
            .route(
                "/api/v1/assignments",
                post(async |State(platform): State<Platform>, headers: HeaderMap, Json(body): Json<Value>| {
                    platform.ordered(body, &headers)
                }),
            )
            .route(
                "/api/v1/assignments/{name}",
                get(async |UrlPath(name): UrlPath<String>| match name.as_str() {
                    "hello" => Json(assignment()).into_response(),
                    _ => problem(&Problem::not_found(format!("there is no assignment {name}"))),
                })
                .put(async |State(platform): State<Platform>, headers: HeaderMap, Json(body): Json<Value>| {
                    platform.ordered(body, &headers)
                })
                .delete(async |State(platform): State<Platform>, headers: HeaderMap| {
                    platform.ordered(Value::Null, &headers)
                }),
            )
            .route(
                "/api/v1/deployments",
                get(async |State(platform): State<Platform>| Json(deployments(&platform.told().state))),
            )
            .route("/api/v1/orders", get(async || "not JSON"))
            .route(
                "/api/v1/status",
                get(async || {
                    Json(json!({ "site": "plant", "hubConnected": false, "waiting": 2, "nodes": [], "refusals": [] }))
                }),
            )
            .with_state(platform.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, router).into_future());

        let folder = TempDir::new().unwrap();
        let context = folder.path().join(".edgewright/edgectl.toml");
        let site = SiteContext {
            status: Some(url.clone()),
            token_file: Some("token".into()),
            trust_file: None,
            server: Some("tls://plant:4222".to_owned()),
        };
        let sites = [("plant".parse().unwrap(), site)].into();
        Context { api: Some(url), token_file: Some("token".into()), trust_file: None, sites }.save(&context).unwrap();
        fs::write(folder.path().join(".edgewright/token"), "ew_0\n").unwrap();
        Self { platform, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs edgectl in the folder with the words of `line`, which are parted by one space.
    async fn run(&self, line: &str) -> Output {
        run(self.folder.path(), line).await
    }

    /// Runs a command that has to succeed, and gives what it wrote to stdout.
    async fn done(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to end with this code and write nothing to stdout; gives what it wrote to stderr.
    async fn fails(&self, line: &str, code: i32) -> String {
        let output = self.run(line).await;
        assert_eq!(output.status.code(), Some(code), "{line}: {}", stderr(&output));
        assert_eq!(output.stdout, b"", "{line}");
        stderr(&output)
    }
}

async fn run(folder: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgectl"));
    command.args(line.split(' ')).current_dir(folder).env("HOME", folder).stdin(Stdio::null());
    for name in ["EDGEWRIGHT_API", "EDGEWRIGHT_TOKEN_FILE", "EDGEWRIGHT_CONTEXT"] {
        command.env_remove(name);
    }
    command.output().await.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn an_order_that_is_carried_out_shows_where_it_answers() {
    let world = World::start().await;
    world.platform.told().state = "installed".to_owned();
    let table = world.done("co deploy hello@1.0.0 --to plant/press --set greeting=7 times=7 --reason why --wait").await;
    assert!(table.contains("http://127.0.0.1:8080/"), "{table}");
    let (order, _) = world.platform.told().orders.pop().unwrap();
    let wanted = json!({
        "name": "hello", "app": { "id": "hello", "version": "1.0.0" }, "parameters": { "greeting": "7", "times": 7 },
        "targets": { "nodes": ["plant/press"] }, "reason": "why",
    });
    assert_eq!(order, wanted);
    let shown = world.done("co deploy hello@1.0.0 --to plant/press --wait -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), deployments("installed"));
    let accepted = world.done("co deploy hello@1.0.0 --to plant/press -o json").await;
    assert_eq!(serde_json::from_str::<Value>(&accepted).unwrap()["assignment"], assignment());
}

#[tokio::test]
async fn a_failure_and_a_timeout_are_told_apart() {
    let world = World::start().await;
    world.platform.told().state = "failed".to_owned();
    let told = world.fails("co deploy hello@1.0.0 --to plant/press --wait", 1).await;
    assert!(told.contains("plant/press failed: exited: status 1"), "{told}");
    world.platform.told().state = "installing".to_owned();
    let told = world.fails("co deploy hello@1.0.0 --to plant/press --wait --timeout 0s", 4).await;
    assert!(told.contains("plant/press is installing"), "{told}");
}

#[tokio::test]
async fn an_update_changes_what_was_given_at_the_revision_that_was_read() {
    let world = World::start().await;
    world.done("co update hello --set times=7").await;
    let (order, if_match) = world.platform.told().orders.pop().unwrap();
    assert_eq!(order["parameters"], json!({ "greeting": "Moin", "times": 7 }));
    assert_eq!((&order["targets"], &order["profile"]), (&assignment()["targets"], &json!("wasm")));
    assert_eq!(if_match.as_deref(), Some("\"3\""));
    world.done("co remove hello --reason why").await;
    assert_eq!(world.platform.told().orders.pop().unwrap().1.as_deref(), Some("\"3\""));
    assert!(world.fails("co update hello", 2).await.contains("nothing to change"));
    assert!(
        world
            .fails("co update hello --set times=often", 1)
            .await
            .contains("parameters.times: \"often\" must be an integer")
    );
    assert!(world.fails("co remove other", 1).await.contains("removing other: there is no assignment other"));
    assert!(world.platform.told().orders.is_empty());
}

#[tokio::test]
async fn errors_say_what_was_attempted_and_what_to_do_next() {
    let world = World::start().await;
    let told = world.fails("co list nodes", 1).await;
    assert_eq!(told, "edgectl: listing the nodes: this needs the role viewer\n  next: use a token with that role\n");
    assert!(world.fails("co list orders", 3).await.contains("like another program"));
    // Nothing listens on port 1.
    let told = world.fails("co list sites --api http://127.0.0.1:1", 3).await;
    assert!(
        told.contains("listing the sites: http://127.0.0.1:1/ cannot be reached") && told.contains("next:"),
        "{told}"
    );
    for line in
        ["co list sites --api nats://x", "co list sites --context none.toml", "co deploy hello@1.0.0", "co dance"]
    {
        world.fails(line, 2).await;
    }
    let empty = TempDir::new().unwrap();
    let output = run(empty.path(), "co status").await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("edgewright up"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_site_gets_its_credentials_and_its_seed_stays_here() {
    let world = World::start().await;
    world.done("co add site plant --credentials plant.toml").await;
    let credentials: SiteCredentials = credentials::load(&world.path("plant.toml")).unwrap();
    let public = identity::nats::public_key(&credentials.seed).unwrap();
    assert_eq!(world.platform.told().keys, [public.to_string()]);
    assert_eq!((credentials.hub.as_str(), credentials.root_key.as_str()), ("nats://hub:4222", "ssh-ed25519 AAAA"));
    assert_eq!(credentials.minter, "https://hub:8083");
    // The key of its intermediate is made here, too, and only a request to sign it is sent.
    let tls = credentials.tls.unwrap();
    assert_eq!((tls.root_certificates.as_str(), tls.certificate.as_str()), ("the root", "the site"));
    assert!(tls.key.contains("PRIVATE KEY"));
    let sent = world.platform.told().added.concat();
    assert!(sent.contains("BEGIN CERTIFICATE REQUEST"), "{sent}");
    assert!(!sent.contains("PRIVATE KEY") && !sent.contains(&credentials.seed), "{sent}");
    let told = world.fails("co add site plant --credentials plant.toml", 2).await;
    assert!(told.contains("never overwritten"), "{told}");
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_key() {
    let world = World::start().await;
    world.platform.told().lose_answer = true;
    let told = world.fails("co add node plant/press --credentials press.toml", 1).await;
    assert!(told.contains("press.toml.pending"), "{told}");
    assert!(!world.path("press.toml").exists());
    let told = world.fails("co add node plant/press --credentials press.toml --server nats://elsewhere:4222", 2).await;
    assert!(told.contains("tls://"), "{told}");
    world.done("co add node plant/press --credentials press.toml --server tls://elsewhere:4222").await;
    let credentials: NodeCredentials = credentials::load(&world.path("press.toml")).unwrap();
    // The address where the node gets its login follows from the one given, not from the context.
    assert_eq!((&*credentials.server, &*credentials.minter), ("tls://elsewhere:4222", "https://elsewhere:4224"));
    world.done("co add node plant/oven --credentials oven.toml --server tls://x:1 --minter https://y:2").await;
    let oven: NodeCredentials = credentials::load(&world.path("oven.toml")).unwrap();
    assert_eq!((&*oven.server, &*oven.minter), ("tls://x:1", "https://y:2"));
    let keys = world.platform.told().keys.clone();
    assert_eq!(keys[..2], vec![identity::nats::public_key(&credentials.seed).unwrap().to_string(); 2]);

    let before = fs::read_dir(world.folder.path()).unwrap().count();
    world.fails("co add node plant/taken --credentials taken.toml", 1).await;
    let told = world.fails("co add node bakery/oven --credentials pan.toml", 2).await;
    assert!(told.contains("--server"), "{told}");
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), before);
}

#[tokio::test]
async fn a_replaced_key_is_made_here_and_comes_with_a_credentials_file_of_its_own() {
    let world = World::start().await;
    world.done("co add site plant --credentials plant.toml").await;
    world.platform.told().lose_answer = true;
    world.fails("co replace-key site plant --credentials plant-2.toml --reason lost", 1).await;
    world.done("co replace-key site plant --credentials plant-2.toml --reason lost").await;
    let [first, second] =
        ["plant.toml", "plant-2.toml"].map(|file| credentials::load::<SiteCredentials>(&world.path(file)).unwrap());
    // The key of the intermediate was in the file that was stolen, too.
    assert_ne!((&first.seed, &first.tls.unwrap().key), (&second.seed, &second.tls.as_ref().unwrap().key));
    assert_eq!((first.hub, first.minter, first.root_key), (second.hub, second.minter, second.root_key));
    let public = identity::nats::public_key(&second.seed).unwrap().to_string();
    {
        let told = world.platform.told();
        assert_eq!(told.keys[1..], [public.clone(), public]);
        let sent: Value = serde_json::from_str(&told.added[1]).unwrap();
        assert_eq!(sent["reason"], "lost");
        assert!(sent["certificateRequest"].as_str().unwrap().contains("BEGIN CERTIFICATE REQUEST"));
        assert!(!told.added.concat().contains(&second.seed));
    }

    world.done("co replace-key node plant/press --credentials press.toml --server tls://x:4222").await;
    let press: NodeCredentials = credentials::load(&world.path("press.toml")).unwrap();
    assert_eq!(
        (press.node.to_string().as_str(), &*press.server, &*press.minter),
        ("plant/press", "tls://x:4222", "https://x:4224")
    );
    // What is written is never overwritten, and a refusal leaves nothing.
    let before = fs::read_dir(world.folder.path()).unwrap().count();
    world.fails("co replace-key node plant/press --credentials press.toml", 2).await;
    world.fails("co replace-key node plant/taken --credentials taken.toml", 1).await;
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), before);
}

#[tokio::test]
async fn a_key_is_revoked_by_the_name_of_its_owner() {
    let world = World::start().await;
    let told = world.done("co revoke-key site plant --reason stolen").await;
    assert!(told.contains("revoked") && told.contains("nkey:U"), "{told}");
    world.done("co revoke-key node plant/press").await;
    world.fails("co revoke-key node press", 2).await;
    let revoked = world.platform.told().revoked.clone();
    assert_eq!(revoked, ["/api/v1/sites/plant/key?reason=stolen", "/api/v1/nodes/plant/press/key"]);
}

#[tokio::test]
async fn a_folder_is_packed_and_uploaded() {
    let world = World::start().await;
    let folder = world.path("hello");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("margo.yaml"), DESCRIPTION).unwrap();
    let told = world.fails("co add app hello", 1).await;
    assert!(told.contains("hello.wasm is not in the app's folder"), "{told}");
    fs::write(folder.join("hello.wasm"), "\0asm").unwrap();
    assert!(world.done("co add app hello").await.contains("hello@1.0.0"));
    assert!(world.platform.told().uploaded > 1_000);
}

#[tokio::test]
async fn a_site_tells_its_own_status() {
    let world = World::start().await;
    assert!(world.done("lo status --site plant").await.contains("not connected"));
    assert!(world.fails("lo status --site bakery", 2).await.contains("--url"));
    let url = Context::load(&world.path(".edgewright/edgectl.toml")).unwrap().api.unwrap();
    let line = format!("lo status --url {url} --token-file .edgewright/token -o json");
    assert_eq!(serde_json::from_str::<Value>(&world.done(&line).await).unwrap()["waiting"], 2);
}

#[tokio::test]
async fn a_context_that_came_with_the_folder_gets_no_token_from_elsewhere() {
    let world = World::start().await;
    let elsewhere = TempDir::new().unwrap();
    let token = elsewhere.path().join("token");
    fs::write(&token, "ew_1\n").unwrap();
    let add = format!("co add site depot --credentials depot.toml --token-file {}", token.display());
    let told = world.fails(&add, 2).await;
    assert!(told.contains("is not sent to an address of the context") && told.contains("--context"), "{told}");
    assert!(world.platform.told().keys.is_empty());

    // As a context that names a file of its reader.
    let link = world.path(".edgewright/token");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&token, &link).unwrap();
    world.fails("co add site depot --credentials depot.toml", 2).await;
    world.fails("lo status --site plant", 2).await;
    assert!(world.platform.told().keys.is_empty());

    // Whoever names the file trusts it.
    world.done("co add site depot --credentials depot.toml --context .edgewright/edgectl.toml").await;
    assert_eq!(world.platform.told().keys.len(), 1);
}

#[tokio::test]
async fn a_context_that_others_can_write_to_is_not_used() {
    let world = World::start().await;
    let context = world.path(".edgewright/edgectl.toml");
    fs::set_permissions(&context, fs::Permissions::from_mode(0o666)).unwrap();
    let told = world.fails("co add site depot --credentials depot.toml", 2).await;
    assert!(told.contains("others can write to it"), "{told}");
    assert!(world.platform.told().keys.is_empty());
}
