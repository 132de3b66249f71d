//! What the runtime and its supervisors share: the engine, the tool, the workloads, and how Compose is called for one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use disk::blocking;
use margo::Digest;
use process::chain;
use runtime::{Collector, Condition, ReservedPorts, RuntimeError, WorkloadId};
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    condition::Container,
    engine::{AGENT, COMPONENT, DEPLOYMENT, Engine},
    folder::{Folder, InForce},
    slot::{Slot, Turn},
    tool::Tool,
};

/// What the runtime depends on.
#[derive(Clone, Debug)]
pub struct DockerRuntimeConfig {
    /// The program docker-compose.
    pub compose: PathBuf,
    /// The socket of Docker Engine.
    pub socket: PathBuf,
    /// The folder in which each workload has its own.
    pub folder: PathBuf,
    /// The address on which workloads publish their ports.
    pub address: IpAddr,
    /// Ports that no workload may take.
    pub reserved: ReservedPorts,
    /// Where containers send their telemetry.
    pub collector: Collector,
}

/// What the runtime and its supervisors share.
pub struct Shared {
    pub config: DockerRuntimeConfig,
    /// The id of this agent's data folder, which stands on everything that is ours.
    pub agent: String,
    pub engine: Engine,
    pub tool: Tool,
    /// Fired when the runtime is dropped: supervisors hold what they share with it.
    pub stop: CancellationToken,
    pub slots: Mutex<BTreeMap<WorkloadId, Arc<Slot>>>,
    /// Told when the first workload comes.
    pub first: Notify,
    pub changed: Arc<Notify>,
    /// The ports of workloads that were looked at before they have a slot.
    pub ports: Mutex<BTreeMap<WorkloadId, (Digest, BTreeSet<u16>)>>,
    /// Images of ours that nobody needs and that somebody used when they were to go.
    pub used_images: Mutex<BTreeSet<String>>,
    /// Held by whoever decides which images are needed, until they are gone.
    pub dropping: tokio::sync::Mutex<()>,
    /// Whether the program was found to be one that can be used.
    pub checked: Mutex<bool>,
}

impl Shared {
    pub fn slots(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn all_slots(&self) -> Vec<Arc<Slot>> {
        self.slots().values().cloned().collect()
    }

    /// Returns the slot of a workload that has one.
    pub fn slot_of(&self, id: &WorkloadId) -> Option<Arc<Slot>> {
        self.slots().get(id).cloned()
    }

    pub fn folder(&self, id: &WorkloadId) -> Folder {
        Folder::of(&self.config.folder.join("workloads"), id)
    }

    pub fn slot(&self, id: &WorkloadId) -> Arc<Slot> {
        let new = || Arc::new(Slot::new(id, self.folder(id)));
        let slot = self.slots().entry(id.clone()).or_insert_with(new).clone();
        self.first.notify_one();
        slot
    }

    /// Waits until there is a workload.
    pub async fn has_workloads(&self) {
        while self.slots().is_empty() {
            self.first.notified().await;
        }
    }

    /// Has every supervisor look.
    pub fn wake_all(&self) {
        self.slots().values().for_each(|slot| slot.wake.notify_one());
        self.changed.notify_one();
    }

    /// Waits for a turn at a workload, which gets a slot when it has none.
    pub async fn turn(&self, id: &WorkloadId) -> (Arc<Slot>, OwnedMutexGuard<Turn>) {
        loop {
            let slot = self.slot(id);
            let turn = slot.turn.clone().lock_owned().await;
            if !turn.is_removed {
                return (slot, turn);
            }
        }
    }

    /// The labels of everything that belongs to one workload.
    pub fn labels(&self, id: &WorkloadId) -> Vec<String> {
        vec![
            format!("{AGENT}={}", self.agent),
            format!("{DEPLOYMENT}={}", id.deployment),
            format!("{COMPONENT}={}", id.component),
        ]
    }

    /// Lists the containers of one workload.
    pub async fn containers(&self, id: &WorkloadId) -> Result<Vec<Container>, RuntimeError> {
        Ok(self.engine.containers(self.labels(id)).await?.iter().filter_map(Container::read).collect())
    }

    /// Has Compose make what is in force from what is there, and says so on the disk.
    pub async fn up(&self, slot: &Slot, in_force: &InForce, deadline: Instant) -> Result<(), RuntimeError> {
        let mut arguments = project_arguments(slot, &in_force.revision.digest);
        arguments.extend(["up", "--detach", "--no-build", "--remove-orphans"].map(OsString::from));
        if let Err(error) = self.tool.run(arguments, deadline).await {
            slot.view().failure = Some(failure(&error));
            return Err(error);
        }
        slot.view().failure = None;
        let applied = InForce { applied: true, ..in_force.clone() };
        slot.set_in_force(applied.clone());
        let folder = slot.folder.clone();
        let written = blocking(move || {
            folder.enforce(&applied)?;
            folder.retain(&[applied.revision.digest])
        });
        written.await.map_err(io_error(format!("writing into {}", slot.folder.path().display())))
    }

    /// Has Compose make the containers of these services that are missing, and leave all others alone.
    pub async fn up_services(
        &self,
        slot: &Slot,
        in_force: &InForce,
        services: &BTreeSet<String>,
        deadline: Instant,
    ) -> Result<(), RuntimeError> {
        let mut arguments = project_arguments(slot, &in_force.revision.digest);
        arguments.extend(["up", "--detach", "--no-build", "--no-deps", "--"].map(OsString::from));
        arguments.extend(services.iter().map(OsString::from));
        self.tool.run(arguments, deadline).await.map(|_| ())
    }
}

/// The arguments that name a project and its file.
pub fn project_arguments(slot: &Slot, digest: &Digest) -> Vec<OsString> {
    vec![
        "--project-name".into(),
        (&slot.project).into(),
        "--file".into(),
        slot.folder.compose_file(digest).into(),
        "--project-directory".into(),
        slot.folder.files(digest).into(),
        // Nothing is left to be replaced, and a file `.env` in the archive is none of the tool's.
        "--env-file".into(),
        "/dev/null".into(),
    ]
}

/// What is shown of a workload that could not be applied.
pub fn failure(error: &RuntimeError) -> Condition {
    let (code, message) = match error {
        RuntimeError::Failed { code, message } => (code.clone(), message.clone()),
        other => ("not-applied".to_owned(), chain(other)),
    };
    Condition::Failed { code, message }
}

pub fn io_error(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let attempt = attempt.into();
    |source| RuntimeError::Io { attempt, source }
}
