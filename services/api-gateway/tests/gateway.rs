//! The gateway on a real hub with the users of production. Small services behind it answer as the contract says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use api::{
    Accepted, App, AppContent, AppRef, Assignment, AssignmentState, ByName, CreateAssignment, CreateNode, CreateSite,
    HistoryAsked, HistoryEntry, KeyRevoked, Member, Members, Node, NodeAdmitted, NodeState, Order, PlatformStatus,
    Problem, Reachability, Refusal, RemoveRequest, ReplaceKeyRequest, ReplaceNodeKey, ReplaceSiteKey, RevokeKeyRequest,
    Site, SiteAdmitted, SiteLogin, StatusAsked, Targets, UpdateRequest, UploadTicket,
};
use api_gateway::{Config, tokens};
use axum::{Router, body::Body, extract::State, routing::put};
use bus::{
    Bus, Call, CallId, Pattern, Role, ServiceEndpoints, ServiceName, Subject, User, calls,
    proto::{CallPart, CallPartOutcome},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Method, StatusCode, header};
use margo::{AssignmentName, DeploymentId, Identity, NodeId, SiteName};
use prost::Message as _;
use reqwest::{Response, Url};
use tempfile::TempDir;
use testkit::{NatsServer, Running, start_traces, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const PROBLEM: &str = "application/problem+json";

/// A gateway, its hub, and a token of each role.
struct World {
    server: NatsServer,
    folder: TempDir,
    url: Url,
    http: reqwest::Client,
    tokens: BTreeMap<String, String>,
    gateway: Running,
}

/// The services behind the gateway, and what they were asked.
struct Services {
    _endpoints: Vec<ServiceEndpoints<()>>,
    asked: Arc<Mutex<Vec<(String, serde_json::Value)>>>,
}

fn site_user(name: &str) -> User {
    User::Site(name.parse().unwrap())
}

impl World {
    async fn start() -> Self {
        start_traces();
        let central = ServiceName::ALL.iter().copied().map(User::Central).collect::<Vec<_>>();
        let others = [User::Front(ServiceName::ApiGateway), site_user("plant"), site_user("port")];
        let server = NatsServer::start_bare(&[central, others.to_vec()].concat()).await;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("tokens.json");
        let tokens = Role::ALL.iter().map(|role| {
            let name = role.to_string();
            let token = tokens::create(&path, &name, *role).unwrap();
            (name, token)
        });
        let tokens = tokens.collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let login = server.login(&User::Central(ServiceName::ApiGateway));
        let front = server.login(&User::Front(ServiceName::ApiGateway));
        let gateway = Running::start_with_front(ServiceName::ApiGateway, login, front, |base, shutdown| {
            api_gateway::serve(
                listener,
                Config { base, listen: address, tls: None, store_tls: None, tokens: path },
                shutdown,
            )
        });
        gateway.ready().await;
        let url = format!("http://{address}/api/v1/").parse().unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { server, folder, url, http, tokens, gateway }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url.join(path).unwrap())
    }

    fn as_admin(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request(method, path).bearer_auth(&self.tokens["admin"])
    }

    async fn services(&self) -> Services {
        let asked = Arc::<Mutex<Vec<(String, serde_json::Value)>>>::default();
        let mut services = BTreeMap::new();
        for name in ServiceName::ALL {
            let central =
                !matches!(name, ServiceName::ApiGateway | ServiceName::LocalOrchestrator | ServiceName::OciFetcher);
            if central {
                let bus = self.server.connect_central(*name).await;
                services.insert(*name, bus.register(*name, std::sync::Arc::new(())).await.unwrap());
            }
        }
        macro_rules! answer {
            ($service:ident, $verb:literal, $body:ty, $answer:expr) => {{
                let asked = asked.clone();
                let service = services.get_mut(&ServiceName::$service).unwrap();
                let handler = move |_, call: Call<$body>| {
                    let body = serde_json::to_value(&call.body).unwrap();
                    asked.lock().unwrap().push((format!("{} as {}", call.subject, who(&call)), body));
                    #[allow(clippy::redundant_closure_call, reason = "each verb has its own answer")]
                    let answer = ($answer)(call.body);
                    async move { answer }
                };
                service.verb($verb, handler).await.unwrap();
            }};
        }
        answer!(AppRegistry, "list", (), |()| Ok::<_, Problem>(vec![app()]));
        answer!(AppRegistry, "get", AppRef, |_| Ok::<_, Problem>(AppContent {
            app: app(),
            description: "apiVersion: v1".to_owned(),
            lock: BTreeMap::new(),
            images: BTreeMap::new(),
        }));
        answer!(DeploymentRegistry, "create", CreateAssignment, |order: CreateAssignment| Ok::<_, Problem>(accepted(
            &order.name,
            1
        )));
        answer!(DeploymentRegistry, "update", UpdateRequest, |order: UpdateRequest| match order.revision {
            3 => Ok(accepted(&order.name, 4)),
            _ => Err(Problem::precondition_failed("hello is at revision 3")),
        });
        answer!(DeploymentRegistry, "remove", RemoveRequest, |order: RemoveRequest| match order.revision {
            3 => Ok(accepted(&order.name, 4)),
            _ => Err(Problem::precondition_failed("hello is at revision 3")),
        });
        answer!(DeploymentRegistry, "get", ByName<AssignmentName>, |by: ByName<AssignmentName>| {
            match by.name.as_str() {
                "hello" => Ok(assignment(&by.name, 3)),
                _ => Err(Problem::not_found("there is no such assignment")),
            }
        });
        answer!(DeploymentRegistry, "list", (), |()| Ok::<Vec<Assignment>, Problem>(Vec::new()));
        answer!(DeploymentRegistry, "orders", (), |()| Ok::<Vec<Order>, Problem>(Vec::new()));
        answer!(DeploymentRegistry, "deployments", (), |()| Ok::<_, Problem>(serde_json::json!([
            desired(PRESS, "plant/press", Some("sha256:a")),
            desired(OVEN, "bakery/oven", Some("sha256:b")),
        ])));
        answer!(DeploymentRegistry, "deployment", ByName<DeploymentId>, |by: ByName<DeploymentId>| {
            let one = (by.name.to_string() == PRESS).then(|| desired(PRESS, "plant/press", Some("sha256:a")));
            Ok::<_, Problem>(one)
        });
        answer!(StatusCollector, "list", (), |()| Ok::<_, Problem>(vec![actual()]));
        answer!(StatusCollector, "status", StatusAsked, |_| Ok::<_, Problem>(Some(actual())));
        answer!(StatusCollector, "history", HistoryAsked, |_| Ok::<Vec<HistoryEntry>, Problem>(Vec::new()));
        answer!(StatusCollector, "dead-letters", (), |()| Ok::<_, Problem>(3));
        answer!(StatusCollector, "refusals", (), |()| Ok::<_, Problem>(vec![refusal("2026-11-21T10:00:01Z")]));
        answer!(GitObserver, "refusals", (), |()| Ok::<_, Problem>(vec![refusal("2026-11-21T10:00:00Z")]));
        answer!(GitWriter, "refusals", (), |()| Ok::<_, Problem>(vec![refusal("2026-11-21T10:00:02Z")]));
        answer!(Identity, "logins", (), |()| {
            let Identity::Nkey(key) = identity();
            let expires = Some("2027-02-19T10:00:00Z".to_owned());
            Ok::<_, Problem>(vec![SiteLogin { client: "plant".to_owned(), key, expires }])
        });
        answer!(NodeCapabilities, "sites", (), |()| Ok::<_, Problem>(vec![site()]));
        answer!(NodeCapabilities, "nodes", (), |()| Ok::<_, Problem>(vec![node()]));
        answer!(NodeCapabilities, "node", ByName<NodeId>, |by: ByName<NodeId>| match node() {
            node if node.name == by.name => Ok(node),
            _ => Err(Problem::not_found("there is no such node")),
        });
        answer!(NodeCapabilities, "create-site", CreateSite, |site: CreateSite| Ok::<_, Problem>(SiteAdmitted {
            order: "1".to_owned(),
            name: site.name,
            minter: "http://hub:8083".to_owned(),
            hub: "nats://127.0.0.1:4222".to_owned(),
            root_key: "ssh-ed25519 AAAA".to_owned(),
            root_certificates: "-----BEGIN CERTIFICATE-----".to_owned(),
            certificate: site.certificate_request,
            repository: None,
        }));
        answer!(NodeCapabilities, "create-node", CreateNode, |node: CreateNode| Ok::<_, Problem>(NodeAdmitted {
            order: "1".to_owned(),
            name: node.name,
            root_certificates: "-----BEGIN CERTIFICATE-----".to_owned(),
        }));
        answer!(NodeCapabilities, "replace-site-key", ReplaceKeyRequest<SiteName, ReplaceSiteKey>, |order: ReplaceKeyRequest<
            SiteName,
            ReplaceSiteKey,
        >| Ok::<_, Problem>(SiteAdmitted {
            order: "1".to_owned(),
            name: order.name,
            minter: "http://hub:8083".to_owned(),
            hub: "nats://127.0.0.1:4222".to_owned(),
            root_key: "ssh-ed25519 AAAA".to_owned(),
            root_certificates: "-----BEGIN CERTIFICATE-----".to_owned(),
            certificate: order.replace.certificate_request,
            repository: None,
        }));
        answer!(NodeCapabilities, "replace-node-key", ReplaceKeyRequest<NodeId, ReplaceNodeKey>, |order: ReplaceKeyRequest<
            NodeId,
            ReplaceNodeKey,
        >| {
            let root_certificates = "-----BEGIN CERTIFICATE-----".to_owned();
            Ok::<_, Problem>(NodeAdmitted { order: "1".to_owned(), name: order.name, root_certificates })
        });
        answer!(NodeCapabilities, "revoke-site-key", RevokeKeyRequest<SiteName>, |order: RevokeKeyRequest<
            SiteName,
        >| {
            Ok::<_, Problem>(key_revoked(&order.name))
        });
        answer!(NodeCapabilities, "revoke-node-key", RevokeKeyRequest<NodeId>, |order: RevokeKeyRequest<NodeId>| {
            Ok::<_, Problem>(key_revoked(&order.name))
        });
        for service in services.values() {
            service.reachable().await;
        }
        Services { _endpoints: services.into_values().collect(), asked }
    }

    async fn stop(self) {
        self.gateway.stop().await;
    }
}

impl Services {
    fn last(&self) -> (String, serde_json::Value) {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

const PRESS: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";
const OVEN: &str = "9db79949-86fb-5e45-910d-8a83dd7391cd";

fn app() -> App {
    App {
        id: "hello".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        name: "Hello".to_owned(),
        profiles: Vec::new(),
        digest: margo::Digest::of(b"package"),
        added_by: "publisher".to_owned(),
        added_at: "2026-11-21T10:00:00Z".to_owned(),
    }
}

fn spec() -> serde_json::Value {
    serde_json::json!({
        "app": { "id": "hello", "version": "1.0.0" },
        "parameters": { "greeting": "Moin", "times": 3 },
        "targets": { "nodes": ["plant/press"] },
    })
}

fn assignment(name: &AssignmentName, revision: u64) -> Assignment {
    Assignment {
        name: name.clone(),
        revision,
        spec: serde_json::from_value(spec()).unwrap(),
        state: AssignmentState::Active,
        placement: Vec::new(),
    }
}

fn accepted(name: &AssignmentName, revision: u64) -> Accepted {
    Accepted { order: "0193".to_owned(), assignment: assignment(name, revision) }
}

fn desired(id: &str, node: &str, digest: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "id": id, "assignment": "hello", "node": node, "app": "hello", "version": "1.0.0", "profile": "wasm",
        "digest": digest, "revision": 1,
    })
}

/// What the node `plant/press` says of its deployment.
fn actual() -> serde_json::Value {
    serde_json::json!({
        "id": PRESS, "node": "plant/press", "digest": "sha256:a", "state": "installed", "components": [],
        "adoptedManifestVersion": 1, "reportedAt": "2026-11-21T10:00:00Z",
    })
}

/// A public NKey of a user; its seed is nobody's.
const KEY: &str = "UDLVVGABQKYQVN6VJP7NHSLEA45A5YLS6PNKMIZFV4BBU2HXA5IRUVAL";

fn identity() -> Identity {
    format!("nkey:{KEY}").parse().unwrap()
}

fn key_revoked(name: &impl ToString) -> KeyRevoked {
    KeyRevoked { order: "1".to_owned(), name: name.to_string(), former_keys: vec![identity()] }
}

/// Who asks, as the services were told.
fn who<T>(call: &Call<T>) -> &str {
    call.caller.as_ref().map_or("nobody", |caller| caller.name.as_str())
}

fn refusal(at: &str) -> Refusal {
    Refusal { subject: "desired.plant.head".to_owned(), reason: "forged".to_owned(), at: at.to_owned() }
}

fn site() -> Site {
    Site {
        name: "plant".parse().unwrap(),
        identity: Some(identity()),
        former_keys: Vec::new(),
        nodes: 1,
        login_expires: None,
        adopted_manifest_version: Some(1),
        last_seen: None,
        refusals: Vec::new(),
    }
}

fn node() -> Node {
    Node {
        name: "plant/press".parse().unwrap(),
        device_id: "plant/press".parse().unwrap(),
        identity: None,
        former_keys: vec![identity()],
        state: NodeState::Active,
        reachability: Reachability::Reachable,
        since: None,
        capabilities: None,
    }
}

async fn problem(response: Response, status: StatusCode) -> Problem {
    let (found, content_type) = (response.status(), response.headers()[header::CONTENT_TYPE].clone());
    let text = response.text().await.unwrap();
    assert_eq!((found, content_type.to_str().unwrap()), (status, PROBLEM), "{text}");
    let problem: Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(problem.status, status.as_u16());
    problem
}

/// Every route of the document: method, path with values in it, and the role it demands.
fn routes() -> Vec<(Method, String, Option<Role>)> {
    let document: serde_json::Value = serde_json::from_str(&api_gateway::openapi()).unwrap();
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1/").unwrap();
        let values =
            [("{id}", PRESS), ("{name}", "hello"), ("{site}", "plant"), ("{node}", "press"), ("{version}", "1")];
        let path = values.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
        for (method, operation) in operations.as_object().unwrap() {
            let role = operation["security"][0]["token"][0].as_str().map(|role| role.parse().unwrap());
            routes.push((method.to_uppercase().parse().unwrap(), path.clone(), role));
        }
    }
    routes
}

#[test]
fn the_document_is_as_it_was_reviewed() {
    let golden = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
    let text = api_gateway::openapi() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(golden.parent().unwrap()).unwrap();
        std::fs::write(&golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap(), "UPDATE_GOLDEN=1 writes docs/openapi.json anew");
    assert!(text.contains("\"openapi\": \"3.1."));
}

#[test]
fn each_operation_has_an_id_of_its_own() {
    let document: serde_json::Value = serde_json::from_str(&api_gateway::openapi()).unwrap();
    let items = document["paths"].as_object().unwrap().values();
    let operations = items.flat_map(|item| item.as_object().unwrap().values()).collect::<Vec<_>>();
    let ids = operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect::<BTreeSet<_>>();
    assert_eq!(ids.len(), operations.len(), "{ids:#?}");
}

#[test]
fn each_matter_has_its_role() {
    for (method, path, role) in routes() {
        let matter = path.split('/').next().unwrap();
        let wanted = match (&method, matter) {
            (_, "openapi.json") => None,
            _ if ["/ping", "/logs", "/restart", "/retry"].iter().any(|call| path.ends_with(call)) => {
                Some(Role::Deployer)
            }
            // The answer has a token that may outlive the caller's.
            _ if path.ends_with("/repository") => Some(Role::Supplier),
            (&Method::GET, _) => Some(Role::Viewer),
            (_, "apps") => Some(Role::Publisher),
            (_, "sites" | "nodes") => Some(Role::Supplier),
            (_, "assignments") => Some(Role::Deployer),
            _ => panic!("nobody has decided who may {method} {path}"),
        };
        assert_eq!(role, wanted, "{method} {path}");
    }
}

#[tokio::test]
async fn a_node_is_called_through_its_site_and_nobody_else_answers_for_it() {
    let world = World::start().await;
    let capabilities = world.server.connect_central(ServiceName::NodeCapabilities).await;
    let mut members = capabilities.register(ServiceName::NodeCapabilities, Arc::new(())).await.unwrap();
    let known = |_, call: Call<Targets>| async move {
        let nodes = call.body.nodes.into_iter().filter(|node| node.node.as_str() == "press");
        let member = |name: NodeId| Member { device_id: (&name).into(), name, state: NodeState::Active };
        Ok::<_, Problem>(Members { sites: Vec::new(), nodes: nodes.map(member).collect() })
    };
    members.verb("members", known).await.unwrap();
    members.reachable().await;
    let (plant, port) =
        (world.server.connect(&site_user("plant")).await, world.server.connect(&site_user("port")).await);
    let mut calls = plant.subscribe(Pattern::CallsOf("plant".parse().unwrap())).await.unwrap();
    let send = async |site: &Bus, name: &str, id: &CallId, number| {
        let part = Bytes::from(CallPart { number, last: true, ..CallPart::default() }.encode_to_vec());
        calls::pass_on(site, &Subject::SitePart(name.parse().unwrap(), id.clone()), part).await
    };
    // What is answered after it shows that the server knows of the subscription.
    assert_eq!(send(&plant, "plant", &CallId::random(), 0).await, CallPartOutcome::Unwanted);

    let ping = |node: &str| world.as_admin(Method::POST, &format!("nodes/plant/{node}/ping")).send();
    problem(ping("stranger").await.unwrap(), StatusCode::NOT_FOUND).await;

    let (answer, ()) = tokio::join!(ping("press"), async {
        let call = calls.next().await.unwrap();
        assert_eq!(call.subject.as_str(), "call.plant.press.ping");
        let id = calls::id_of(&call.payload).unwrap();
        assert_eq!(send(&port, "port", &id, 0).await, CallPartOutcome::Unwanted);
        assert_eq!(send(&plant, "plant", &id, 1).await, CallPartOutcome::Unwanted);
        assert_eq!(send(&plant, "plant", &id, 0).await, CallPartOutcome::Taken);
    });
    assert_eq!(answer.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn every_route_asks_for_a_token_and_its_role() {
    let world = World::start().await;
    let routes = routes();
    assert!(routes.len() >= 18, "{routes:#?}");
    for (method, path, demanded) in routes {
        let what = format!("{method} {path}");
        let request = || world.request(method.clone(), &path);
        let Some(demanded) = demanded else {
            assert_eq!(request().send().await.unwrap().status(), StatusCode::OK, "{what}");
            continue;
        };
        let without = request().send().await.unwrap();
        assert_eq!(without.headers()[header::WWW_AUTHENTICATE], "Bearer", "{what}");
        problem(without, StatusCode::UNAUTHORIZED).await;
        let unknown = request().bearer_auth(format!("ew_{}", "0".repeat(64))).send().await.unwrap();
        problem(unknown, StatusCode::UNAUTHORIZED).await;
        let basic = request().basic_auth("admin", Some(&world.tokens["admin"])).send().await.unwrap();
        problem(basic, StatusCode::UNAUTHORIZED).await;
        for role in Role::ALL {
            let response = request().bearer_auth(&world.tokens[&role.to_string()]).send().await.unwrap();
            let refused = response.status() == StatusCode::FORBIDDEN;
            let allowed = demanded == Role::Viewer || role == demanded || role == Role::Admin;
            assert_eq!(refused, !allowed, "{what} as {role}");
            assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{what} as {role}");
            if refused {
                let problem = problem(response, StatusCode::FORBIDDEN).await;
                assert!(problem.detail.unwrap().contains(&format!("role {demanded} or admin")), "{what} as {role}");
            }
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_token_counts_as_soon_as_it_is_in_the_file() {
    let world = World::start().await;
    let _services = world.services().await;
    let new = tokens::create(&world.folder.path().join("tokens.json"), "new", Role::Viewer).unwrap();
    let response = world.request(Method::GET, "sites").bearer_auth(new).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    world.stop().await;
}

#[tokio::test]
async fn each_route_asks_the_service_that_owns_the_matter_in_the_name_of_the_token() {
    let world = World::start().await;
    let services = world.services().await;
    let body = |mut body: serde_json::Value, name: &str| {
        body["name"] = name.into();
        body
    };
    let create = body(spec(), "hello");
    let site = serde_json::json!({ "name": "plant", "identity": { "nkey": KEY } });
    let node = serde_json::json!({ "name": "plant/press", "identity": { "nkey": KEY } });
    for (method, path, body, status, asked) in [
        (Method::GET, "apps", None, 200, "app-registry.list"),
        (Method::GET, "apps/hello/1.0.0", None, 200, "app-registry.get"),
        (Method::POST, "sites", Some(&site), 201, "node-capabilities.create-site"),
        (Method::GET, "sites", None, 200, "node-capabilities.sites"),
        (Method::POST, "nodes", Some(&node), 201, "node-capabilities.create-node"),
        (Method::GET, "nodes", None, 200, "node-capabilities.nodes"),
        (Method::GET, "nodes/plant/press", None, 200, "node-capabilities.node"),
        (Method::POST, "assignments", Some(&create), 202, "deployment-registry.create"),
        (Method::GET, "assignments", None, 200, "deployment-registry.list"),
        (Method::GET, "orders", None, 200, "deployment-registry.orders"),
        (Method::GET, &format!("deployments/{PRESS}/history"), None, 200, "status-collector.history"),
    ] {
        let mut request = world.as_admin(method.clone(), path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}: {:?}", response.text().await);
        let (subject, sent) = services.last();
        assert_eq!(subject, format!("svc.{asked} as admin"));
        if let Some(body) = body {
            assert_eq!(sent, *body);
        }
    }
    let unknown = world.as_admin(Method::GET, "nodes/plant/oven").send().await.unwrap();
    problem(unknown, StatusCode::NOT_FOUND).await;
    let sites: Vec<Site> = world.as_admin(Method::GET, "sites").send().await.unwrap().json().await.unwrap();
    assert_eq!(sites[0].login_expires.as_deref(), Some("2027-02-19T10:00:00Z"));
    world.stop().await;
}

#[tokio::test]
async fn the_path_says_whose_key_is_replaced_or_revoked() {
    let world = World::start().await;
    let services = world.services().await;
    let key = serde_json::json!({ "identity": { "nkey": KEY }, "reason": "lost" });
    for (path, kind, name) in [("sites/plant/key", "site", "plant"), ("nodes/plant/press/key", "node", "plant/press")] {
        let response = world.as_admin(Method::PUT, path).json(&key).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(response.json::<serde_json::Value>().await.unwrap()["name"], name);
        let subject = format!("svc.node-capabilities.replace-{kind}-key as admin");
        assert_eq!(services.last(), (subject, serde_json::json!({ "name": name, "replace": key })));

        let response = world.as_admin(Method::DELETE, &format!("{path}?reason=lost")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let former = serde_json::json!([{ "nkey": KEY }]);
        assert_eq!(response.json::<serde_json::Value>().await.unwrap()["formerKeys"], former);
        let subject = format!("svc.node-capabilities.revoke-{kind}-key as admin");
        assert_eq!(services.last(), (subject, serde_json::json!({ "name": name, "reason": "lost" })));

        let before = services.asked.lock().unwrap().len();
        for wrong in [serde_json::json!({ "identity": { "nkey": "SUSEED" } }), serde_json::json!({ "key": KEY })] {
            let response = world.as_admin(Method::PUT, path).json(&wrong).send().await.unwrap();
            let problem = problem(response, StatusCode::UNPROCESSABLE_ENTITY).await;
            assert!(!problem.to_string().contains("SUSEED"), "{problem}");
        }
        assert_eq!(services.asked.lock().unwrap().len(), before);
    }
    world.stop().await;
}

#[tokio::test]
async fn an_assignment_changes_only_at_the_revision_that_was_read() {
    let world = World::start().await;
    let services = world.services().await;
    let read = world.as_admin(Method::GET, "assignments/hello").send().await.unwrap();
    assert_eq!(read.headers()[header::ETAG], "\"3\"");
    for method in [Method::PUT, Method::DELETE] {
        let request = || world.as_admin(method.clone(), "assignments/hello").json(&spec());
        let before = services.asked.lock().unwrap().len();
        problem(request().send().await.unwrap(), StatusCode::PRECONDITION_REQUIRED).await;
        for malformed in ["3", "*", "W/\"3\"", "\"3\", \"4\"", "\"x\""] {
            let response = request().header(header::IF_MATCH, malformed).send().await.unwrap();
            problem(response, StatusCode::BAD_REQUEST).await;
        }
        assert_eq!(services.asked.lock().unwrap().len(), before, "{method} went on without a revision");

        let stale = request().header(header::IF_MATCH, "\"2\"").send().await.unwrap();
        let refusal = problem(stale, StatusCode::PRECONDITION_FAILED).await;
        assert_eq!(refusal.detail.as_deref(), Some("hello is at revision 3"));
        let response = request().header(header::IF_MATCH, "\"3\"").send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()[header::ETAG]),
            (StatusCode::ACCEPTED, &"\"4\"".parse().unwrap())
        );
    }
    let path = "assignments/hello?reason=too%20loud";
    world.as_admin(Method::DELETE, path).header(header::IF_MATCH, "\"3\"").send().await.unwrap();
    assert_eq!(services.last().1, serde_json::json!({ "name": "hello", "revision": 3, "reason": "too loud" }));
    world.stop().await;
}

#[tokio::test]
async fn a_bad_request_is_told_what_is_wrong_where() {
    let world = World::start().await;
    let services = world.services().await;
    let post = |body: &str| {
        let request = world.as_admin(Method::POST, "assignments").header(header::CONTENT_TYPE, "application/json");
        request.body(body.to_owned()).send()
    };
    for (body, field) in [
        (r#"{"name":"Hello","app":{"id":"hello","version":"1"},"targets":{}}"#, "name"),
        (r#"{"app":{"id":"hello","version":"1"},"targets":{}}"#, "name"),
        (r#"{"name":"hello","app":{"id":"He llo","version":"1"},"targets":{}}"#, "app.id"),
        (r#"{"name":"hello","app":{"id":"hello","version":"1"},"targets":{"nodes":["press"]}}"#, "targets.nodes[0]"),
        (r#"{"name":"hello","app":{"id":"hello","version":"1"},"targets":{},"paramaters":{}}"#, "paramaters"),
        (r#"{"name":"hello","app":{"id":"hello","version":"1"},"targets":{},"parameters":{"a":{}}}"#, "parameters.a"),
    ] {
        let problem = problem(post(body).await.unwrap(), StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(problem.errors[0].field, field, "{problem}");
    }
    let no_json = problem(post("{\"name\": ").await.unwrap(), StatusCode::BAD_REQUEST).await;
    assert!(no_json.detail.unwrap().contains("line 1 column"));
    let large = format!("{{\"reason\":\"{}\"}}", "x".repeat(1 << 20));
    problem(post(&large).await.unwrap(), StatusCode::PAYLOAD_TOO_LARGE).await;
    let text = world.as_admin(Method::POST, "assignments").body("name: hello").send().await.unwrap();
    problem(text, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    for path in ["deployments/not-a-uuid", "deployments?nod=plant/press", "assignments/a.b", "nodes/Plant/press"] {
        problem(world.as_admin(Method::GET, path).send().await.unwrap(), StatusCode::BAD_REQUEST).await;
    }
    for path in ["nothing", "../../", "assignments/a/b"] {
        problem(world.as_admin(Method::GET, path).send().await.unwrap(), StatusCode::NOT_FOUND).await;
    }
    let patch = world.as_admin(Method::PATCH, "assignments/hello").send().await.unwrap();
    assert_eq!(patch.headers()[header::ALLOW], "GET,HEAD,PUT,DELETE");
    problem(patch, StatusCode::METHOD_NOT_ALLOWED).await;
    assert!(services.asked.lock().unwrap().is_empty(), "a bad request went on");
    world.stop().await;
}

#[tokio::test]
async fn deployments_are_listed_as_wanted_and_as_they_are() {
    let world = World::start().await;
    let services = world.services().await;
    let list = async |query: &str| -> Vec<(String, String)> {
        let response = world.as_admin(Method::GET, &format!("deployments{query}")).send().await.unwrap();
        let list: Vec<serde_json::Value> = response.json().await.unwrap();
        let text = |it: &serde_json::Value| it.as_str().unwrap().to_owned();
        list.iter().map(|it| (text(&it["node"]), text(&it["state"]))).collect()
    };
    let press = ("plant/press".to_owned(), "installed".to_owned());
    let oven = ("bakery/oven".to_owned(), "pending".to_owned());
    assert_eq!(list("").await, [press.clone(), oven.clone()]);
    assert_eq!(list("?site=bakery").await, [oven]);
    assert_eq!(list("?node=plant/press&assignment=hello").await, [press]);
    assert_eq!(list("?assignment=other").await, []);
    // Whoever asks for one, or calls for its log, has nobody read all of them.
    services.asked.lock().unwrap().clear();
    let one = world.as_admin(Method::GET, &format!("deployments/{PRESS}")).send().await.unwrap();
    assert_eq!(one.json::<serde_json::Value>().await.unwrap()["actual"]["state"], "installed");
    let absent = "00000000-0000-0000-0000-000000000000";
    for (method, call) in
        [(Method::GET, ""), (Method::GET, "/logs"), (Method::POST, "/restart"), (Method::POST, "/retry")]
    {
        let request = world.as_admin(method.clone(), &format!("deployments/{absent}{call}"));
        let request = if call == "/restart" { request.json(&serde_json::json!({})) } else { request };
        problem(request.send().await.unwrap(), StatusCode::NOT_FOUND).await;
    }
    let asked = services.asked.lock().unwrap().clone();
    let verbs: Vec<_> = asked.iter().map(|(subject, _)| subject.split(' ').next().unwrap()).collect();
    let one = "svc.deployment-registry.deployment";
    assert_eq!(verbs, [one, "svc.status-collector.status", one, one, one, one]);
    world.stop().await;
}

#[tokio::test]
async fn the_status_names_what_answers_and_what_does_not() {
    let world = World::start().await;
    let status = async || -> PlatformStatus {
        world.as_admin(Method::GET, "status").send().await.unwrap().json().await.unwrap()
    };
    let alone = status().await;
    assert_eq!(alone.services.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["api-gateway"]);
    assert_eq!(alone.missing.len(), 7);
    assert_eq!((alone.sites, alone.nodes, alone.deployments, alone.dead_letters), (None, None, None, None));

    let _services = world.services().await;
    let whole = status().await;
    assert_eq!(whole.missing, Vec::<String>::new());
    assert_eq!((whole.sites, whole.nodes, whole.reachable), (Some(1), Some(1), Some(1)));
    assert_eq!((whole.deployments, whole.installed, whole.dead_letters), (Some(2), Some(1), Some(3)));
    let refused = ["2026-11-21T10:00:00Z", "2026-11-21T10:00:01Z", "2026-11-21T10:00:02Z"].map(refusal);
    assert_eq!(whole.refusals, refused);
    world.stop().await;
}

#[tokio::test]
async fn a_trace_continues_through_the_gateway() {
    let world = World::start().await;
    let registry = world.server.connect_central(ServiceName::AppRegistry).await;
    let mut service = registry.register(ServiceName::AppRegistry, std::sync::Arc::new(())).await.unwrap();
    let seen = async |_, _: Call<()>| -> Result<Vec<App>, Problem> {
        Err(Problem::conflict(bus::trace::current_id().unwrap_or_default()))
    };
    service.verb("list", seen).await.unwrap();
    service.reachable().await;

    let id = "0af7651916cd43dd8448eb211c80319c";
    let request = world.as_admin(Method::GET, "apps").header("traceparent", format!("00-{id}-b7ad6b7169203331-01"));
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["trace-id"], id);
    assert_eq!(problem(response, StatusCode::CONFLICT).await.detail.as_deref(), Some(id));

    let own = world.as_admin(Method::GET, "apps").send().await.unwrap();
    let (header, body) = (own.headers()["trace-id"].clone(), problem(own, StatusCode::CONFLICT).await);
    assert_eq!(header.to_str().unwrap(), body.detail.unwrap());
    world.stop().await;
}

#[tokio::test]
async fn without_the_bus_it_says_not_now_and_comes_back() {
    let mut world = World::start().await;
    world.server.kill().await;
    wait_for("the gateway to notice", async || if world.gateway.is_ready() { Err("still ready") } else { Ok(()) })
        .await;
    let refused = world.as_admin(Method::GET, "apps").send().await.unwrap();
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert!(problem(refused, StatusCode::SERVICE_UNAVAILABLE).await.retryable);
    world.server.restart().await;
    let _services = world.services().await;
    wait_for("the gateway to come back", async || {
        let status = world.as_admin(Method::GET, "apps").send().await.unwrap().status();
        if status == StatusCode::OK { Ok(()) } else { Err(status) }
    })
    .await;
    world.stop().await;
}

/// Where uploads go: counts what comes, and answers as app-registry does.
struct Receiver {
    url: String,
    received: Arc<Mutex<Vec<(HeaderMap, u64)>>>,
}

async fn receiver() -> Receiver {
    type Received = Arc<Mutex<Vec<(HeaderMap, u64)>>>;
    let received = Received::default();
    let take = async |State(received): State<Received>, headers: HeaderMap, body: Body| {
        let mut body = body.into_data_stream();
        let (mut length, mut whole) = (0, true);
        while let Some(chunk) = body.next().await {
            match chunk {
                Ok(chunk) => length += chunk.len() as u64,
                Err(_) => whole = false,
            }
        }
        received.lock().unwrap().push((headers, length));
        if !whole || length == 13 {
            let problem = Problem::invalid("the package is not valid", Vec::new());
            let body = serde_json::to_vec(&problem).unwrap();
            return (StatusCode::UNPROCESSABLE_ENTITY, [(header::CONTENT_TYPE, PROBLEM)], body);
        }
        (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], serde_json::to_vec(&app()).unwrap())
    };
    let router = Router::new().route("/uploads/1", put(take)).with_state(received.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/uploads/1", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    Receiver { url, received }
}

#[tokio::test]
async fn an_upload_streams_to_the_registry_and_its_answer_back() {
    let world = World::start().await;
    let receiver = receiver().await;
    let registry = world.server.connect_central(ServiceName::AppRegistry).await;
    let mut service = registry.register(ServiceName::AppRegistry, std::sync::Arc::new(())).await.unwrap();
    let url = receiver.url.clone();
    let ticket = move |_, call: Call<()>| {
        let ticket = UploadTicket { url: url.clone(), token: format!("for-{}", who(&call)) };
        async move { Ok::<_, Problem>(ticket) }
    };
    service.verb("upload", ticket).await.unwrap();
    service.reachable().await;
    let post = || {
        let request = world.request(Method::POST, "apps").bearer_auth(&world.tokens["publisher"]);
        request.header(header::CONTENT_TYPE, "application/x-tar")
    };

    // Without a length that is known before: 96 chunks of 1 MiB.
    let chunk = Bytes::from(vec![7; 1 << 20]);
    let chunks = stream::iter(vec![chunk; 96]).map(Ok::<_, std::io::Error>);
    let response = post().body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.json::<App>().await.unwrap(), app());
    let (headers, length) = receiver.received.lock().unwrap().pop().unwrap();
    assert_eq!(length, 96 << 20);
    assert_eq!(headers[header::AUTHORIZATION], "Bearer for-publisher");
    assert!(headers.contains_key("traceparent"));

    let refused = post().body("13 characters").send().await.unwrap();
    let refusal = problem(refused, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(refusal.detail.as_deref(), Some("the package is not valid"));
    assert_eq!(receiver.received.lock().unwrap().pop().unwrap().0[header::CONTENT_LENGTH], "13");

    // Only the head is sent: the refusal does not wait for the body.
    let token = &world.tokens["publisher"];
    let head = format!(
        "POST /api/v1/apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        (1u64 << 30) + 1
    );
    let address = (world.url.host_str().unwrap(), world.url.port().unwrap());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let json = world.as_admin(Method::POST, "apps").json(&spec()).send().await.unwrap();
    problem(json, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    assert!(receiver.received.lock().unwrap().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn an_upload_without_a_registry_is_refused_for_now() {
    let world = World::start().await;
    let request = world.as_admin(Method::POST, "apps").header(header::CONTENT_TYPE, "application/x-tar");
    problem(request.body("x").send().await.unwrap(), StatusCode::SERVICE_UNAVAILABLE).await;
    world.stop().await;
}

#[tokio::test]
async fn one_token_does_not_hold_all_places_for_uploads() {
    let world = World::start().await;
    let receiver = receiver().await;
    let registry = world.server.connect_central(ServiceName::AppRegistry).await;
    let mut service = registry.register(ServiceName::AppRegistry, std::sync::Arc::new(())).await.unwrap();
    let url = receiver.url.clone();
    let ticket = move |_, _: Call<()>| {
        let ticket = UploadTicket { url: url.clone(), token: "ticket".to_owned() };
        async move { Ok::<_, Problem>(ticket) }
    };
    service.verb("upload", ticket).await.unwrap();
    service.reachable().await;

    // Uploads that begin and do not go on.
    let token = &world.tokens["publisher"];
    let head = format!(
        "POST /api/v1/apps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\nx"
    );
    let mut held = Vec::new();
    let refused = wait_for("the token to have its share", async || {
        let mut stream = TcpStream::connect((world.url.host_str().unwrap(), world.url.port().unwrap())).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        match tokio::time::timeout(std::time::Duration::from_secs(1), stream.read_exact(&mut answer)).await {
            Ok(_) => Ok(String::from_utf8(answer).unwrap()),
            Err(_) => {
                held.push(stream);
                Err(held.len())
            }
        }
    })
    .await;
    assert_eq!((refused.as_str(), held.len()), ("HTTP/1.1 429", 4));
    let another = world.as_admin(Method::POST, "apps").header(header::CONTENT_TYPE, "application/x-tar");
    assert_eq!(another.body("x").send().await.unwrap().status(), StatusCode::CREATED);
    // What ends makes room.
    drop(held);
    wait_for("the token to have room again", async || {
        let again = world.request(Method::POST, "apps").bearer_auth(token);
        let answer = again.header(header::CONTENT_TYPE, "application/x-tar").body("x").send().await.unwrap();
        if answer.status() == StatusCode::CREATED { Ok(()) } else { Err(answer.status()) }
    })
    .await;
    world.stop().await;
}
