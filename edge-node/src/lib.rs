//! The agent of one node: the only writer of its desired state and of what it has to tell, both files on its disk.
//!
//! Starts what its disk says before any network is there. Then it asks its site for newer desired state, brings the node to it through runtimes, and reports by `node.<client>.<node>.report`. It may die at any line: the next
//! start reads the same files, looks at what runs, and goes on. Which runtimes there are, the program decides; this library
//! knows none of them.
//!
//! ```text
//!  site ─► feed ─────────► reconciler ─► worker ─► runtime      data/desired.json   what is in force
//!                           │  ▲  ▲                  │          data/journal/       what is to be told
//!                           │  │  └──── observer ◄───┘          data/store/         content by digest
//!                           │  └─ artifacts ◄─ site             data/<runtime>/     what a runtime keeps
//!                        journal ─► reporter ─► site          data/login.jwt      the login at the site
//! ```
//!
//! - `reconciler` is the loop; the decisions in it are pure functions of `decide` and `plan`, over what `resolve` made of
//!   the documents, what each runtime's `observer` saw, and what was tried (`attempt`).
//! - `worker` carries out the steps of one deployment, each in a task of its own.
//! - `status` says what follows for a report; `journal` and its `spool` keep that until the site has it.

mod artifacts;
mod attempt;
mod calls;
mod capabilities;
mod collector;
mod component_digest;
mod config;
mod decide;
mod desired;
mod feed;
mod fit;
mod journal;
mod measure;
mod metrics;
mod observer;
mod operation;
mod plan;
mod reconciler;
mod report;
mod resolve;
mod retry;
mod spool;
mod status;
mod telemetry;
#[cfg(test)]
mod testing;
mod usage;
mod worker;

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use bus::Bus;
use disk::FolderLock;
use oci::ContentStore;
use renewal::Renewal;
use runtime::Runtime;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use collector::keep_certificate;
pub use config::{AgentArgs, Config, OnExit, Program};
pub use telemetry::{SpanBuffer, Spans};

use crate::{
    artifacts::{Artifacts, SiteStore},
    calls::Calls,
    capabilities::Look,
    desired::{Desired, LoadError},
    journal::Journal,
    metrics::Gauges,
    reconciler::{Parts, Reconciler},
    report::Reporter,
};

/// The name in traces and logs.
pub const PROGRAM: &str = "edge-node";

/// Locks a data folder, and makes it when it is not there. The lock ends with the value.
pub fn lock(data: &Path) -> anyhow::Result<FolderLock> {
    disk::take_data_folder(data).with_context(|| format!("taking the data folder {}", data.display()))?;
    let lock = FolderLock::take(&data.join("lock"));
    let lock = lock.with_context(|| format!("locking the data folder {}", data.display()))?;
    lock.with_context(|| format!("another edge-node uses the data folder {}; each needs its own", data.display()))
}

/// Runs the agent on a folder that [`lock`] has locked, until shutdown.
pub async fn run(
    config: Config,
    runtimes: Vec<Arc<dyn Runtime>>,
    spans: SpanBuffer,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let Config { node, bus, minter, minter_tls, data, has_collector } = config;
    let renewal = Renewal::new(&bus, &minter, minter_tls)?;
    let file = data.join("desired.json");
    let journal = Arc::new(Journal::open(&data.join("journal"))?);
    let store = ContentStore::open(data.join("store")).await?;
    let site = Arc::new(SiteStore::default());
    let gauges = Arc::new(Gauges::of(&data));
    let tls = bus.tls.clone();
    // Returns at once; the server may be away for days.
    let bus = Bus::connect(&bus).await?;

    let (held, holds) = watch::channel(0);
    let (describes, device) = watch::channel(None);
    let mut reconciler = Reconciler::new(Parts {
        node: node.clone(),
        file: file.clone(),
        runtimes: runtimes.clone(),
        artifacts: Artifacts::new(store, site.clone(), tls),
        journal: journal.clone(),
        gauges: gauges.clone(),
        device,
        held,
    });
    match load(&file, &node)? {
        Some(desired) => {
            info!(version = %desired.version, deployments = desired.deployments.len(), "starting from the disk");
            reconciler.enforce(desired);
        }
        None => info!("nothing was adopted yet; waiting for the site"),
    }
    let reporter =
        Reporter { bus: bus.clone(), node: node.clone(), journal: journal.clone(), spans, store: site, gauges };
    let look = Look { root: "/".into(), data, has_collector };
    // One: a newer desired state replaces the one before, so there is no queue of them.
    let (candidates, offered) = mpsc::channel(1);

    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    // One: whoever calls waits for the one before, and few calls are answered at once.
    let (operations, called) = mpsc::channel(1);
    tasks.spawn(reconciler.run(offered, called, stop.clone()));
    tasks.spawn(feed::run(bus.clone(), node.clone(), holds, candidates, stop.clone()));
    tasks.spawn(reporter.run(stop.clone()));
    if let Some(renewal) = renewal {
        tasks.spawn(renewal.run(bus.clone(), stop.clone()));
    }
    let calls = Calls { bus: bus.clone(), node: node.clone(), runtimes: runtimes.clone(), operations };
    tasks.spawn(calls.run(stop.clone()));
    tasks.spawn(report::heartbeat(bus, node.clone(), stop.clone()));
    tasks.spawn(measure::run(runtimes.clone(), journal.clone(), stop.clone()));
    tasks.spawn(capabilities::run(look, node, runtimes, journal, describes, stop.clone()));
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        stop.cancel();
        outcome = outcome.and(ended.context("a task of the agent died").flatten());
    }
    outcome
}

/// What is in force. A damaged file is set aside: nothing is stopped on a guess, and the site sends it again.
fn load(file: &Path, node: &margo::NodeId) -> anyhow::Result<Option<Desired>> {
    match desired::load(file, node) {
        Err(damaged @ LoadError::Damaged { .. }) => {
            let aside = file.with_extension("damaged");
            error!(error = &damaged as &dyn std::error::Error, aside = %aside.display(), "waiting for the site");
            fs::rename(file, &aside).with_context(|| format!("setting {} aside", file.display()))?;
            Ok(None)
        }
        loaded => Ok(loaded?),
    }
}
