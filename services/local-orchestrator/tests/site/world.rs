//! A hub and a site on real servers, with the users and permissions of production. The test plays the central services
//! and the nodes; the local orchestrator is the real one.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{Member, Members, NodeState, SiteStatus, StoreAccess, Targets};
use async_nats::jetstream::message::StreamMessage;
use bus::{
    Bus, Call, Front, Jwt, Login, NodeVerb, Pattern, ServiceEndpoints, ServiceName, SiteVerb, Subject, User, proto,
    streams,
};
use identity::nats::{generate, public_key};
use local_orchestrator::{Config, Road};
use margo::{ClientName, NodeId, NodeName, UserNkey};
use prost::Message as _;
use service::Base;
use store::Location;
use tempfile::TempDir;
use testkit::{NatsServer, Proxy, Running, connect, start_traces, wait_for};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::{fleet::Fleet, observer::Observer};

/// What the tokens for artifacts are derived with.
pub const ARTIFACTS_SECRET: &str = "artifacts-secret";

pub const TOKEN: &str = "status-token";

pub fn plant() -> ClientName {
    "plant".parse().unwrap()
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(plant(), name.parse().unwrap())
}

/// The site's own services at its server.
fn own_users() -> [User; 3] {
    [User::LocalOrchestrator(plant()), User::LocalFront(plant()), User::OciFetcher(plant())]
}

/// Answers a request of sites in the place of a central service.
async fn answer<R, F, Fut>(hub: &NatsServer, service: ServiceName, verb: SiteVerb, handler: F) -> AbortOnDropHandle<()>
where
    R: serde::Serialize + Send + 'static,
    F: Fn(Arc<()>, bus::Call<()>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, api::Problem>> + Send + 'static,
{
    let front = Front::connect(&hub.login(&User::Front(service)), |_| {}).await.unwrap();
    let answers = front.answer(Pattern::Sites(verb), Arc::new(()), handler).await.unwrap();
    front.reachable().await;
    answers
}

/// The last message of a subject.
pub async fn last(bus: &Bus, stream: &str, subject: &Subject) -> Option<StreamMessage> {
    let stream = bus.jetstream().get_stream_no_info(stream).await.unwrap();
    stream.direct_get_last_for_subject(subject.to_string()).await.ok()
}

/// Makes the roads of a local orchestrator that does not take the bus.
pub type MakeRoads = Box<dyn Fn() -> Vec<Box<dyn Road>> + Send>;

pub struct World {
    pub hub: NatsServer,
    pub site: NatsServer,
    /// The line from the site to the hub.
    pub line: Proxy,
    pub data: TempDir,
    pub fleet: Fleet,
    pub observer: Observer,
    pub collector: Bus,
    /// The site's server, as the LO.
    pub at_site: Bus,
    /// Nodes that the hub does not know yet, although they are admitted at the site.
    pub strangers: Arc<Mutex<BTreeSet<NodeName>>>,
    pub unreachable_after: Duration,
    pub otlp_endpoint: Option<String>,
    /// Makes the roads at each start; `None` stands for the road of the bus.
    pub roads: Option<MakeRoads>,
    running: Option<Running>,
    /// status-collector, which stores what the site reports.
    _storing: Running,
    _members: ServiceEndpoints<Mutex<BTreeSet<NodeName>>>,
    _store: AbortOnDropHandle<()>,
}

impl World {
    /// Everything but the local orchestrator runs.
    pub async fn new() -> Self {
        start_traces();
        let central = [ServiceName::GitObserver, ServiceName::StatusCollector, ServiceName::NodeCapabilities];
        let mut roles: Vec<_> = central.into_iter().map(User::Central).collect();
        roles.extend(
            [ServiceName::GitObserver, ServiceName::AppRegistry, ServiceName::StatusCollector].map(User::Front),
        );
        roles.push(User::Site(plant()));
        let hub = NatsServer::start(&roles).await;
        let site = NatsServer::start(&own_users()).await;
        let line = Proxy::start(&hub.url()).await;
        let collector = hub.connect_central(ServiceName::StatusCollector).await;
        let observer = Observer::start(&hub).await;
        let at_site = site.connect(&User::LocalOrchestrator(plant())).await;
        let strangers: Arc<Mutex<BTreeSet<NodeName>>> = Arc::default();
        let capabilities = hub.connect_central(ServiceName::NodeCapabilities).await;
        let members = answer_members(&capabilities, strangers.clone()).await;
        let data = TempDir::new().unwrap();
        let storing = start_storing(&hub, &data);
        storing.ready().await;
        let store = async |_, _: bus::Call<()>| Ok(StoreAccess { url: "http://store".into(), token: "secret".into() });
        let store = answer(&hub, ServiceName::AppRegistry, SiteVerb::Store, store).await;

        Self {
            hub,
            site,
            line,
            data,
            fleet: Fleet::new("plant"),
            observer,
            collector,
            at_site,
            strangers,
            unreachable_after: Duration::from_secs(15),
            otlp_endpoint: None,
            roads: None,
            running: None,
            _storing: storing,
            _members: members,
            _store: store,
        }
    }

    /// The same with a running local orchestrator.
    pub async fn started() -> Self {
        let mut world = Self::new().await;
        world.start().await;
        world
    }

    fn config(&self, base: Base) -> Config {
        let services = own_users().map(|role| public_key(&self.site.login(&role).seed).unwrap());
        Config {
            base,
            hub: Login { url: self.line.url(), ..self.hub.login(&User::Site(plant())) },
            hub_minter: "http://hub".to_owned(),
            hub_minter_tls: None,
            minter: self.site.login(&User::Minter),
            authority: self.site.authority(),
            services: services.into(),
            site: "plant".parse().unwrap(),
            data: self.data_folder(),
            root_key: self.fleet.root.public().to_string(),
            listen: self.address(),
            tls: None,
            status_token: TOKEN.to_owned(),
            artifacts_url: "http://artifacts".to_owned(),
            artifacts_secret: ARTIFACTS_SECRET.to_owned(),
            unreachable_after: self.unreachable_after,
            otlp_endpoint: self.otlp_endpoint.clone(),
        }
    }

    /// Where the local orchestrator listens. Nodes know the address, so it stays.
    fn address(&self) -> SocketAddr {
        (self.site.address(), 8083).into()
    }

    /// Starts the local orchestrator and waits until it is ready.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind(self.address()).await.unwrap();
        let login = self.site.login(&User::LocalOrchestrator(plant()));
        let front = self.site.login(&User::LocalFront(plant()));
        let running = Running::start_with_front(ServiceName::LocalOrchestrator, login, front, |base, stop| {
            let (config, roads) = (self.config(base), self.roads.as_ref().map(|make| make()));
            async move {
                match roads {
                    None => local_orchestrator::run_on(listener, config, stop).await,
                    Some(roads) => local_orchestrator::run_by(roads, listener, config, stop).await,
                }
            }
        });
        running.ready().await;
        self.running = Some(running);
    }

    /// Ends the local orchestrator without warning.
    pub async fn kill(&mut self) {
        self.running.take().expect("it runs").kill().await;
    }

    /// Ends the local orchestrator as SIGTERM does.
    pub async fn stop(&mut self) {
        self.running.take().expect("it runs").stop().await;
    }

    pub fn data_folder(&self) -> PathBuf {
        self.data.path().join("local-orchestrator")
    }

    pub fn lose_disk(&self) {
        std::fs::remove_dir_all(self.data_folder()).unwrap();
    }

    /// The hub has this head, and a commit with the files of this fleet.
    pub async fn publish(&self, fleet: &Fleet, head: &proto::DesiredHead) {
        self.observer.tell(fleet, head, "").await;
    }

    /// One order: this node runs this document, or nothing.
    pub async fn order(&mut self, node: &str, document: Option<&str>) {
        self.fleet.order(node, document);
        self.publish(&self.fleet, &self.fleet.head_parts()).await;
    }

    /// The site's status over HTTP. While its server does not answer in time, as on a machine that is busy with other
    /// tests, the site says so, and is asked again.
    pub async fn status(&self) -> SiteStatus {
        wait_for("the site's status", async || {
            let answer = self.get_status(Some(TOKEN)).await;
            if answer.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE {
                return Err(answer.text().await);
            }
            Ok(answer.error_for_status().unwrap().json().await.unwrap())
        })
        .await
    }

    pub async fn get_status(&self, token: Option<&str>) -> reqwest::Response {
        let url = format!("{}/api/v1/status", self.minter_url());
        let request = reqwest::Client::new().get(url);
        token.into_iter().fold(request, |request, token| request.bearer_auth(token)).send().await.unwrap()
    }

    /// Waits until this version is in force and the site's nodes can read it.
    pub async fn adopted(&self, version: u64) {
        wait_for("a version to be adopted", async || {
            let status = self.status().await;
            let head = last(&self.at_site, streams::DESIRED, &Subject::DesiredHead(plant())).await;
            let head = head.and_then(|message| bus::decode::<proto::DesiredHead>(&message.payload).ok());
            let readable = head.and_then(|it| margo::Head::parse(&it.head).ok()).map(|head| head.version.get());
            if status.manifest_version == Some(version) && readable == Some(version) {
                Ok(())
            } else {
                Err((status, readable))
            }
        })
        .await;
    }

    /// Waits until a refusal of this subject names this reason.
    pub async fn refused(&self, subject: &str, reason: &str) {
        wait_for("a refusal", async || {
            let refusals = self.status().await.refusals;
            let named = refusals.iter().any(|it| it.subject == subject && it.reason.contains(reason));
            if named { Ok(()) } else { Err(refusals) }
        })
        .await;
    }

    /// What a node would read at the site.
    pub async fn desired(&self, name: &str) -> Option<proto::DesiredNode> {
        let message = last(&self.at_site, streams::DESIRED, &Subject::DesiredNode(node(name))).await?;
        Some(bus::decode(&message.payload).unwrap())
    }

    /// The document that a node would run.
    pub async fn document(&self, name: &str) -> Option<String> {
        let desired = self.desired(name).await?;
        Some(String::from_utf8(desired.deployments.first()?.document.to_vec()).unwrap())
    }

    /// Makes a node's credentials, admits it by the next version, and asks for its JWT at the site until there is one.
    pub async fn admit(&mut self, name: &str) -> Login {
        let (seed, key) = generate();
        self.fleet.admit(name, key.clone());
        self.publish(&self.fleet, &self.fleet.head_parts()).await;
        let jwt = wait_for("the site to admit a node", async || self.jwt(&key).await).await;
        Login { url: self.site.url(), tls: None, seed, jwt: Jwt::Text(jwt), user: User::Node(node(name)) }
    }

    /// What the site says to whoever asks for the JWT of a key: the JWT, or the status of the refusal.
    pub async fn jwt(&self, key: &UserNkey) -> Result<String, u16> {
        let answer = reqwest::get(format!("{}/v1/jwt/{key}", self.minter_url())).await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        if status == 200 { Ok(text) } else { Err(status) }
    }

    /// Where the nodes of the site get their logins.
    pub fn minter_url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// An admitted, connected and registered node.
    pub async fn node(&mut self, name: &str) -> Node {
        let node = Node::connect(name, &self.admit(name).await).await;
        node.registered(0).await;
        node
    }
}

/// The real status-collector.
pub fn start_storing(hub: &NatsServer, data: &TempDir) -> Running {
    let (back, front) = (User::Central(ServiceName::StatusCollector), User::Front(ServiceName::StatusCollector));
    let database = Location::File(data.path().join("status-collector.sqlite"));
    let (back, front) = (hub.login(&back), hub.login(&front));
    Running::start_with_front(ServiceName::StatusCollector, back, front, |base, stop| {
        status_collector::run(status_collector::Config { base, database }, stop)
    })
}

/// Answers status-collector in the place of node-capabilities: every node exists, except strangers.
async fn answer_members(
    capabilities: &Bus,
    strangers: Arc<Mutex<BTreeSet<NodeName>>>,
) -> ServiceEndpoints<Mutex<BTreeSet<NodeName>>> {
    let mut endpoints = capabilities.register(ServiceName::NodeCapabilities, strangers).await.unwrap();
    let members = async |strangers: Arc<Mutex<BTreeSet<NodeName>>>, call: Call<Targets>| {
        let strangers = strangers.lock().unwrap();
        let known = call.body.nodes.into_iter().filter(|node| !strangers.contains(&node.node));
        let member = |name: NodeId| Member { device_id: (&name).into(), name, state: NodeState::Active };
        Ok(Members { sites: vec![], nodes: known.map(member).collect() })
    };
    endpoints.verb("members", members).await.unwrap();
    endpoints.reachable().await;
    endpoints
}

/// A node at the site.
pub struct Node {
    pub id: NodeId,
    pub login: Login,
    pub bus: Bus,
}

impl Node {
    pub async fn connect(name: &str, login: &Login) -> Self {
        Self { id: node(name), login: login.clone(), bus: connect(login).await }
    }

    pub async fn register(&self, incarnation: u64) -> Result<proto::RegisterAnswer, api::Problem> {
        self.register_after(incarnation, 0).await
    }

    /// Registers as a node whose last report had this sequence.
    pub async fn register_after(&self, incarnation: u64, sequence: u64) -> Result<proto::RegisterAnswer, api::Problem> {
        let body = proto::RegisterRequest { incarnation, sequence }.encode_to_vec();
        let answer = self
            .bus
            .request(&Subject::Node(self.id.clone(), NodeVerb::Register), Default::default(), body.into())
            .await?;
        Ok(proto::RegisterAnswer::decode(answer.payload).unwrap())
    }

    /// Registers until the site is ready; gives the incarnation.
    pub async fn registered(&self, incarnation: u64) -> u64 {
        wait_for("a node to be registered", async || match self.register(incarnation).await {
            Ok(answer) if answer.incarnation > 0 => Ok(answer.incarnation),
            other => Err(other),
        })
        .await
    }

    /// What the site answers when the node asks what it shall run, and has this version.
    pub async fn desired(&self, held: u64) -> proto::NodeDesiredAnswer {
        let ask = proto::NodeDesiredAsk { protocol: 1, held }.encode_to_vec();
        let subject = Subject::Node(self.id.clone(), NodeVerb::Desired);
        let answer = self.bus.request(&subject, Default::default(), ask.into()).await.unwrap();
        proto::NodeDesiredAnswer::decode(answer.payload).unwrap()
    }

    pub async fn report(&self, report: &proto::ReportRequest) -> proto::ReportAnswer {
        self.report_bytes(report.encode_to_vec()).await
    }

    pub async fn report_bytes(&self, body: Vec<u8>) -> proto::ReportAnswer {
        let answer =
            self.bus.request(&Subject::Node(self.id.clone(), NodeVerb::Report), Default::default(), body.into()).await;
        proto::ReportAnswer::decode(answer.unwrap().payload).unwrap()
    }
}

/// A report with one installed deployment and one transition.
pub fn report(incarnation: u64, sequence: u64) -> proto::ReportRequest {
    let id = crate::fleet::deployment().to_string();
    let digest = margo::Digest::of(b"document").to_string();
    let installed = proto::State::Installed.into();
    let deployment =
        proto::DeploymentStatus { id: id.clone(), digest: digest.clone(), state: installed, ..Default::default() };
    let transition =
        proto::Transition { number: sequence, deployment: id, digest, state: installed, ..Default::default() };
    proto::ReportRequest {
        status: Some(proto::NodeStatus { incarnation, sequence, deployments: vec![deployment], ..Default::default() }),
        events: Some(proto::NodeEvents { incarnation, sequence, transitions: vec![transition], ..Default::default() }),
        ..Default::default()
    }
}
