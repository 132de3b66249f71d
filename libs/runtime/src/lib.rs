//! The ways to run a workload: the trait that each of them implements, and what agent and runtime say to each other.
//!
//! A runtime is level-triggered like everything else: [`Runtime::apply`] leaves untouched what already runs as wanted,
//! [`Runtime::observe`] tells what is there, whoever started it, and [`Runtime::changed`] only says "look again". What a
//! runtime runs outlives the agent, so a runtime keeps no state in memory that it could not find again by looking.
//!
//! The agent carries a new revision out in four steps, and each may be repeated: it fetches the content that
//! [`Runtime::needs`] names, has the revision prepared beside the one that runs, then applies it, then observes. Only
//! `apply` disturbs what runs, so everything that can fail early fails while the old revision still answers.
//!
//! # A tiny runtime
//!
//! This one "runs" a workload by remembering it, which is enough for the agent to manage it:
//!
//! ```
//! use std::{collections::BTreeMap, sync::{Arc, Mutex}};
//!
//! use futures::future::{BoxFuture, FutureExt};
//! use margo::{Digest, ProfileType};
//! use oci::{ArtifactManifest, ContentStore, Descriptor, media};
//! use runtime::{
//!     Artifact, Call, Condition, Need, Observed, Runtime, RuntimeError, Stats, Workload, WorkloadId,
//! };
//! use tokio::sync::Notify;
//!
//! #[derive(Default)]
//! struct Memory {
//!     running: Mutex<BTreeMap<WorkloadId, Digest>>,
//!     changed: Arc<Notify>,
//! }
//!
//! impl Memory {
//!     fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<WorkloadId, Digest>> {
//!         self.running.lock().expect("nobody panics with the lock")
//!     }
//! }
//!
//! impl Runtime for Memory {
//!     fn name(&self) -> &'static str {
//!         "memory"
//!     }
//!
//!     fn deployment_type(&self) -> ProfileType {
//!         ProfileType::Custom
//!     }
//!
//!     fn detect(&self) -> BoxFuture<'_, Result<(), String>> {
//!         async { Ok(()) }.boxed()
//!     }
//!
//!     fn needs<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Vec<Need>, RuntimeError>> {
//!         async { Ok(workload.artifact.layers().collect()) }.boxed()
//!     }
//!
//!     fn apply(&self, workload: Workload, _call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
//!         async move {
//!             self.running().insert(workload.id, workload.digest);
//!             self.changed.notify_one();
//!             Ok(())
//!         }
//!         .boxed()
//!     }
//!
//!     fn remove(&self, id: WorkloadId, _call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
//!         async move {
//!             self.running().remove(&id);
//!             self.changed.notify_one();
//!             Ok(())
//!         }
//!         .boxed()
//!     }
//!
//!     fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
//!         let running = Condition::Running { endpoint: None };
//!         let observed = |(id, digest): (&WorkloadId, &Digest)| Observed::whole(id.clone(), *digest, running.clone());
//!         let all = self.running().iter().map(observed).collect();
//!         async { Ok(all) }.boxed()
//!     }
//!
//!     fn changed(&self) -> Arc<Notify> {
//!         self.changed.clone()
//!     }
//!
//!     fn logs(&self, id: WorkloadId, _lines: usize) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
//!         async move { Err(RuntimeError::Absent(id)) }.boxed()
//!     }
//!
//!     fn stats(&self, id: WorkloadId) -> BoxFuture<'_, Result<Stats, RuntimeError>> {
//!         async move { Err(RuntimeError::Absent(id)) }.boxed()
//!     }
//!
//!     fn restart(&self, id: WorkloadId, _call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
//!         async move { if self.running().contains_key(&id) { Ok(()) } else { Err(RuntimeError::Absent(id)) } }.boxed()
//!     }
//!
//!     fn suspend(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
//!         async { Ok(()) }.boxed()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let content = ContentStore::open(folder.path()).await?;
//! let manifest = ArtifactManifest::artifact("application/x", vec![Descriptor::of("text/plain", b"hello")]);
//! let workload = Workload {
//!     id: WorkloadId {
//!         deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse()?,
//!         component: "hello".parse()?,
//!     },
//!     digest: Digest::of(b"what the component is made of"),
//!     artifact: Artifact { repository: "hello".parse()?, digest: Digest::of(&manifest.to_json()), manifest },
//!     values: BTreeMap::new(),
//!     images: BTreeMap::new(),
//!     settings: serde_json::Value::Null,
//!     content,
//! };
//! let memory = Memory::default();
//! assert_eq!(memory.needs(&workload).await?[0].digest, Digest::of(b"hello"));
//! memory.apply(workload.clone(), Call::within(std::time::Duration::from_secs(10))).await?;
//! assert_eq!(memory.observe().await?[0].condition, Condition::Running { endpoint: None });
//! # Ok(())
//! # }
//! ```

mod call;
mod collector;
mod condition;
mod folders;
mod ports;
mod workload;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt};
use margo::ProfileType;
use tokio::sync::Notify;

pub use call::{Call, Progress};
pub use collector::{CERTIFICATE, CERTIFICATE_FOLDER, Collector, destination_of};
pub use condition::{Condition, Observed, Part};
pub use folders::{folder_of, folders};
pub use ports::{InvalidPorts, ReservedPorts};
pub use workload::{Artifact, ContentKind, Need, Workload, WorkloadId};

/// Why a runtime could not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The workload can never run as described: a wrong artifact, a wrong setting. Only another document ends this, so
    /// the same call is not made again.
    #[error("{0}")]
    Invalid(String),
    /// The workload itself, or the tool that was to run it, failed and said why. The next attempt may succeed.
    #[error("{code}: {message}")]
    Failed {
        /// A stable word for the kind of failure, such as `address-in-use`.
        code: String,
        /// The reason in words for people.
        message: String,
    },
    /// The runtime has no such workload.
    #[error("{0} is not here")]
    Absent(WorkloadId),
    /// Something between the runtime and the workload failed, such as the disk or a socket. It may succeed later.
    #[error("{attempt}")]
    Io {
        /// What was attempted, such as `starting wasm-runner`.
        attempt: String,
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// What a workload uses of the host. A value that the runtime cannot tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Time that processors spent on the workload since it was last started.
    pub cpu_time: Option<Duration>,
    /// Bytes of memory that the workload holds now; pages that several processes share count by their share.
    pub memory: Option<u64>,
}

/// A way to run workloads, such as wasm-runner, Docker Compose or Helm.
///
/// A call may be dropped before it ends, since the agent gives up at the deadline of a [`Call`], and the agent may be
/// killed at any line. Whatever a call had done by then is found by the next `observe`, and the next `apply` or
/// `remove` of the same workload goes on from there. Calls for different workloads run at the same time; calls for one
/// workload come one after the other, except that `prepare` may come while another `prepare` is under way.
pub trait Runtime: Send + Sync {
    /// Returns the name by which a profile chooses this runtime (`x-edgewright-extensions: { runtime: wasm }`).
    fn name(&self) -> &'static str;

    /// Returns the deployment type of Margo that this runtime adds to the node's capabilities.
    fn deployment_type(&self) -> ProfileType;

    /// Finds out whether this runtime can run anything here and now. The error is the reason, for people: a program that
    /// is missing, an engine that does not answer.
    fn detect(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Names the content that this workload needs on the node's disk before it can be prepared; the manifest of its
    /// artifact is there already.
    ///
    /// The agent fetches what is missing, verifies all of it, and then asks again, because content that has arrived may
    /// name more: for Compose the archive comes first, then the manifests of the images that the deployment's lock
    /// names, then the layers that are for this platform. When everything named is there, the workload can be prepared.
    /// A runtime refuses an artifact that it cannot run here, with [`RuntimeError::Invalid`]: for wasm the artifact has
    /// exactly one layer, for Helm it holds a chart.
    fn needs<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Vec<Need>, RuntimeError>>;

    /// Returns the ports of the host that this workload will take. A start waits until workloads that are to be removed
    /// have given up the ports that it wants. Of a Helm release the agent knows none: its cluster settles who has what.
    fn ports(&self, _workload: &Workload) -> BTreeSet<u16> {
        BTreeSet::new()
    }

    /// Gets this revision ready while the one before it, if there is one, goes on undisturbed, so that `apply` takes as
    /// little time as possible. A revision that is prepared already is left as it is. Preparing promises nothing: `apply`
    /// comes without it when the agent was started anew. Of one workload at most one revision is kept prepared, until
    /// another one is prepared or applied, the workload is removed, [`Runtime::give_up`] is called or the agent ends.
    ///
    /// wasm starts the new process, which loads its component and waits. Compose loads the images into the engine and
    /// creates no container yet. Helm renders the chart and asks the cluster to check it (`--dry-run=server`).
    fn prepare(&self, _workload: Workload, _call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async { Ok(()) }.boxed()
    }

    /// Gives up the revision that is prepared, because it was withdrawn before it was applied. What runs stays.
    fn give_up(&self, _id: WorkloadId) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    /// Starts the workload, or replaces the revision that runs. Returns when the start is under way or, where the tool
    /// itself waits (`helm --wait`, `docker compose up --wait`), when it is done; `observe` tells how the workload is.
    /// What already runs with this digest is left untouched.
    ///
    /// The deadline of the call is the time that the document grants to a component (DEV-26), so a tool that has a limit
    /// of its own is given this one.
    fn apply(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Stops the workload and removes what it left. Removing what is not there succeeds. Until it has succeeded,
    /// `observe` goes on to show the workload.
    fn remove(&self, id: WorkloadId, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Returns every workload that this runtime has, also those that an earlier life of the agent started. An error means
    /// that nothing is known: the agent then starts and stops nothing here until the runtime can be observed again.
    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>>;

    /// Returns what is notified when an observation may have changed. A runtime without events of its own notifies after
    /// its own calls and leaves the rest to the agent's timer.
    fn changed(&self) -> Arc<Notify>;

    /// Returns the last lines that the workload wrote, oldest first, at most so many. Where it has several parts, each
    /// line begins with the part's name.
    fn logs(&self, id: WorkloadId, lines: usize) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>>;

    /// Returns what the workload uses now, all its parts together.
    fn stats(&self, id: WorkloadId) -> BoxFuture<'_, Result<Stats, RuntimeError>>;

    /// Stops the workload and starts the same revision again. Returns when the start is under way.
    fn restart(&self, id: WorkloadId, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Stops every workload of this node and keeps what the next life of the agent needs to start it again. A runtime
    /// whose workloads do not run on this host, such as Helm, does nothing.
    fn suspend(&self) -> BoxFuture<'_, Result<(), RuntimeError>>;
}
