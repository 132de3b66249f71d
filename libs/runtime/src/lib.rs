//! What differs between the ways to run a workload. The reconciler of edge-node knows only this.
//!
//! A runtime is level-triggered like everything else: `apply` of what already runs leaves it untouched, `observe` tells
//! what is, and `changed` only says "look again".

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use futures::future::BoxFuture;
use margo::{ComponentName, DeploymentId, Digest};
use tokio::sync::Notify;

/// One component of one deployment on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct WorkloadId {
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Which of its components.
    pub component: ComponentName,
}

impl std::fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.deployment, self.component)
    }
}

/// What shall run.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Which one.
    pub id: WorkloadId,
    /// sha256 of the deployment's document: a workload with another one is replaced.
    pub digest: Digest,
    /// The verified artifact on this node's disk.
    pub artifact: PathBuf,
    /// sha256 of that file.
    pub artifact_digest: Digest,
    /// Parameters that target this component.
    pub environment: BTreeMap<String, String>,
    /// `x-edgewright-extensions` of the component, as the document has it; `null` when it has none.
    pub settings: serde_json::Value,
    /// Where it may listen.
    pub address: IpAddr,
}

/// What is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Which one.
    pub id: WorkloadId,
    /// The document it was started for.
    pub digest: Digest,
    /// How it is.
    pub condition: Condition,
}

/// How a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// On its way up.
    Starting,
    /// Up. Where it answers, when it listens.
    Running {
        /// Such as `http://192.0.2.7:8080/`.
        endpoint: Option<String>,
    },
    /// It ended or could not start; the runtime starts it again with growing pauses until told otherwise.
    Failed {
        /// A stable word, such as `exited`.
        code: String,
        /// For people.
        message: String,
    },
}

/// Why a runtime could not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The workload can never run as described: a wrong artifact, a wrong setting.
    #[error("{0}")]
    Invalid(String),
    /// It may succeed later.
    #[error("{attempt}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// A way to run workloads.
pub trait Runtime: Send + Sync {
    /// The name that a profile gives it (`x-edgewright-extensions: { runtime: wasm }`).
    fn name(&self) -> &'static str;

    /// Margo's deployment type that this runtime adds to the node's capabilities: helm, compose or custom.
    fn deployment_type(&self) -> margo::ProfileType;

    /// Whether it can run anything here and now; why not, else.
    fn detect(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Starts the workload, or replaces one with another digest. Returns when the start is under way: `observe` tells
    /// the rest. What already runs with this digest is left untouched.
    fn apply(&self, workload: Workload) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Stops the workload and removes what it left. Removing what is not there succeeds.
    fn remove(&self, id: WorkloadId) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Everything this runtime knows of, also what an earlier life of the agent started.
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>>;

    /// Notified when an observation may have changed.
    fn changed(&self) -> Arc<Notify>;
}
