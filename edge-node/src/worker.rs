//! Carries out the steps that are due for one deployment, in a task of its own: a slow one delays nobody.
//!
//! Every call to a runtime has a deadline. A worker may be dropped at any line: what it did is found by the next look.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use margo::{DeploymentId, Digest};
use runtime::{Call, Runtime, RuntimeError, Workload, WorkloadId};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument, debug, info, info_span, warn};

use crate::attempt::StepError;

/// A preparation may load images of gigabytes into an engine on a slow disk.
pub const PREPARE_LIMIT: Duration = Duration::from_secs(600);
/// For a start whose document grants no time: as long as Helm waits by default.
const APPLY_LIMIT: Duration = Duration::from_secs(300);
/// More than any runtime gives a workload to end by itself, several parts one after the other.
const STOP_LIMIT: Duration = Duration::from_secs(120);

/// One step, with everything that it takes.
pub enum Job {
    /// Has a runtime stop a workload and remove what it left.
    Stop { runtime: Arc<dyn Runtime>, id: WorkloadId },
    /// Has a runtime prepare a workload beside what runs.
    Prepare { runtime: Arc<dyn Runtime>, workload: Box<Workload> },
    /// Has a runtime stop a workload and start the same revision again.
    Restart { runtime: Arc<dyn Runtime>, id: WorkloadId },
    /// Prepares a workload, has other runtimes stop it, and starts it.
    Start {
        /// The runtime that shall have it.
        runtime: Arc<dyn Runtime>,
        workload: Box<Workload>,
        /// Other runtimes that have it.
        leaves: Vec<Arc<dyn Runtime>>,
        /// How long the start may take; `None` when the document does not say.
        timeout: Option<Duration>,
    },
}

/// What a step was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The workload was to be stopped.
    Stopped,
    /// The workload was to be prepared with this digest.
    Prepared(Digest),
    /// The workload was to be started with this digest.
    Started(Digest),
    /// The workload was to be started again as it is.
    Restarted,
}

impl Aim {
    /// Returns the digest with which the workload was to run; `None` when it was to be stopped or to stay as it is.
    pub fn digest(self) -> Option<Digest> {
        match self {
            Self::Stopped | Self::Restarted => None,
            Self::Prepared(digest) | Self::Started(digest) => Some(digest),
        }
    }
}

/// What became of one step.
pub struct Outcome {
    pub id: WorkloadId,
    pub aim: Aim,
    /// Whether the step was carried out.
    pub result: Result<(), StepError>,
}

/// What a worker has done when it ends.
pub struct Done {
    pub deployment: DeploymentId,
    /// Every step in the order in which it was tried.
    pub outcomes: Vec<Outcome>,
    /// The names of the runtimes that were told something.
    pub runtimes: BTreeSet<&'static str>,
    /// When the last step ended.
    pub ended: Instant,
}

impl Job {
    /// The names of the runtimes that this job tells something.
    fn runtimes(&self) -> Vec<&'static str> {
        match self {
            Self::Stop { runtime, .. } | Self::Prepare { runtime, .. } | Self::Restart { runtime, .. } => {
                vec![runtime.name()]
            }
            Self::Start { runtime, leaves, .. } => {
                leaves.iter().chain([runtime]).map(|runtime| runtime.name()).collect()
            }
        }
    }
}

/// Carries the steps out one after the other. One that fails does not keep the next from being tried.
pub async fn work(deployment: DeploymentId, jobs: Vec<Job>) -> Done {
    let mut outcomes = Vec::new();
    let runtimes = jobs.iter().flat_map(Job::runtimes).collect();
    for job in jobs {
        let (id, aim) = match &job {
            Job::Stop { id, .. } => (id.clone(), Aim::Stopped),
            Job::Restart { id, .. } => (id.clone(), Aim::Restarted),
            Job::Prepare { workload, .. } => (workload.id.clone(), Aim::Prepared(workload.digest)),
            Job::Start { workload, .. } => (workload.id.clone(), Aim::Started(workload.digest)),
        };
        let result = match job {
            Job::Stop { runtime, id } => stop(&*runtime, id).await,
            Job::Restart { runtime, id } => restart(&*runtime, id).await,
            Job::Prepare { runtime, workload } => prepare(&*runtime, *workload).await,
            Job::Start { runtime, workload, leaves, timeout } => start(&*runtime, *workload, &leaves, timeout).await,
        };
        if let Err(reason) = &result {
            warn!(workload = %id, ?reason, "a step failed");
        }
        outcomes.push(Outcome { id, aim, result });
    }
    Done { deployment, outcomes, runtimes, ended: Instant::now() }
}

async fn stop(runtime: &dyn Runtime, id: WorkloadId) -> Result<(), StepError> {
    info!(workload = %id, runtime = runtime.name(), "stopping");
    let span = info_span!("remove", workload = %id, runtime = runtime.name());
    within("stopping", STOP_LIMIT, |call| runtime.remove(id, call)).instrument(span).await
}

async fn restart(runtime: &dyn Runtime, id: WorkloadId) -> Result<(), StepError> {
    info!(workload = %id, runtime = runtime.name(), "restarting");
    let span = info_span!("restart", workload = %id, runtime = runtime.name());
    within("restarting", APPLY_LIMIT, |call| runtime.restart(id, call)).instrument(span).await
}

async fn prepare(runtime: &dyn Runtime, workload: Workload) -> Result<(), StepError> {
    let Workload { id, digest, .. } = &workload;
    debug!(workload = %id, %digest, runtime = runtime.name(), "preparing");
    let span = info_span!("prepare", workload = %id, %digest, runtime = runtime.name());
    within("preparing", PREPARE_LIMIT, |call| runtime.prepare(workload, call)).instrument(span).await
}

async fn start(
    runtime: &dyn Runtime,
    workload: Workload,
    leaves: &[Arc<dyn Runtime>],
    timeout: Option<Duration>,
) -> Result<(), StepError> {
    let (id, digest) = (workload.id.clone(), workload.digest);
    prepare(runtime, workload.clone()).await?;
    process::stop_point("edge-node.prepared");
    for other in leaves {
        stop(&**other, id.clone()).await?;
    }
    info!(workload = %id, %digest, runtime = runtime.name(), "starting");
    let span = info_span!("apply", workload = %id, %digest, runtime = runtime.name());
    let limit = timeout.unwrap_or(APPLY_LIMIT);
    within("starting", limit, |call| runtime.apply(workload, call)).instrument(span).await?;
    process::stop_point("edge-node.started");
    Ok(())
}

async fn within<F: Future<Output = Result<(), RuntimeError>>>(
    what: &'static str,
    limit: Duration,
    begin: impl FnOnce(Call) -> F,
) -> Result<(), StepError> {
    let call = Call::within(limit);
    match timeout_at(call.deadline, begin(call.clone())).await {
        Ok(result) => result.map_err(StepError::Runtime),
        Err(_elapsed) => Err(StepError::Overdue { what, limit, progress: call.progress.last() }),
    }
}
