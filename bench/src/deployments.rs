//! One order to a thousand nodes of ten sites: `deployments_per_second`.
//!
//! Hub and sites are real processes. The nodes are agents of `edge-node`'s library in this process, each with its own
//! credentials, connection and folder, and with a runtime that starts nothing.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bus::{Jwt, User};
use edge_node::{Config, SpanBuffer};
use end_to_end::{Application, Platform, SiteLayout, sample};
use margo::NodeId;
use runtime::Runtime;
use runtime_null::{NullRuntime, Settings};
use tempfile::TempDir;
use tokio::{
    runtime::{Builder, Runtime as Executor},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Effort, Samples, machine, platform,
    rest::{Rest, Targets, Wish, by_clients},
};

const fn site(name: &'static str) -> SiteLayout {
    SiteLayout { name, nodes: &[] }
}

/// The nodes are added later, by many clients at once.
const SITES: &[SiteLayout] = &[
    site("s0"),
    site("s1"),
    site("s2"),
    site("s3"),
    site("s4"),
    site("s5"),
    site("s6"),
    site("s7"),
    site("s8"),
    site("s9"),
];

/// Threads of the agents. An agent writes to its disk on the thread it runs on, and a thousand agents of a real fleet wait
/// for a thousand disks: with few threads they would wait for each other.
const THREADS: usize = 64;

/// The sample application and its assignment.
const APP: &str = "hello";

/// The sample application asks for this runtime; here it finds one that starts nothing.
const RUNTIME: &str = "wasm";

/// How long one order may take until all nodes have carried it out.
const PATIENCE: Duration = Duration::from_secs(120);

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let per_site = effort.of(10, 100, 100);
    let count = SITES.len() * per_site;
    let mut running = Platform::start(SITES, Application::Nothing).await;
    let rest = Rest::of(&running);
    let folder = TempDir::new().context("a folder for the agents")?;
    running.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);

    let fleet = Fleet::start(&running, &rest, folder.path(), per_site).await?;
    fleet.known(&rest, count).await?;
    let sites = SITES.iter().map(|site| site.name.to_owned()).collect();
    let mut wish = Wish { app: APP.to_owned(), greeting: "First".to_owned(), targets: Targets::Sites(sites) };
    // The first order has every node fetch the artifact; it is not counted.
    rest.create(APP, &wish).await?;
    fleet.carried_out(&rest, count).await?;

    let processes = platform::all_processes(&mut running);
    let mut samples = Samples::new("deployments_per_second");
    for run in 0..effort.of(2, 5, 15) {
        machine::rest(&processes).await?;
        wish.greeting = format!("Order {run}");
        let (etag, _) = rest.etag(APP).await?;
        let begin = Instant::now();
        let started = fleet.starts();
        rest.update(APP, &etag, &wish).await?;
        fleet.carried_out(&rest, started + count).await?;
        samples.values.push(count as f64 / begin.elapsed().as_secs_f64());
        machine::rest(&processes).await?;
        samples.references.push(count as f64 / write_durably(folder.path(), count).await?.as_secs_f64());
    }
    fleet.stop().await?;
    Ok(vec![samples])
}

/// The agents of all simulated nodes, in this process. Their runtimes note what they are told and run nothing.
struct Fleet {
    runtimes: Vec<Arc<NullRuntime>>,
    agents: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    /// An executor must not end inside another one's task: it is given up instead.
    executor: Option<Executor>,
}

impl Fleet {
    /// Adds the nodes by REST, and starts an agent for each.
    async fn start(running: &Platform, rest: &Rest, folder: &Path, per_site: usize) -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        for site in SITES {
            for number in 0..per_site {
                let (seed, key) = identity::nats::generate();
                nodes.push((site.name, format!("{}/n{number}", site.name), seed, key));
            }
        }
        let nodes = Arc::new(nodes);
        let (adding, rest) = (nodes.clone(), rest.clone());
        by_clients(16, nodes.len(), move |number| {
            let (rest, nodes) = (rest.clone(), adding.clone());
            async move {
                let (_, name, _, key) = &nodes[number];
                rest.add_node(name, key).await
            }
        })
        .await?;

        let executor =
            Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().context("threads for agents")?;
        let shutdown = CancellationToken::new();
        let (mut agents, mut runtimes) = (JoinSet::new(), Vec::new());
        for (site, name, seed, _) in nodes.iter() {
            let node: NodeId = name.parse().context("the name of a node")?;
            let data = folder.join(name);
            fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
            let jwt = Jwt::File(data.join("login.jwt"));
            let bus = running.login(site, User::Node(node.clone()), seed.clone(), jwt);
            let minter_tls = bus.tls.clone();
            let config = Config { node, bus, minter: running.site_url(site), minter_tls, data };
            let runtime = Arc::new(NullRuntime::new(Settings { name: RUNTIME, ..Settings::default() }));
            runtimes.push(runtime.clone());
            let agent =
                edge_node::run(config, vec![runtime as Arc<dyn Runtime>], SpanBuffer::default(), shutdown.clone());
            agents.spawn_on(agent, executor.handle());
        }
        Ok(Self { runtimes, agents, shutdown, executor: Some(executor) })
    }

    /// Waits until every node has said what it can do.
    async fn known(&self, rest: &Rest, count: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        loop {
            let nodes = rest.list("/nodes").await?;
            let known = nodes.iter().filter(|node| node["capabilities"].is_object()).count();
            if known == count {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "only {known} of {count} nodes spoke within {PATIENCE:?}");
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// All starts of all nodes.
    fn starts(&self) -> usize {
        self.runtimes.iter().map(|runtime| runtime.starts()).sum()
    }

    /// Waits until so many starts were made in all, then until the hub knows. REST answers with whole tables, so it is
    /// asked only when the nodes are done.
    async fn carried_out(&self, rest: &Rest, starts: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.starts() < starts {
            ensure!(begin.elapsed() < PATIENCE, "{} starts of {starts} within {PATIENCE:?}", self.starts());
            sleep(Duration::from_millis(5)).await;
        }
        let query = format!("?assignment={APP}");
        rest.installed(&query, self.runtimes.len(), Duration::from_millis(20), PATIENCE).await
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.agents.join_next().await {
            ended.context("an agent died")??;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(executor) = self.executor.take() {
            executor.shutdown_background();
        }
    }
}

/// Replaces as many files durably as there are nodes, by as many threads as the agents have: what this machine's disk
/// could give.
async fn write_durably(folder: &Path, count: usize) -> anyhow::Result<Duration> {
    let folder = folder.join("reference");
    tokio::task::spawn_blocking(move || {
        let write = |number: usize| -> std::io::Result<()> {
            let own = folder.join(number.to_string());
            fs::create_dir_all(&own)?;
            let (next, path) = (own.join("next"), own.join("file"));
            let mut file = File::create(&next)?;
            file.write_all(&[b'x'; 2048])?;
            file.sync_all()?;
            fs::rename(next, path)?;
            File::open(own)?.sync_all()
        };
        let begin = Instant::now();
        let write = &write;
        std::thread::scope(|scope| {
            let threads = (0..THREADS)
                .map(|thread| scope.spawn(move || (thread..count).step_by(THREADS).try_for_each(write)))
                .collect::<Vec<_>>();
            threads.into_iter().try_for_each(|thread| thread.join().expect("writing files does not panic"))
        })
        .context("writing files durably")?;
        Ok(begin.elapsed())
    })
    .await
    .context("writing files durably")?
}
