//! The runtime itself: which workloads there are, and how one revision gives way to the next.
//!
//! Each workload has a slot of its own, and calls for one workload take turns in it, so a workload that is slow to stop
//! holds up no other. Applying, removing and restarting run as tasks of their own from the point where they begin to
//! change what runs: a caller that gives up then waits no longer, and what was begun is still brought to its end. Each
//! step in there has a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use disk::blocking;
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use margo::{Digest, ProfileType, Restart, WasmRole, WasmSettings};
use oci::{Descriptor, media};
use process::chain;
use runtime::{
    Artifact, Call, Collector, Condition, Need, Observed, ReservedPorts, Runtime, RuntimeError, Stats, Workload,
    WorkloadId,
};
use tokio::{
    process::Command,
    sync::{Notify, OwnedMutexGuard, RwLock},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use crate::{
    Allowed, Egress, ask, cache,
    folder::{Folder, see_off},
    port::HeldPort,
    spec::{self, CollectorSpec, CompileLimits, Spec},
    start::{Gone, StartError, Starting},
    supervisor::{Shown, Supervisor, View, learn_port},
};

/// Each request in work is an instance with memory of its own.
const MAX_REQUESTS: usize = 32;
/// As long as what is made with it (HMAC-SHA256).
const KEY_LENGTH: usize = 32;
/// `wasm-runner --version` answers within milliseconds, unless the node is in trouble.
const DETECT_PATIENCE: Duration = Duration::from_secs(10);

/// What the runtime depends on.
#[derive(Clone, Debug)]
pub struct WasmRuntimeConfig {
    /// The program `wasm-runner`: a path, or a bare name that is looked for in PATH.
    pub runner: PathBuf,
    /// The folder in which each workload has its own.
    pub folder: PathBuf,
    /// Where this node keeps compiled components. What is in it is run as native code: it belongs to this node alone.
    pub cache: PathBuf,
    /// The file with the key by which this node knows what it compiled itself. It is made when it is missing, and lies outside
    /// the cache, so that whoever can only put files into the cache has none.
    pub cache_key: PathBuf,
    /// The address on which workloads listen.
    pub address: IpAddr,
    /// Ports that no workload may take.
    pub reserved: ReservedPorts,
    /// What components may ask for.
    pub allowed: Allowed,
    /// Where components send their telemetry.
    pub collector: Collector,
}

/// Runs WebAssembly components that export `wasi:http/incoming-handler` or `wasi:cli/run`.
///
/// Dropping it leaves the runners alone; [`Runtime::suspend`] ends them.
pub struct WasmRuntime {
    config: WasmRuntimeConfig,
    slots: Arc<Slots>,
    changed: Arc<Notify>,
    /// Held for reading by whoever prepares a revision, whose code nobody removes then.
    preparing: Arc<RwLock<()>>,
}

#[derive(Default)]
struct Slots(Mutex<BTreeMap<WorkloadId, Arc<Slot>>>);

/// The place of one workload.
struct Slot {
    folder: Folder,
    shown: Shown,
    port: HeldPort,
    /// Held by whoever changes the workload, so that two calls for it come one after the other.
    turn: Arc<tokio::sync::Mutex<Turn>>,
}

#[derive(Default)]
struct Turn {
    supervisor: Option<AbortOnDropHandle<()>>,
    prepared: Option<Prepared>,
    /// Whether the workload was removed while somebody waited for a turn.
    is_removed: bool,
}

/// A revision that could answer at once.
struct Prepared {
    spec: Spec,
    starting: Starting,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkloadId, Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &WorkloadId) -> Option<Arc<Slot>> {
        self.lock().get(id).cloned()
    }
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
            cache_key: absolute(&config.cache_key)?,
            allowed: config.allowed,
            collector: config.collector,
            address: config.address,
            reserved: config.reserved,
        };
        for folder in [&config.folder, &config.cache] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(io_error(format!("making the folder {}", folder.display())))?;
        }
        make_key(&config.cache_key).map_err(io_error(format!("making {}", config.cache_key.display())))?;
        let runtime = Self { slots: Arc::default(), changed: Arc::default(), preparing: Arc::default(), config };
        let reading = || format!("reading {}", runtime.config.folder.display());
        for folder in Folder::list(&runtime.config.folder).map_err(io_error(reading()))? {
            runtime.find(folder).await.map_err(io_error(reading()))?;
        }
        runtime.pruner().prune().await;
        Ok(runtime)
    }

    /// Goes on with what an earlier life of the agent left in this folder.
    async fn find(&self, folder: Folder) -> io::Result<()> {
        folder.forget_next()?;
        match folder.spec() {
            Ok(Some(spec)) => {
                let slot = self.slot(&spec.workload);
                slot.shown.set(View::starting(&spec));
                slot.turn.lock().await.supervisor = Some(self.supervise(&slot, None));
            }
            Ok(None) => {
                info!(folder = %folder.path().display(), "removing what is left of a workload");
                delete(&folder).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let error = &error as &dyn std::error::Error;
                error!(folder = %folder.path().display(), error, "left alone until it is applied or removed");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn pruner(&self) -> Pruner {
        let WasmRuntimeConfig { cache, folder, .. } = &self.config;
        Pruner { cache: cache.clone(), workloads: folder.clone(), preparing: self.preparing.clone() }
    }

    fn slot(&self, id: &WorkloadId) -> Arc<Slot> {
        let new = || {
            Arc::new(Slot {
                folder: Folder::of(&self.config.folder, id),
                shown: Shown::nothing(self.changed.clone()),
                port: HeldPort::default(),
                turn: Arc::default(),
            })
        };
        self.slots.lock().entry(id.clone()).or_insert_with(new).clone()
    }

    /// Waits for a turn at a workload, which gets a slot when it has none.
    async fn turn(&self, id: &WorkloadId) -> (Arc<Slot>, OwnedMutexGuard<Turn>) {
        loop {
            let slot = self.slot(id);
            let turn = slot.turn.clone().lock_owned().await;
            if !turn.is_removed {
                return (slot, turn);
            }
        }
    }

    fn supervise(&self, slot: &Slot, gone: Option<Gone>) -> AbortOnDropHandle<()> {
        supervise(slot, self.config.runner.clone(), gone)
    }

    fn spec(&self, workload: &Workload) -> Result<Spec, RuntimeError> {
        let refused = |error: margo::InvalidWasmSettings| RuntimeError::Invalid(error.to_string());
        let settings = WasmSettings::parse(&workload.settings).map_err(refused)?;
        self.config.allowed.check(&settings, self.config.address, &self.config.reserved).map_err(refused)?;
        let (listen, request_timeout, restart) = match settings.role {
            WasmRole::Service { port, timeout } => {
                (Some(SocketAddr::new(self.config.address, port.get())), timeout, Restart::Always)
            }
            WasmRole::Command { restart } => (None, Duration::MAX, restart),
        };
        let mut environment = workload.environment();
        let collector = self.offered_collector();
        if collector.is_some() {
            for (name, value) in self.config.collector.variables() {
                environment.entry(name).or_insert(value);
            }
        }
        let component = component(&workload.artifact)?;
        let artifact = std::path::absolute(workload.content.path(&component.digest));
        Ok(Spec {
            workload: workload.id.clone(),
            digest: workload.digest,
            artifact: artifact.map_err(io_error("finding the artifact"))?,
            artifact_digest: component.digest,
            before: None,
            environment,
            listen,
            restart,
            data: settings.data,
            egress: settings.egress,
            collector,
            memory_limit: settings.memory.bytes(),
            request_timeout,
            max_requests: MAX_REQUESTS,
            compiling: CompileLimits::default(),
            cache: self.config.cache.clone(),
            cache_key: self.config.cache_key.clone(),
            folder: Folder::of(&self.config.folder, &workload.id).path().to_owned(),
        })
    }

    /// The collector that components are told of: none where the node lets them connect to nothing.
    fn offered_collector(&self) -> Option<CollectorSpec> {
        let Collector { certificate, .. } = &self.config.collector;
        let destinations = self.config.collector.destinations();
        let is_offered = !destinations.is_empty() && self.config.allowed.wasm_egress != Egress::None;
        is_offered.then(|| CollectorSpec { destinations, certificate: certificate.clone() })
    }

    /// Prepares the workload unless it is prepared or runs already.
    async fn prepare_in(
        &self,
        slot: &Slot,
        turn: &mut Turn,
        workload: &Workload,
        call: &Call,
    ) -> Result<(), RuntimeError> {
        if slot.runs(turn, workload.digest) {
            return Ok(());
        }
        let is_ready = |prepared: &mut Prepared| prepared.spec.digest == workload.digest && prepared.starting.waits();
        if turn.prepared.as_mut().is_some_and(is_ready) {
            return Ok(());
        }
        let _preparing = self.preparing.read().await;
        let mut spec = self.spec(workload)?;
        // One that does not read is nothing to go back to.
        let in_force = slot.folder.spec().ok().flatten();
        spec.before = in_force.and_then(|in_force| in_force.way_back(spec.artifact_digest));
        // One that is prepared for another document reads the file that is written next.
        turn.prepared = None;
        let writing = || format!("writing the specification of {}", spec.workload);
        let (folder, next) = (slot.folder.clone(), spec.clone());
        let file = blocking(move || folder.write_next(&next)).await.map_err(io_error(writing()))?;
        call.progress.tell("loading the component");
        let starting = Starting::spawn(&slot.folder, &self.config.runner, &file);
        let mut starting = starting.map_err(io_error("starting wasm-runner"))?;
        starting.ready().await.map_err(not_ready)?;
        debug!(workload = %spec.workload, digest = %spec.digest, "prepared");
        turn.prepared = Some(Prepared { spec, starting });
        Ok(())
    }

    async fn prepare(&self, workload: Workload, call: Call) -> Result<(), RuntimeError> {
        let (slot, mut turn) = self.turn(&workload.id).await;
        self.prepare_in(&slot, &mut turn, &workload, &call).await
    }

    async fn give_up(&self, id: WorkloadId) {
        if let Some(slot) = self.slots.get(&id) {
            slot.turn.lock().await.prepared = None;
        }
    }

    async fn apply(&self, workload: Workload, call: Call) -> Result<(), RuntimeError> {
        let (slot, mut turn) = self.turn(&workload.id).await;
        self.prepare_in(&slot, &mut turn, &workload, &call).await?;
        let Some(prepared) = turn.prepared.take() else { return Ok(()) };
        call.progress.tell("replacing the runner");
        let (runner, pruner) = (self.config.runner.clone(), self.pruner());
        let replaced = to_its_end(async move {
            let replaced = replace(&slot, &mut turn, prepared, runner).await;
            tokio::spawn(pruner.prune());
            replaced.map_err(io_error(format!("replacing the runner in {}", slot.folder.path().display())))
        });
        replaced.await
    }

    async fn remove(&self, id: WorkloadId) -> Result<(), RuntimeError> {
        let folder = Folder::of(&self.config.folder, &id);
        if self.slots.get(&id).is_none() && !folder.path().exists() {
            return Ok(());
        }
        let (slot, mut turn) = self.turn(&id).await;
        let (slots, changed, pruner) = (self.slots.clone(), self.changed.clone(), self.pruner());
        to_its_end(async move {
            turn.prepared = None;
            end(turn.supervisor.take()).await;
            slot.port.close();
            // Shown until it is gone.
            let removed = delete(&slot.folder).await;
            match &removed {
                Ok(()) => {
                    turn.is_removed = true;
                    slots.lock().remove(&id);
                    tokio::spawn(pruner.prune());
                }
                Err(error) => {
                    warn!(workload = %id, error = error as &dyn std::error::Error, "not removed");
                    let failed = Condition::Failed { code: "not-removed".to_owned(), message: chain(error) };
                    slot.shown.set_condition(failed);
                }
            }
            changed.notify_one();
            removed.map_err(io_error(format!("removing {}", slot.folder.path().display())))
        })
        .await
    }

    async fn restart(&self, id: WorkloadId, call: Call) -> Result<(), RuntimeError> {
        let slot = self.slots.get(&id).ok_or_else(|| RuntimeError::Absent(id.clone()))?;
        let mut turn = slot.turn.clone().lock_owned().await;
        if turn.is_removed || slot.shown.get().is_none() {
            return Err(RuntimeError::Absent(id));
        }
        // It would take the place of the one that is started now.
        turn.prepared = None;
        call.progress.tell("loading the component");
        let starting = Starting::spawn(&slot.folder, &self.config.runner, &slot.folder.spec_file());
        let mut starting = starting.map_err(io_error("starting wasm-runner"))?;
        starting.ready().await.map_err(not_ready)?;
        let runner = self.config.runner.clone();
        let restarted = to_its_end(async move {
            end(turn.supervisor.take()).await;
            if slot.shown.get().is_some_and(|view| view.condition == Condition::Completed) {
                // What it did before says nothing about this time.
                slot.shown.set_condition(Condition::Starting);
            }
            let gone = match slot.folder.forget_done() {
                Ok(()) => hand_over(&slot, starting).await,
                Err(error) => Err(error),
            };
            let (gone, result) = match gone {
                Ok(gone) => (Some(gone), Ok(())),
                Err(error) => (None, Err(error)),
            };
            turn.supervisor = Some(supervise(&slot, runner, gone));
            result.map_err(io_error(format!("restarting the runner in {}", slot.folder.path().display())))
        });
        restarted.await
    }

    async fn suspend(&self) -> Result<(), RuntimeError> {
        let slots = std::mem::take(&mut *self.slots.lock());
        let stops = slots.into_iter().map(async |(id, slot)| {
            let mut turn = slot.turn.clone().lock_owned().await;
            turn.is_removed = true;
            turn.prepared = None;
            end(turn.supervisor.take()).await;
            slot.port.close();
            let stopped = async {
                match slot.folder.stop().await? {
                    (_, Some(leaving)) => see_off(leaving).await,
                    (_, None) => Ok(()),
                }
            };
            match stopped.await {
                // It was never more than prepared.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                stopped => stopped.map_err(io_error(format!("stopping {id}"))),
            }
        });
        let stopped = join_all(stops).await.into_iter().collect();
        self.changed.notify_one();
        stopped
    }

    async fn detect(&self) -> Result<(), String> {
        let runner = self.config.runner.display();
        let asked = Command::new(&self.config.runner).arg("--version").env_clear().kill_on_drop(true).output();
        match timeout(DETECT_PATIENCE, asked).await {
            Err(_) => Err(format!("{runner} --version does not answer")),
            Ok(Err(error)) => Err(format!("{runner} does not start: {error}")),
            Ok(Ok(output)) if !output.status.success() => Err(format!("{runner} --version: {}", output.status)),
            Ok(Ok(output)) if !output.stdout.starts_with(b"wasm-runner ") => Err(format!("{runner} is no wasm-runner")),
            Ok(Ok(_)) => Ok(()),
        }
    }

    fn observe(&self) -> Vec<Observed> {
        let observed = |(id, slot): (&WorkloadId, &Arc<Slot>)| {
            let View { digest, condition, restarts, port } = slot.shown.get()?;
            let whole = Observed::whole(id.clone(), digest, condition);
            Some(Observed { restarts, ports: port.into_iter().collect(), ..whole })
        };
        self.slots.lock().iter().filter_map(observed).collect()
    }

    async fn stats(&self, id: WorkloadId) -> Result<Stats, RuntimeError> {
        let slot = self.slots.get(&id).ok_or_else(|| RuntimeError::Absent(id.clone()))?;
        let asked = ask(slot.folder.path(), spec::Command::Status).await;
        let status = asked.map_err(io_error(format!("asking the runner of {id}")))?;
        let process = status.process;
        let used = blocking(move || Ok(Stats { cpu_time: process.cpu_time(), memory: process.memory() }));
        used.await.map_err(io_error(format!("measuring the runner of {id}")))
    }

    async fn logs(&self, id: WorkloadId, lines: usize) -> Result<Vec<String>, RuntimeError> {
        let slot = self.slots.get(&id).ok_or_else(|| RuntimeError::Absent(id.clone()))?;
        slot.folder.logs(lines).await.map_err(io_error(format!("reading the log of {id}")))
    }
}

/// What removes compiled code that no workload may start any more.
struct Pruner {
    cache: PathBuf,
    workloads: PathBuf,
    preparing: Arc<RwLock<()>>,
}

impl Pruner {
    /// Does so, unless a revision is being prepared; the next change does it then. What stays costs disk and nothing else.
    async fn prune(self) {
        let Self { cache, workloads, preparing } = self;
        let Ok(alone) = preparing.try_write_owned() else { return };
        let pruned = blocking(move || {
            let _nobody_prepares = alone;
            cache::prune(&cache, &workloads)
        });
        match pruned.await {
            Ok(0) => {}
            Ok(files) => debug!(files, "removed compiled code that no workload needs"),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "compiled code that nobody needs may still be there");
            }
        }
    }
}

impl Slot {
    /// Whether this document is in force and kept running.
    fn runs(&self, turn: &Turn, digest: Digest) -> bool {
        turn.supervisor.is_some() && self.shown.get().is_some_and(|view| view.digest == digest)
    }
}

/// Puts a prepared revision in the place of the one that runs. From its first step on the new document is in force: should
/// a later step fail, the supervisor brings it up.
async fn replace(slot: &Slot, turn: &mut Turn, prepared: Prepared, runner: PathBuf) -> io::Result<()> {
    let Prepared { spec, starting } = prepared;
    slot.folder.enforce_next()?;
    process::stop_point("runtime-wasm.enforced");
    let folder = slot.folder.clone();
    let synced = AbortOnDropHandle::new(tokio::spawn(async move { folder.sync_spec().await }));
    end(turn.supervisor.take()).await;
    slot.shown.set(View::starting(&spec));
    let (gone, result) = match hand_over(slot, starting).await {
        Ok(gone) => {
            info!(workload = %spec.workload, pid = gone.child.id(), "a runner took over");
            (Some(gone), Ok(()))
        }
        Err(error) => (None, Err(error)),
    };
    turn.supervisor = Some(supervise(slot, runner, gone));
    synced.await.map_err(io::Error::other)??;
    result
}

/// Has the runner that runs give up port and lock, and the new one, whose specification is in force, take over. The old one may go on with the requests in
/// work for a while; it is seen off in the background.
async fn hand_over(slot: &Slot, starting: Starting) -> io::Result<Gone> {
    let spec = slot.folder.spec()?.ok_or_else(|| io::Error::other("the specification is gone"))?;
    if let Some(listen) = spec.listen {
        learn_port(&slot.folder, &slot.port, listen).await;
    }
    let (lock, leaving) = slot.folder.stop().await?;
    drop(lock);
    process::stop_point("runtime-wasm.port-free");
    let port = spec.listen.and_then(|listen| slot.port.get(listen));
    if port.is_none() {
        // The revision of before had another one, or the new one is a command.
        slot.port.close();
    }
    let gone = starting.go(port).await;
    process::stop_point("runtime-wasm.gone");
    if let Some(leaving) = leaving {
        tokio::spawn(async move {
            if let Err(error) = see_off(leaving).await {
                warn!(error = &error as &dyn std::error::Error, "a runner that was replaced did not end");
            }
        });
    }
    gone
}

fn supervise(slot: &Slot, runner: PathBuf, gone: Option<Gone>) -> AbortOnDropHandle<()> {
    let (folder, port, shown) = (slot.folder.clone(), slot.port.clone(), slot.shown.clone());
    let supervisor = Supervisor { folder, runner, port, shown, gone };
    AbortOnDropHandle::new(tokio::spawn(supervisor.run()))
}

/// Runs work that must not be left half done as a task of its own: a caller that gives up only stops waiting for it.
async fn to_its_end(work: impl Future<Output = Result<(), RuntimeError>> + Send + 'static) -> Result<(), RuntimeError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        let source = io::Error::other(error);
        Err(RuntimeError::Io { attempt: "changing a workload".to_owned(), source })
    })
}

/// Returns the one layer of a WebAssembly artifact.
fn component(artifact: &Artifact) -> Result<&Descriptor, RuntimeError> {
    let [layer] = artifact.manifest.layers.as_slice() else {
        return Err(RuntimeError::Invalid("the artifact of a wasm component must have exactly one layer".to_owned()));
    };
    if layer.media_type != media::WASM {
        let rule = format!("the layer of a wasm component must be {}, not {}", media::WASM, layer.media_type);
        return Err(RuntimeError::Invalid(rule));
    }
    Ok(layer)
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

    fn needs<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Vec<Need>, RuntimeError>> {
        async { Ok(vec![workload.artifact.blob(component(&workload.artifact)?)]) }.boxed()
    }

    fn ports(&self, workload: &Workload) -> BTreeSet<u16> {
        WasmSettings::parse(&workload.settings).ok().and_then(|settings| settings.port()).into_iter().collect()
    }

    fn prepare(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.prepare(workload, call).boxed()
    }

    fn give_up(&self, id: WorkloadId) -> BoxFuture<'_, ()> {
        self.give_up(id).boxed()
    }

    fn apply(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.apply(workload, call).boxed()
    }

    fn remove(&self, id: WorkloadId, _call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.remove(id).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        let observed = self.observe();
        async { Ok(observed) }.boxed()
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    fn logs(&self, id: WorkloadId, lines: usize) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        self.logs(id, lines).boxed()
    }

    fn stats(&self, id: WorkloadId) -> BoxFuture<'_, Result<Stats, RuntimeError>> {
        self.stats(id).boxed()
    }

    fn restart(&self, id: WorkloadId, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.restart(id, call).boxed()
    }

    fn suspend(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.suspend().boxed()
    }
}

/// Makes the key, unless there is one. One that is not whole would be refused by every runner, so it is made anew.
fn make_key(path: &Path) -> io::Result<()> {
    if disk::read_optional(path)?.is_some_and(|key| key.len() == KEY_LENGTH) {
        return Ok(());
    }
    let mut key = [0; KEY_LENGTH];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    disk::write_private(path, &key)
}

/// Stops the runner, if there is one, and removes the folder.
async fn delete(folder: &Folder) -> io::Result<()> {
    let (lock, leaving) = match folder.stop().await {
        // Nothing of it is there any more.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        stopped => stopped?,
    };
    if let Some(leaving) = leaving {
        see_off(leaving).await?;
    }
    folder.delete(lock).await
}

/// Returns when the supervisor does nothing more; its runner stays.
async fn end(supervisor: Option<AbortOnDropHandle<()>>) {
    if let Some(supervisor) = supervisor {
        supervisor.abort();
        let _cancelled = supervisor.await;
    }
}

/// An artifact that is not what was ordered, or no component, stays so; whatever else the runner says may pass.
fn not_ready(error: StartError) -> RuntimeError {
    match error {
        StartError::Ended(words) if words.code == spec::ARTIFACT => RuntimeError::Invalid(words.message),
        StartError::Ended(words) => RuntimeError::Failed { code: words.code, message: words.message },
        StartError::Io(source) => RuntimeError::Io { attempt: "starting wasm-runner".to_owned(), source },
    }
}

fn io_error(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let attempt = attempt.into();
    |source| RuntimeError::Io { attempt, source }
}
