//! Simulated nodes: agents of edge-node's library in this process, which a measurement has many of.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bus::{Jwt, User};
use edge_node::{Config, SpanBuffer};
use end_to_end::{Platform, SiteLayout};
use margo::NodeId;
use runtime::Runtime;
use runtime_null::{NullRuntime, Settings};
use tokio::{
    runtime::{Builder, Runtime as Executor},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::rest::{Rest, by_clients};

/// Threads of the agents. An agent writes to its disk on the thread it runs on, and a thousand agents of a real fleet wait
/// for a thousand disks: with few threads they would wait for each other.
pub const THREADS: usize = 64;

/// The sample application asks for this runtime; here it finds one that starts nothing.
const RUNTIME: &str = "wasm";

/// How long one order may take until all nodes have carried it out.
const PATIENCE: Duration = Duration::from_secs(120);

/// Agents that are started together. All of them have one address here, and a site's listener takes only so many connections of
/// one address at once; those that it turned away would come back after pauses that grow.
const WAVE: usize = 100;

/// The agents of all simulated nodes, in this process. Their runtimes note what they are told and run nothing.
pub struct Fleet {
    runtimes: Vec<Arc<NullRuntime>>,
    agents: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
    /// An executor must not end inside another one's task: it is given up instead.
    executor: Option<Executor>,
}

impl Fleet {
    /// Adds so many nodes to each of these sites by REST, and starts an agent for each.
    pub async fn start(
        running: &Platform,
        rest: &Rest,
        folder: &Path,
        sites: &[SiteLayout],
        per_site: usize,
    ) -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        for site in sites {
            for number in 0..per_site {
                let (seed, key) = identity::nats::generate();
                nodes.push((site.name, format!("{}/n{number}", site.name), seed, key));
            }
        }
        let nodes = Arc::new(nodes);
        let (adding, adder) = (nodes.clone(), rest.clone());
        by_clients(16, nodes.len(), move |number| {
            let (rest, nodes) = (adder.clone(), adding.clone());
            async move {
                let (_, name, _, key) = &nodes[number];
                rest.add_node(name, key).await
            }
        })
        .await?;
        // A node that asks for its login before the site knows it would pause, too.
        for site in sites {
            adopted(rest, site.name, per_site).await?;
        }

        let executor =
            Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().context("threads for agents")?;
        let shutdown = CancellationToken::new();
        let (mut agents, mut runtimes, mut logins) = (JoinSet::new(), Vec::new(), Vec::new());
        for (number, (site, name, seed, _)) in nodes.iter().enumerate() {
            if number % WAVE == 0 {
                all_there(&logins).await?;
                logins.clear();
            }
            let node: NodeId = name.parse().context("the name of a node")?;
            let data = folder.join(name);
            fs::create_dir_all(&data).with_context(|| format!("making {}", data.display()))?;
            let login = data.join("login.jwt");
            let jwt = Jwt::File(login.clone());
            logins.push(login);
            let bus = running.login(site, User::Node(node.clone()), seed.clone(), jwt);
            let minter_tls = bus.tls.clone();
            let config = Config { node, bus, minter: running.site_url(site), minter_tls, data, has_collector: false };
            let runtime = Arc::new(NullRuntime::new(Settings { name: RUNTIME, ..Settings::default() }));
            runtimes.push(runtime.clone());
            let agent =
                edge_node::run(config, vec![runtime as Arc<dyn Runtime>], SpanBuffer::default(), shutdown.clone());
            agents.spawn_on(agent, executor.handle());
        }
        Ok(Self { runtimes, agents, shutdown, executor: Some(executor) })
    }

    /// Waits until every node has said what it can do.
    pub async fn known(&self, rest: &Rest, count: usize) -> anyhow::Result<()> {
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
    pub fn starts(&self) -> usize {
        self.runtimes.iter().map(|runtime| runtime.starts()).sum()
    }

    /// Waits until so many starts were made in all, then until the hub knows of this assignment. REST answers with whole tables,
    /// so it is asked only when the nodes are done.
    pub async fn carried_out(&self, rest: &Rest, assignment: &str, starts: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.starts() < starts {
            ensure!(begin.elapsed() < PATIENCE, "{} starts of {starts} within {PATIENCE:?}", self.starts());
            sleep(Duration::from_millis(5)).await;
        }
        let query = format!("?assignment={assignment}");
        rest.installed(&query, self.runtimes.len(), Duration::from_millis(20), PATIENCE).await
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.agents.join_next().await {
            ended.context("an agent died")??;
        }
        Ok(())
    }
}

/// Waits until a site has adopted the commit of the last of so many nodes.
async fn adopted(rest: &Rest, site: &str, nodes: usize) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let sites = rest.list("/sites").await?;
        let found = sites.iter().find(|found| found["name"] == site).context("the site is listed")?;
        // The first version is the empty one, and each node makes one more.
        if found["adoptedManifestVersion"].as_u64().is_some_and(|version| version > nodes as u64) {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < PATIENCE,
            "{site} has adopted {} after {PATIENCE:?}",
            found["adoptedManifestVersion"]
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until all of these files are there.
async fn all_there(files: &[PathBuf]) -> anyhow::Result<()> {
    let begin = Instant::now();
    while let Some(missing) = files.iter().find(|file| !file.exists()) {
        ensure!(begin.elapsed() < PATIENCE, "{} is not there after {PATIENCE:?}", missing.display());
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(executor) = self.executor.take() {
            executor.shutdown_background();
        }
    }
}
