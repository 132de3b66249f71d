//! A thousand simulated LOs report to a hub that syncs always: `reports_per_second`.
//!
//! Each LO has its own credentials and connection, and publishes as the relay of local-orchestrator does: windows of
//! last values and of transitions, each one atomic batch, repeated with growing pauses when the server is busy. All that
//! knows the way of a report up stands in this file.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bus::{Bus, Outgoing, ServiceName, Subject, User, proto, streams};
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
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{Effort, Samples};

/// Nodes of each LO: its window holds the report of each of them.
const NODES: usize = 10;

/// Messages of one raw batch of the reference.
const RAW_BATCH: usize = 500;

/// How long the reports of one run may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn collector() -> User {
    User::Central(ServiceName::StatusCollector)
}

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let clients = (0..effort.of(50, 1_000, 1_000)).map(|number| format!("site-{number}").parse());
    let clients: Vec<ClientName> = clients.collect::<Result<_, _>>().context("the names of the sites")?;
    let hub = Hub::start(&clients).await?;
    let raw = Raw::start().await?;
    let mut samples = Samples::new("reports_per_second");
    let reports = clients.len() * NODES;
    // The first run makes the rows that the others replace; it is not counted.
    for run in 0..=effort.of(1, 5, 10) {
        let sequence = run as u64 + 1;
        let windows: Vec<_> = hub.sites.iter().map(|site| Windows::new(site, sequence)).collect();
        let begin = Instant::now();
        hub.report(windows).await?;
        let took = begin.elapsed();
        let reference = raw.publish(reports, sequence).await?;
        if run > 0 {
            samples.values.push(reports as f64 / took.as_secs_f64());
            samples.references.push(reports as f64 / reference.as_secs_f64());
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
    _server: NatsServer,
    _folder: TempDir,
}

/// What one LO publishes in one run.
struct Windows {
    site: Arc<Site>,
    states: Vec<Outgoing>,
    events: Vec<Outgoing>,
}

impl Windows {
    fn new(site: &Arc<Site>, sequence: u64) -> Self {
        let nodes: Vec<_> = (0..NODES).map(|number| node(&site.client, number)).collect();
        Self {
            site: site.clone(),
            states: nodes.iter().map(|node| status(node, sequence)).collect(),
            events: nodes.iter().map(|node| events(node, sequence)).collect(),
        }
    }
}

impl Hub {
    async fn start(clients: &[ClientName]) -> anyhow::Result<Self> {
        let gateway = User::Central(ServiceName::ApiGateway);
        let mut users = vec![collector(), gateway.clone()];
        users.extend(clients.iter().cloned().map(User::Site));
        let server = NatsServer::start(&users).await;
        let folder = TempDir::new().context("a folder for the status-collector")?;
        let health = Health::default();
        let shutdown = CancellationToken::new();
        let config = Config {
            base: Base {
                bus: server.login(&collector()),
                front: None,
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
        Ok(Self { sites, collector: task, shutdown, observer, gateway, _server: server, _folder: folder })
    }

    /// All LOs publish at the same time. Returns when the status-collector has stored everything.
    async fn report(&self, windows: Vec<Windows>) -> anyhow::Result<()> {
        let mut sites = JoinSet::new();
        for Windows { site, states, events } in windows {
            sites.spawn(async move { tokio::try_join!(relay(&site.bus, states), relay(&site.bus, events)).map(drop) });
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

/// One window, as the relay publishes it: whatever the server says against it, again after a pause. With a thousand sites at
/// once the server is often busy, or has given up a batch that it had begun to take.
async fn relay(bus: &Bus, window: Vec<Outgoing>) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let begin = Instant::now();
    loop {
        match bus.publish_batch(window.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                ensure!(begin.elapsed() < PATIENCE, "a window was not taken within {PATIENCE:?}: {error}");
                sleep(backoff.pause()).await;
            }
        }
    }
}

/// A server of the same settings that nobody reads, for the reference.
struct Raw {
    site: Bus,
    client: ClientName,
    _owner: Bus,
    _server: NatsServer,
}

impl Raw {
    async fn start() -> anyhow::Result<Self> {
        let client: ClientName = "plant".parse().context("the name of a site")?;
        let server = NatsServer::start(&[collector(), User::Site(client.clone())]).await;
        let owner = Bus::connect(&server.login(&collector())).await?;
        owner.connected().await;
        for config in [streams::state(bus::Pattern::State), streams::events_at_hub()] {
            owner.jetstream().create_stream(config).await.context("making a stream of the reference")?;
        }
        let site = Bus::connect(&server.login(&User::Site(client.clone()))).await?;
        site.connected().await;
        Ok(Self { site, client, _owner: owner, _server: server })
    }

    /// Publishes the same messages, one atomic batch after the other.
    async fn publish(&self, reports: usize, sequence: u64) -> anyhow::Result<Duration> {
        let nodes: Vec<_> = (0..reports).map(|number| node(&self.client, number)).collect();
        let mut batches = Vec::new();
        for nodes in nodes.chunks(RAW_BATCH) {
            batches.push(nodes.iter().map(|node| status(node, sequence)).collect::<Vec<_>>());
            batches.push(nodes.iter().map(|node| events(node, sequence)).collect::<Vec<_>>());
        }
        let begin = Instant::now();
        for batch in batches {
            self.site.publish_batch(batch).await.context("a raw batch")?;
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
                restarts: 0,
                parts: Vec::new(),
            }],
        }],
        refusals: Vec::new(),
        time: 1_000_000_000,
        agent: "0.1.0".to_owned(),
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
    };
    Outgoing::new(Subject::Event(node.clone()), Bytes::from(message.encode_to_vec()))
}
