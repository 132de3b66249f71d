//! A hub and a site on real servers, with the users and permissions of production. The test plays the central services
//! and the nodes; the local orchestrator is the real one.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use api::{AdmittedNode, AdmittedNodes, SiteStatus, StoreAccess};
use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    message::StreamMessage,
};
use bus::{Bus, Login, Outgoing, Pattern, ServiceEndpoints, ServiceName, SiteVerb, Subject, User, proto, streams};
use identity::nats::{generate, public_key};
use local_orchestrator::{Config, Road};
use margo::{ClientName, NodeId};
use prost::Message as _;
use service::Base;
use tempfile::TempDir;
use testkit::{NatsServer, Proxy, Running, connect, start_traces, wait_for};
use tokio::net::TcpListener;

use crate::fleet::Fleet;

pub const TOKEN: &str = "status-token";

pub fn plant() -> ClientName {
    "plant".parse().unwrap()
}

pub fn node(name: &str) -> NodeId {
    NodeId::new(plant(), name.parse().unwrap())
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
    pub observer: Bus,
    pub collector: Bus,
    /// The site's server, as the LO.
    pub at_site: Bus,
    pub admitted: Arc<Mutex<Vec<AdmittedNode>>>,
    pub resyncs: Arc<AtomicU64>,
    pub unreachable_after: Duration,
    pub otlp_endpoint: Option<String>,
    /// Makes the roads at each start; `None` stands for the road of the bus.
    pub roads: Option<MakeRoads>,
    capabilities: Bus,
    address: Option<SocketAddr>,
    running: Option<Running>,
    _services: Vec<ServiceEndpoints<()>>,
}

impl World {
    /// Everything but the local orchestrator runs.
    pub async fn new() -> Self {
        start_traces();
        let central = [
            ServiceName::GitObserver,
            ServiceName::StatusCollector,
            ServiceName::NodeCapabilities,
            ServiceName::AppRegistry,
        ];
        let mut roles: Vec<_> = central.into_iter().map(User::Central).collect();
        roles.push(User::Site(plant()));
        let hub = NatsServer::start(&roles).await;
        let site = NatsServer::start(&[User::LocalOrchestrator(plant()), User::OciFetcher(plant())]).await;
        let line = Proxy::start(&hub.url()).await;
        let [observer, collector, capabilities, apps] = {
            let [a, b, c, d] = central.map(|service| hub.connect_central(service));
            [a.await, b.await, c.await, d.await]
        };
        let at_site = site.connect(&User::LocalOrchestrator(plant())).await;
        collector.jetstream().create_stream(streams::events_at_hub()).await.unwrap();
        make_state(&collector).await;
        make_desired(&observer).await;

        let admitted: Arc<Mutex<Vec<AdmittedNode>>> = Arc::default();
        let resyncs: Arc<AtomicU64> = Arc::default();
        let mut services = Vec::new();
        let mut service = observer.register(ServiceName::GitObserver, std::sync::Arc::new(())).await.unwrap();
        let (asking, counting) = (observer.clone(), resyncs.clone());
        let resync = move |_, _: bus::Call<()>| {
            let (observer, resyncs) = (asking.clone(), counting.clone());
            async move {
                resyncs.fetch_add(1, Ordering::SeqCst);
                make_consumer(&observer).await;
                Ok(())
            }
        };
        service.answer("resync", Pattern::Sites(SiteVerb::Resync), resync).await.unwrap();
        service.reachable().await;
        services.push(service);
        let mut service = capabilities.register(ServiceName::NodeCapabilities, std::sync::Arc::new(())).await.unwrap();
        let nodes = admitted.clone();
        let list = move |_, _: bus::Call<()>| {
            let nodes = nodes.lock().unwrap().clone();
            async move { Ok(AdmittedNodes { nodes }) }
        };
        service.answer("nodes", Pattern::Sites(SiteVerb::Nodes), list).await.unwrap();
        service.reachable().await;
        services.push(service);
        let mut service = apps.register(ServiceName::AppRegistry, std::sync::Arc::new(())).await.unwrap();
        let store = async |_, _: bus::Call<()>| Ok(StoreAccess { url: "http://store".into(), token: "secret".into() });
        service.answer("store", Pattern::Sites(SiteVerb::Store), store).await.unwrap();
        service.reachable().await;
        services.push(service);

        Self {
            hub,
            site,
            line,
            data: TempDir::new().unwrap(),
            fleet: Fleet::new("plant"),
            observer,
            collector,
            at_site,
            admitted,
            resyncs,
            unreachable_after: Duration::from_secs(15),
            otlp_endpoint: None,
            roads: None,
            capabilities,
            address: None,
            running: None,
            _services: services,
        }
    }

    /// The same with a running local orchestrator.
    pub async fn started() -> Self {
        let mut world = Self::new().await;
        world.start().await;
        world
    }

    fn config(&self, base: Base) -> Config {
        let own_users = [User::LocalOrchestrator(plant()), User::OciFetcher(plant())]
            .map(|role| (role.clone(), public_key(&self.site.login(&role).seed).unwrap()));
        Config {
            base,
            hub: Login { url: self.line.url(), ..self.hub.login(&User::Site(plant())) },
            reloader: self.site.login(&User::Reloader),
            site: "plant".parse().unwrap(),
            users_file: self.site.users_file(),
            own_users: own_users.to_vec(),
            data: self.data_folder(),
            root_key: self.fleet.root.public().to_string(),
            listen: ([127, 0, 0, 1], 0).into(),
            tls: None,
            status_token: TOKEN.to_owned(),
            artifacts_url: "http://artifacts".to_owned(),
            artifacts_token: "artifacts-token".to_owned(),
            unreachable_after: self.unreachable_after,
            otlp_endpoint: self.otlp_endpoint.clone(),
        }
    }

    /// Starts the local orchestrator and waits until it is ready.
    pub async fn start(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.address = Some(listener.local_addr().unwrap());
        let login = self.site.login(&User::LocalOrchestrator(plant()));
        let running = Running::start(ServiceName::LocalOrchestrator, login, |base, stop| {
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

    /// Publishes a batch as git-observer.
    pub async fn publish(&self, messages: Vec<Outgoing>) {
        self.observer.publish_batch(messages).await.unwrap();
    }

    /// One order, published: this node runs this document, or nothing.
    pub async fn order(&mut self, node: &str, document: Option<&str>) {
        let changed = self.fleet.order(node, document);
        self.publish(vec![changed, self.fleet.head()]).await;
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
        let url = format!("http://{}/api/v1/status", self.address.expect("it was started"));
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

    /// Makes a node's credentials, and has the hub admit it.
    pub async fn admit(&self, name: &str) -> Login {
        let (seed, key) = generate();
        let id = node(name);
        self.admitted
            .lock()
            .unwrap()
            .push(AdmittedNode { name: id.node.clone(), identity: margo::Identity::Nkey(key) });
        let signal = Subject::Call(id.clone(), bus::CallVerb::Admit);
        self.capabilities.signal(&signal, "".into()).await.unwrap();
        self.capabilities.client().flush().await.unwrap();
        Login { seed, user: User::Node(id), ..self.site.login(&User::Reloader) }
    }

    /// An admitted, connected and registered node.
    pub async fn node(&self, name: &str) -> Node {
        let node = Node::connect(name, &self.admit(name).await).await;
        node.registered(0).await;
        node
    }
}

pub async fn make_consumer(observer: &Bus) {
    let stream = observer.jetstream().get_stream_no_info(streams::DESIRED).await.unwrap();
    let _ = stream.delete_consumer("plant").await;
    let config = pull::Config {
        durable_name: Some("plant".to_owned()),
        filter_subject: Pattern::DesiredOf(plant()).to_string(),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap();
}

/// DESIRED with the site's consumer, as git-observer makes it.
pub async fn make_desired(observer: &Bus) {
    observer.jetstream().create_stream(streams::desired(Pattern::Desired)).await.unwrap();
    make_consumer(observer).await;
}

/// STATE, as status-collector makes it.
pub async fn make_state(collector: &Bus) {
    collector.jetstream().create_stream(streams::state(Pattern::State)).await.unwrap();
}

/// A node at the site.
pub struct Node {
    pub id: NodeId,
    pub bus: Bus,
}

impl Node {
    pub async fn connect(name: &str, endpoint: &Login) -> Self {
        Self { id: node(name), bus: connect(endpoint).await }
    }

    pub async fn register(&self, incarnation: u64) -> Result<proto::RegisterAnswer, api::Problem> {
        let body = proto::RegisterRequest { incarnation }.encode_to_vec();
        let answer = self.bus.request(&Subject::Register(self.id.clone()), Default::default(), body.into()).await?;
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

    pub async fn report(&self, report: &proto::ReportRequest) -> proto::ReportAnswer {
        self.report_bytes(report.encode_to_vec()).await
    }

    pub async fn report_bytes(&self, body: Vec<u8>) -> proto::ReportAnswer {
        let answer = self.bus.request(&Subject::Report(self.id.clone()), Default::default(), body.into()).await;
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
        events: Some(proto::NodeEvents { incarnation, sequence, transitions: vec![transition], lost: 0 }),
        ..Default::default()
    }
}
