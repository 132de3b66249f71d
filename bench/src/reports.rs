//! A thousand simulated LOs report to a hub that syncs always: `reports_per_second`.
//!
//! Each LO has its own credentials and connection, and asks as the relay of local-orchestrator does: for a window of
//! transitions and last values to be stored, again after a growing pause when it was not answered. And one that floods
//! beside two hundred that do not: `flooded_report_p99_ms`. All that knows the way of a report up stands in this file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use api::{Member, Members, NodeState, Targets};
use async_nats::HeaderMap;
use bus::{
    Bus, Call, Outgoing, ServiceEndpoints, ServiceName, SiteVerb, Subject, User, proto,
    report::{self, PROTOCOL},
    streams,
};
use bytes::Bytes;
use margo::{ClientName, DeploymentId, Digest, NodeId, TenantName};
use process::Backoff;
use prost::Message;
use service::{Base, Health};
use status_collector::Config;
use store::Location;
use tempfile::TempDir;
use testkit::NatsServer;
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Effort, Samples,
    figure::{Better, percentile},
};

/// Nodes of each LO: its window holds the report of each of them.
const NODES: usize = 10;

/// Sites of the reference. Their rate does not depend on how many they are, and a thousand would take most of the time.
const REFERENCE_SITES: usize = 200;

/// A server takes 50 atomic batches of a stream at a time, and refuses what comes beyond.
const OPEN_BATCHES: usize = 40;

/// How long the reports of one run may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn front() -> User {
    User::Front(ServiceName::StatusCollector)
}

fn collector() -> User {
    User::Central(ServiceName::StatusCollector)
}

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let clients = (0..effort.of(50, 1_000, 1_000)).map(|number| format!("site-{number}").parse());
    let clients: Vec<ClientName> = clients.collect::<Result<_, _>>().context("the names of the sites")?;
    let hub = Hub::start(&clients).await?;
    let raw = Raw::start(&clients[..effort.of(10, REFERENCE_SITES, REFERENCE_SITES)]).await?;
    let mut samples = Samples::new("reports_per_second");
    let reports = clients.len() * NODES;
    // The first run makes the rows that the others replace; it is not counted.
    for run in 0..=effort.of(1, 5, 10) {
        let sequence = run as u64 + 1;
        let windows: Vec<_> =
            hub.sites.iter().map(|site| (site.clone(), window(&site.client, NODES, sequence))).collect();
        let begin = Instant::now();
        hub.report(windows).await?;
        let took = begin.elapsed();
        let reference = raw.publish(sequence).await?;
        if run > 0 {
            samples.values.push(reports as f64 / took.as_secs_f64());
            samples.references.push((raw.sites.len() * NODES) as f64 / reference.as_secs_f64());
        }
    }
    hub.stop(reports).await?;
    Ok(vec![samples])
}

/// A simulated LO: nothing but its connection to the hub, with the permissions of a site.
struct Site {
    client: ClientName,
    bus: Bus,
}

/// A hub's NATS server with the status-collector, and the LOs that report to it.
struct Hub {
    sites: Vec<Arc<Site>>,
    collector: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
    /// Another connection of the collector's user, to see how far the collector is.
    observer: Bus,
    gateway: Bus,
    _members: ServiceEndpoints<()>,
    _server: NatsServer,
    _folder: TempDir,
}

/// What one LO asks to have stored in one run.
pub fn window(client: &ClientName, nodes: usize, sequence: u64) -> proto::Window {
    let nodes: Vec<_> = (0..nodes).map(|number| node(client, number)).collect();
    let messages =
        nodes.iter().map(|node| events(node, sequence)).chain(nodes.iter().map(|node| status(node, sequence)));
    let wrapped = messages.filter_map(|it| report::wrap(&it.subject, it.payload, String::new()));
    proto::Window {
        protocol: PROTOCOL,
        session: "bench".to_owned(),
        number: sequence,
        messages: wrapped.collect(),
        ..proto::Window::default()
    }
}

impl Hub {
    async fn start(clients: &[ClientName]) -> anyhow::Result<Self> {
        let gateway = User::Central(ServiceName::ApiGateway);
        let mut users = vec![collector(), front(), User::Central(ServiceName::NodeCapabilities), gateway.clone()];
        users.extend(clients.iter().cloned().map(User::Site));
        let server = NatsServer::start(&users).await;
        let members = answer_members(&server).await?;
        let folder = TempDir::new().context("a folder for the status-collector")?;
        let health = Health::default();
        let shutdown = CancellationToken::new();
        let config = Config {
            base: Base {
                bus: server.login(&collector()),
                front: Some(server.login(&front())),
                readiness: health.service(ServiceName::StatusCollector),
                tenant: TenantName::default(),
            },
            database: Location::File(folder.path().join("status-collector.sqlite")),
        };
        let task = tokio::spawn(status_collector::run(config, shutdown.clone()));
        let begin = Instant::now();
        while !health.is_ready() {
            ensure!(begin.elapsed() < PATIENCE, "status-collector is not ready after {PATIENCE:?}");
            sleep(Duration::from_millis(10)).await;
        }
        let mut sites = Vec::new();
        for client in clients {
            let bus = Bus::connect(&server.login(&User::Site(client.clone()))).await?;
            bus.connected().await;
            sites.push(Arc::new(Site { client: client.clone(), bus }));
        }
        let observer = Bus::connect(&server.login(&collector())).await?;
        let gateway = Bus::connect(&server.login(&gateway)).await?;
        Ok(Self {
            sites,
            collector: task,
            shutdown,
            observer,
            gateway,
            _members: members,
            _server: server,
            _folder: folder,
        })
    }

    /// All LOs ask at the same time. Returns when the status-collector has stored everything.
    async fn report(&self, windows: Vec<(Arc<Site>, proto::Window)>) -> anyhow::Result<()> {
        let mut sites = JoinSet::new();
        for (site, window) in windows {
            sites.spawn(async move { relay(&site.bus, &site.client, &window).await });
        }
        while let Some(ended) = sites.join_next().await {
            ended.context("a simulated LO died")??;
        }
        let begin = Instant::now();
        loop {
            let mut waiting = 0;
            for stream in [streams::STATE, streams::EVENTS] {
                let stream = self.observer.jetstream().get_stream_no_info(stream).await?;
                let consumer = stream.consumer_info(ServiceName::StatusCollector.as_str()).await?;
                // It acknowledges what its database holds, and nothing else.
                waiting += consumer.num_pending + consumer.num_ack_pending as u64;
            }
            if waiting == 0 {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{waiting} messages are not stored after {PATIENCE:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks that the database holds what was reported, and ends the service.
    async fn stop(self, reports: usize) -> anyhow::Result<()> {
        let list = Subject::service(ServiceName::StatusCollector, "list");
        let stored: Vec<serde_json::Value> =
            self.gateway.call(&list, &(), None).await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        ensure!(stored.len() == reports, "the database holds {} deployments, not {reports}", stored.len());
        self.shutdown.cancel();
        self.collector.await.context("status-collector died")?
    }
}

/// Answers the status-collector in the place of node-capabilities: every node exists.
async fn answer_members(server: &NatsServer) -> anyhow::Result<ServiceEndpoints<()>> {
    let bus = Bus::connect(&server.login(&User::Central(ServiceName::NodeCapabilities))).await?;
    bus.connected().await;
    let mut endpoints = bus.register(ServiceName::NodeCapabilities, Arc::new(())).await?;
    let members = async |_: Arc<()>, call: Call<Targets>| {
        let member = |name: NodeId| Member { device_id: (&name).into(), name, state: NodeState::Active };
        Ok(Members { sites: Vec::new(), nodes: call.body.nodes.into_iter().map(member).collect() })
    };
    endpoints.verb("members", members).await?;
    endpoints.reachable().await;
    Ok(endpoints)
}

/// One window, as the relay sends it: the same again after a pause when it was not answered.
pub async fn relay(bus: &Bus, client: &ClientName, window: &proto::Window) -> anyhow::Result<()> {
    let subject = Subject::Site(client.clone(), SiteVerb::Report);
    let body = Bytes::from(window.encode_to_vec());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let begin = Instant::now();
    loop {
        match bus.request(&subject, HeaderMap::new(), body.clone()).await {
            Ok(answer) => {
                let answer = proto::WindowAnswer::decode(answer.payload).context("decoding the answer to a window")?;
                ensure!(
                    answer.refused.is_empty() && answer.not_stored.is_empty(),
                    "a window was not stored: {answer:?}"
                );
                return Ok(());
            }
            Err(problem) => {
                ensure!(begin.elapsed() < PATIENCE, "a window was not taken within {PATIENCE:?}: {problem}");
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// Sites that report at a steady rate beside one that floods.
const STEADY: usize = 200;

/// Between two reports of a steady site.
const EVERY: Duration = Duration::from_millis(100);

/// One site sends windows without pause and without listening to any answer, while others report ten times a second each. Measured
/// is how long each of their reports takes from the moment at which it is due.
pub async fn flooded(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let clients = (0..=effort.of(20, STEADY, STEADY)).map(|number| format!("site-{number}").parse());
    let clients: Vec<ClientName> = clients.collect::<Result<_, _>>().context("the names of the sites")?;
    let hub = Hub::start(&clients).await?;
    let mut samples = Samples::new("flooded_report_p99_ms");
    let rounds = effort.of(10, 50, 200) as u64;
    let mut sequence = 0;
    for _ in 0..effort.of(1, 5, 10) {
        samples.references.push(hub.steady(sequence, rounds).await?);
        let flood = tokio::spawn(flood(hub.sites[0].clone()));
        let took = hub.steady(sequence + rounds, rounds).await;
        flood.abort();
        samples.values.push(took?);
        sequence += 2 * rounds;
    }
    hub.shutdown.cancel();
    hub.collector.await.context("status-collector died")??;
    Ok(vec![samples])
}

/// Sends windows for ever.
async fn flood(site: Arc<Site>) -> anyhow::Result<()> {
    let subject = Subject::Site(site.client.clone(), SiteVerb::Report);
    let nobody = site.bus.client().new_inbox();
    for number in 1.. {
        let window = proto::Window { session: "flood".to_owned(), ..window(&site.client, NODES, number) };
        let body = window.encode_to_vec().into();
        site.bus.client().publish_with_reply(&subject, nobody.clone(), body).await.context("flooding")?;
    }
    Ok(())
}

impl Hub {
    /// All sites but the first report at a steady rate. Returns the 99th percentile of how long a report took, in
    /// milliseconds. A report that is lost fails the measurement.
    async fn steady(&self, sequence: u64, rounds: u64) -> anyhow::Result<f64> {
        let mut sites = JoinSet::new();
        for (place, site) in self.sites.iter().skip(1).cloned().enumerate() {
            sites.spawn(async move {
                // Spread over the time between two reports, as sites are.
                let begin = Instant::now() + EVERY.mul_f64(place as f64 / STEADY as f64);
                let mut took = Vec::new();
                for round in 0..rounds {
                    let due = begin + EVERY * u32::try_from(round).context("the number of a round")?;
                    sleep_until(due.into()).await;
                    relay(&site.bus, &site.client, &window(&site.client, 1, sequence + round + 1)).await?;
                    took.push(due.elapsed().as_secs_f64() * 1_000.0);
                }
                anyhow::Ok(took)
            });
        }
        let mut all = Vec::new();
        while let Some(took) = sites.join_next().await {
            all.extend(took.context("a simulated LO died")??);
        }
        percentile(&all, 0.99, Better::Lower).context("nothing was reported")
    }
}

/// A server of the same settings that nobody reads, for the reference: sites write their windows into its streams themselves.
struct Raw {
    /// The client of each site, with a connection that may write into the streams.
    sites: Vec<Arc<Site>>,
    _server: NatsServer,
}

impl Raw {
    async fn start(clients: &[ClientName]) -> anyhow::Result<Self> {
        let server = NatsServer::start(&[collector()]).await;
        let owner = Bus::connect(&server.login(&collector())).await?;
        owner.connected().await;
        let mut sites = Vec::new();
        for client in clients {
            let bus = Bus::connect(&server.login(&collector())).await?;
            bus.connected().await;
            sites.push(Arc::new(Site { client: client.clone(), bus }));
        }
        Ok(Self { sites, _server: server })
    }

    /// Every site publishes the same window as before, as one atomic batch for each stream.
    async fn publish(&self, sequence: u64) -> anyhow::Result<Duration> {
        let open = Arc::new(Semaphore::new(OPEN_BATCHES));
        let mut sites = JoinSet::new();
        let begin = Instant::now();
        for site in self.sites.iter().cloned() {
            let open = open.clone();
            sites.spawn(async move {
                let nodes: Vec<_> = (0..NODES).map(|number| node(&site.client, number)).collect();
                for message in [events, status] {
                    let _open = open.acquire().await.context("the semaphore is never closed")?;
                    let batch = nodes.iter().map(|node| message(node, sequence)).collect();
                    site.bus.publish_batch(batch).await.context("a batch of a site")?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = sites.join_next().await {
            ended.context("a writing site died")??;
        }
        Ok(begin.elapsed())
    }
}

fn node(client: &ClientName, number: usize) -> NodeId {
    NodeId::new(client.clone(), format!("n{number}").parse().expect("a letter and a number are a name"))
}

fn deployment(node: &NodeId) -> DeploymentId {
    let assignment = "hello".parse().expect("a word is a name");
    DeploymentId::new(&TenantName::default(), &assignment, node)
}

fn digest(sequence: u64) -> String {
    Digest::of(format!("document {sequence}").as_bytes()).to_string()
}

/// What a node with one deployment says of itself.
fn status(node: &NodeId, sequence: u64) -> Outgoing {
    let state = proto::State::Installed.into();
    let message = proto::NodeStatus {
        incarnation: 1,
        sequence,
        version: sequence,
        deployments: vec![proto::DeploymentStatus {
            id: deployment(node).to_string(),
            digest: digest(sequence),
            adopted_manifest_version: sequence,
            state,
            failure: None,
            components: vec![proto::ComponentStatus {
                name: "hello".to_owned(),
                state,
                failure: None,
                endpoint: "http://192.0.2.7:8080/".to_owned(),
                ..proto::ComponentStatus::default()
            }],
        }],
        refusals: Vec::new(),
        time: 1_000_000_000,
        agent: "0.1.0".to_owned(),
        generation: 0,
    };
    Outgoing::new(Subject::Status(node.clone()), Bytes::from(message.encode_to_vec()))
}

/// The transition that led to it.
fn events(node: &NodeId, sequence: u64) -> Outgoing {
    let message = proto::NodeEvents {
        incarnation: 1,
        sequence,
        transitions: vec![proto::Transition {
            number: sequence,
            deployment: deployment(node).to_string(),
            digest: digest(sequence),
            component: String::new(),
            state: proto::State::Installed.into(),
            failure: None,
            adopted_manifest_version: sequence,
            time: 1_000_000_000,
        }],
        lost: 0,
        generation: 0,
    };
    Outgoing::new(Subject::Event(node.clone()), Bytes::from(message.encode_to_vec()))
}
