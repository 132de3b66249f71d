//! The runtime itself: which workloads there are, and who supervises each.

use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    io,
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use margo::{Digest, ProfileType};
use runtime::{Condition, Observed, Runtime, RuntimeError, Workload, WorkloadId};
use tokio::{process::Command, sync::Notify, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    folder::Folder,
    settings::Settings,
    spec::Spec,
    supervisor::{Shown, Supervisor},
};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Each request in work is an instance with memory of its own.
const MAX_REQUESTS: usize = 32;

/// What the runtime needs to know.
#[derive(Clone, Debug)]
pub struct WasmRuntimeConfig {
    /// The program `wasm-runner`.
    pub runner: PathBuf,
    /// Where each workload has its folder.
    pub folder: PathBuf,
    /// Where this node keeps compiled components. What is in it is run as native code: it belongs to this node alone.
    pub cache: PathBuf,
}

/// Runs WebAssembly components that export `wasi:http/incoming-handler`.
///
/// Dropping it leaves the runners alone; [`WasmRuntime::stop_all`] ends them.
pub struct WasmRuntime {
    config: WasmRuntimeConfig,
    workloads: Mutex<BTreeMap<WorkloadId, Supervised>>,
    /// Held by whoever changes what runs, so that two orders for one workload come one after the other.
    changing: tokio::sync::Mutex<()>,
    changed: Arc<Notify>,
}

struct Supervised {
    digest: Digest,
    shown: Shown,
    /// `None` while it is replaced or removed.
    supervisor: Option<AbortOnDropHandle<()>>,
}

impl WasmRuntime {
    /// Takes up every runner that lives and starts again every one that does not: what an earlier life of the agent
    /// applied and did not remove is still wanted.
    pub async fn new(config: WasmRuntimeConfig) -> Result<Self, RuntimeError> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(io_error("finding the current folder"));
        let config = WasmRuntimeConfig {
            // A bare name is looked for in PATH.
            runner: if config.runner.components().count() > 1 { absolute(&config.runner)? } else { config.runner },
            folder: absolute(&config.folder)?,
            cache: absolute(&config.cache)?,
        };
        for folder in [&config.folder, &config.cache] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(io_error(format!("making the folder {}", folder.display())))?;
        }
        let runtime = Self {
            workloads: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            changed: Arc::default(),
            config,
        };
        let reading = || format!("reading {}", runtime.config.folder.display());
        for folder in Folder::list(&runtime.config.folder).map_err(io_error(reading()))? {
            match folder.spec().map_err(io_error(reading()))? {
                Some(spec) => runtime.supervise(spec.workload, spec.digest, folder),
                None => {
                    info!(folder = %folder.path().display(), "removing what is left of a workload");
                    delete(&folder).await?;
                }
            }
        }
        Ok(runtime)
    }

    /// Stops every workload and keeps it: the next life of the agent starts it again.
    pub async fn stop_all(&self) -> Result<(), RuntimeError> {
        let _changing = self.changing.lock().await;
        let workloads = std::mem::take(&mut *self.workloads());
        let stops = workloads.into_iter().map(async |(id, supervised)| {
            end(supervised.supervisor).await;
            let stopped = Folder::of(&self.config.folder, &id).stop().await;
            stopped.map(drop).map_err(io_error(format!("stopping {id}")))
        });
        let stopped = join_all(stops).await.into_iter().collect();
        self.changed.notify_one();
        stopped
    }

    async fn apply(&self, workload: Workload) -> Result<(), RuntimeError> {
        let _changing = self.changing.lock().await;
        let is_held = |held: &Supervised| held.digest == workload.digest && held.supervisor.is_some();
        if self.workloads().get(&workload.id).is_some_and(is_held) {
            return Ok(());
        }
        let folder = Folder::of(&self.config.folder, &workload.id);
        let spec = self.spec(workload, &folder)?;
        folder.write_spec(&spec).map_err(io_error(format!("writing the specification of {}", spec.workload)))?;
        let old = self.workloads().get_mut(&spec.workload).and_then(|held| held.supervisor.take());
        end(old).await;
        // It finds the runner of the old document and stops it first.
        self.supervise(spec.workload, spec.digest, folder);
        self.changed.notify_one();
        Ok(())
    }

    fn spec(&self, workload: Workload, folder: &Folder) -> Result<Spec, RuntimeError> {
        let settings = Settings::parse(&workload.settings)?;
        let artifact = std::path::absolute(workload.artifact).map_err(io_error("finding the artifact"))?;
        Ok(Spec {
            workload: workload.id,
            digest: workload.digest,
            artifact,
            artifact_digest: workload.artifact_digest,
            environment: workload.environment,
            listen: SocketAddr::new(workload.address, settings.port.get()),
            memory_limit: settings.memory,
            request_timeout: REQUEST_TIMEOUT,
            max_requests: MAX_REQUESTS,
            cache: self.config.cache.clone(),
            folder: folder.path().to_owned(),
        })
    }

    fn supervise(&self, id: WorkloadId, digest: Digest, folder: Folder) {
        let shown = Shown::new(self.changed.clone());
        let supervisor = Supervisor { folder, runner: self.config.runner.clone(), shown: shown.clone() };
        let supervisor = Some(AbortOnDropHandle::new(tokio::spawn(supervisor.run())));
        self.workloads().insert(id, Supervised { digest, shown, supervisor });
    }

    async fn remove(&self, id: WorkloadId) -> Result<(), RuntimeError> {
        let _changing = self.changing.lock().await;
        let supervisor = match self.workloads().get_mut(&id) {
            // The entry stays, so that the workload is seen until it is gone.
            Some(held) => held.supervisor.take(),
            None => return Ok(()),
        };
        end(supervisor).await;
        let removed = delete(&Folder::of(&self.config.folder, &id)).await;
        match &removed {
            Ok(()) => drop(self.workloads().remove(&id)),
            Err(error) => {
                warn!(workload = %id, error = error as &dyn std::error::Error, "not removed");
                if let Some(held) = self.workloads().get(&id) {
                    held.shown.set(Condition::Failed { code: "not-removed".to_owned(), message: error.to_string() });
                }
            }
        }
        self.changed.notify_one();
        removed
    }

    async fn detect(&self) -> Result<(), String> {
        let runner = self.config.runner.display();
        let asked = Command::new(&self.config.runner).arg("--version").env_clear().kill_on_drop(true).output();
        match timeout(Duration::from_secs(10), asked).await {
            Err(_) => Err(format!("{runner} --version does not answer")),
            Ok(Err(error)) => Err(format!("{runner} does not start: {error}")),
            Ok(Ok(output)) if !output.status.success() => Err(format!("{runner} --version: {}", output.status)),
            Ok(Ok(output)) if !output.stdout.starts_with(b"wasm-runner ") => Err(format!("{runner} is no wasm-runner")),
            Ok(Ok(_)) => Ok(()),
        }
    }

    fn workloads(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, Supervised>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for WasmRuntime {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn deployment_type(&self) -> ProfileType {
        ProfileType::Custom
    }

    fn detect(&self) -> BoxFuture<'_, Result<(), String>> {
        self.detect().boxed()
    }

    fn apply(&self, workload: Workload) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.apply(workload).boxed()
    }

    fn remove(&self, id: WorkloadId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.remove(id).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        let observed = |(id, held): (&WorkloadId, &Supervised)| Observed {
            id: id.clone(),
            digest: held.digest,
            condition: held.shown.get(),
        };
        let all = self.workloads().iter().map(observed).collect();
        async { Ok(all) }.boxed()
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }
}

/// Stops its runner, if there is one, and removes the folder.
async fn delete(folder: &Folder) -> Result<(), RuntimeError> {
    let attempt = || format!("removing {}", folder.path().display());
    let lock = match folder.stop().await {
        // Nothing of it is there any more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        stopped => stopped.map_err(io_error(attempt()))?,
    };
    folder.delete(lock).map_err(io_error(attempt()))
}

/// Returns when the supervisor does nothing more; its runner stays.
async fn end(supervisor: Option<AbortOnDropHandle<()>>) {
    if let Some(supervisor) = supervisor {
        supervisor.abort();
        let _cancelled = supervisor.await;
    }
}

fn io_error(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let attempt = attempt.into();
    |source| RuntimeError::Io { attempt, source }
}
