//! A runtime that starts nothing: it records what it was told, with delays and faults by setting.
//!
//! Tests and measurements give it to an agent in place of a real runtime. A profile chooses it with
//! `x-edgewright-extensions: { runtime: "null" }`. What it "runs" lives in its memory and ends with it.
//!
//! ```
//! use std::time::Duration;
//!
//! use runtime_null::{NullRuntime, Settings};
//!
//! // Every start takes three seconds, and the first one fails.
//! let settings = Settings { start_delay: Duration::from_secs(3), failing_starts: 1, ..Settings::default() };
//! let runtime = NullRuntime::new(settings);
//! assert_eq!((runtime.starts(), runtime.deeds()), (0, vec![]));
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt};
use margo::{Digest, ProfileType};
use runtime::{Call, Condition, Need, Observed, Part, Runtime, RuntimeError, Stats, Workload, WorkloadId};
use tokio::{sync::Notify, time::sleep};

/// The name by which a profile asks for this runtime, unless the settings give another one.
pub const NAME: &str = "null";

/// How the runtime behaves. By default everything succeeds at once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name by which a profile asks for this runtime, so that a test may have several.
    pub name: &'static str,
    /// How long each preparation takes before it is recorded.
    pub prepare_delay: Duration,
    /// How long each start takes before it is recorded.
    pub start_delay: Duration,
    /// How long each stop takes before it is recorded.
    pub stop_delay: Duration,
    /// How long each look takes before it tells anything.
    pub look_delay: Duration,
    /// How many starts fail, from the first one on; the later ones succeed.
    pub failing_starts: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: NAME,
            prepare_delay: Duration::ZERO,
            start_delay: Duration::ZERO,
            stop_delay: Duration::ZERO,
            look_delay: Duration::ZERO,
            failing_starts: 0,
        }
    }
}

/// One thing that the runtime did, in the order in which it did them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It prepared this workload with this digest.
    Prepared(WorkloadId, Digest),
    /// It gave up what it had prepared for this workload.
    GivenUp(WorkloadId),
    /// It started this workload with this digest.
    Started(WorkloadId, Digest),
    /// It stopped this workload, because of a removal, a restart, or because one with another digest replaced it.
    Stopped(WorkloadId),
}

struct Held {
    workload: Workload,
    condition: Condition,
    parts: Vec<Part>,
    restarts: u32,
}

struct State {
    settings: Settings,
    running: BTreeMap<WorkloadId, Held>,
    prepared: BTreeMap<WorkloadId, Digest>,
    deeds: Vec<Deed>,
    workloads: Vec<Workload>,
    failed_starts: usize,
    next: Result<Condition, String>,
    /// What is said of single artifacts, by the digest of their manifest.
    next_of: BTreeMap<Digest, Result<Condition, String>>,
    unpreparable: BTreeMap<Digest, String>,
    blind: bool,
    /// Why nothing can be run here, if so.
    unusable: Option<String>,
}

impl State {
    /// Whether the workload is prepared, or runs, for this document.
    fn has(&self, id: &WorkloadId, digest: Digest) -> bool {
        self.prepared.get(id) == Some(&digest)
            || self.running.get(id).is_some_and(|held| held.workload.digest == digest)
    }
}

/// The runtime. Its agent and whoever looks at the deeds share it by an [`Arc`].
pub struct NullRuntime {
    name: &'static str,
    state: Mutex<State>,
    starts: AtomicUsize,
    begun: AtomicUsize,
    looks: AtomicUsize,
    changed: Arc<Notify>,
}

impl Default for NullRuntime {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl NullRuntime {
    /// A runtime that runs nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            name: settings.name,
            state: Mutex::new(State {
                settings,
                running: BTreeMap::new(),
                prepared: BTreeMap::new(),
                deeds: Vec::new(),
                workloads: Vec::new(),
                failed_starts: 0,
                next: Ok(Condition::Running { endpoint: None }),
                next_of: BTreeMap::new(),
                unpreparable: BTreeMap::new(),
                blind: false,
                unusable: None,
            }),
            starts: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
            changed: Arc::default(),
        }
    }

    /// Changes how the runtime behaves from the next call on. Its name stays.
    pub fn set_settings(&self, settings: Settings) {
        self.lock().settings = settings;
    }

    /// Says how workloads are that are started from now on. An error refuses them as invalid, with this reason.
    pub fn set_next(&self, next: Result<Condition, String>) {
        self.lock().next = next;
    }

    /// The same for workloads with this artifact alone.
    pub fn set_next_of(&self, artifact: Digest, next: Result<Condition, String>) {
        self.lock().next_of.insert(artifact, next);
    }

    /// Refuses to prepare workloads with this artifact, as invalid and with this reason.
    pub fn set_unpreparable(&self, artifact: Digest, reason: &str) {
        self.lock().unpreparable.insert(artifact, reason.to_owned());
    }

    /// Shows every workload in this condition from now on.
    pub fn show(&self, condition: &Condition) {
        self.change(|held| held.condition = condition.clone());
    }

    /// Shows every workload as made of these parts from now on.
    pub fn show_parts(&self, parts: &[Part]) {
        self.change(|held| held.parts = parts.to_vec());
    }

    /// Counts one more restart of every workload, as if each had died and been started again.
    pub fn count_restart(&self) {
        self.change(|held| held.restarts += 1);
    }

    /// Has every observation fail from now on, or succeed again.
    pub fn set_blind(&self, blind: bool) {
        self.lock().blind = blind;
        self.changed.notify_one();
    }

    /// Says from now on that nothing can be run here, for this reason, or that it can.
    pub fn set_unusable(&self, reason: Option<&str>) {
        self.lock().unusable = reason.map(str::to_owned);
    }

    /// Everything that it did so far.
    pub fn deeds(&self) -> Vec<Deed> {
        self.lock().deeds.clone()
    }

    /// How many starts succeeded so far. This counts without a lock, because measurements ask a thousand runtimes often.
    pub fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    /// How many looks at its workloads have begun so far.
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// How many starts have begun so far, whatever became of them. The delay of each was read before it was counted.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Every workload as it was given to a start that succeeded, in the order of the starts.
    pub fn workloads(&self) -> Vec<Workload> {
        self.lock().workloads.clone()
    }

    /// Every workload that is there, as it was given to its start.
    pub fn running(&self) -> Vec<Workload> {
        self.lock().running.values().map(|held| held.workload.clone()).collect()
    }

    /// The names of the components that are there.
    pub fn components(&self) -> Vec<String> {
        self.lock().running.keys().map(|id| id.component.to_string()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No deed is half done when a thread panics: the state is as it was before or after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settings(&self) -> Settings {
        self.lock().settings.clone()
    }

    fn change(&self, change: impl FnMut(&mut Held)) {
        self.lock().running.values_mut().for_each(change);
        self.changed.notify_one();
    }

    fn start(&self, workload: Workload) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        let id = workload.id.clone();
        if state.failed_starts < state.settings.failing_starts {
            state.failed_starts += 1;
            let source = io::Error::other("the settings want this start to fail");
            return Err(RuntimeError::Io { attempt: format!("starting {id}"), source });
        }
        let next = state.next_of.get(&workload.artifact.digest).unwrap_or(&state.next);
        let condition = next.clone().map_err(RuntimeError::Invalid)?;
        let digest = workload.digest;
        let held = Held { workload: workload.clone(), condition, parts: Vec::new(), restarts: 0 };
        if state.running.insert(id.clone(), held).is_some() {
            state.deeds.push(Deed::Stopped(id.clone()));
        }
        state.prepared.remove(&id);
        state.workloads.push(workload);
        state.deeds.push(Deed::Started(id, digest));
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// The port that a component's settings name, read as wasm reads it, so that tests can have workloads that want the same.
fn ports(workload: &Workload) -> BTreeSet<u16> {
    let port = workload.settings.pointer("/http/port").and_then(|port| port.as_u64());
    port.and_then(|port| u16::try_from(port).ok()).into_iter().collect()
}

impl Runtime for NullRuntime {
    fn name(&self) -> &'static str {
        self.name
    }

    fn deployment_type(&self) -> ProfileType {
        ProfileType::Custom
    }

    fn detect(&self) -> BoxFuture<'_, Result<(), String>> {
        async { self.lock().unusable.clone().map_or(Ok(()), Err) }.boxed()
    }

    fn needs<'a>(&'a self, workload: &'a Workload) -> BoxFuture<'a, Result<Vec<Need>, RuntimeError>> {
        async { Ok(workload.artifact.layers().collect()) }.boxed()
    }

    fn ports(&self, workload: &Workload) -> BTreeSet<u16> {
        ports(workload)
    }

    fn prepare(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async move {
            let Workload { id, digest, artifact, .. } = workload;
            if let Some(reason) = self.lock().unpreparable.get(&artifact.digest) {
                return Err(RuntimeError::Invalid(reason.clone()));
            }
            if self.lock().has(&id, digest) {
                return Ok(());
            }
            call.progress.tell("waiting as the settings say");
            sleep(self.settings().prepare_delay).await;
            let mut state = self.lock();
            // Another call may have prepared it meanwhile.
            if state.has(&id, digest) {
                return Ok(());
            }
            state.prepared.insert(id.clone(), digest);
            state.deeds.push(Deed::Prepared(id, digest));
            Ok(())
        }
        .boxed()
    }

    fn give_up(&self, id: WorkloadId) -> BoxFuture<'_, ()> {
        async move {
            let mut state = self.lock();
            if state.prepared.remove(&id).is_some() {
                state.deeds.push(Deed::GivenUp(id));
            }
        }
        .boxed()
    }

    fn apply(&self, workload: Workload, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async move {
            if self.lock().running.get(&workload.id).is_some_and(|held| held.workload.digest == workload.digest) {
                return Ok(());
            }
            call.progress.tell("waiting as the settings say");
            let delay = self.settings().start_delay;
            self.begun.fetch_add(1, Ordering::Relaxed);
            sleep(delay).await;
            self.start(workload)?;
            self.changed.notify_one();
            Ok(())
        }
        .boxed()
    }

    fn remove(&self, id: WorkloadId, _call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async move {
            sleep(self.settings().stop_delay).await;
            let mut state = self.lock();
            state.prepared.remove(&id);
            if state.running.remove(&id).is_some() {
                state.deeds.push(Deed::Stopped(id));
                self.changed.notify_one();
            }
            Ok(())
        }
        .boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        async {
            self.looks.fetch_add(1, Ordering::Relaxed);
            let delay = self.settings().look_delay;
            // A timer of no time takes a millisecond, which is much where a thousand of these are measured.
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let state = self.lock();
            if state.blind {
                let source = io::Error::other("the test wants it so");
                return Err(RuntimeError::Io { attempt: "looking".to_owned(), source });
            }
            let observed = |(id, held): (&WorkloadId, &Held)| Observed {
                parts: held.parts.clone(),
                restarts: held.restarts,
                ports: ports(&held.workload),
                ..Observed::whole(id.clone(), held.workload.digest, held.condition.clone())
            };
            Ok(state.running.iter().map(observed).collect())
        }
        .boxed()
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    fn logs(&self, id: WorkloadId, lines: usize) -> BoxFuture<'_, Result<Vec<String>, RuntimeError>> {
        async move {
            let state = self.lock();
            let digest = state.running.get(&id).ok_or(RuntimeError::Absent(id))?.workload.digest;
            Ok([format!("started for {digest}")].into_iter().take(lines).collect())
        }
        .boxed()
    }

    fn stats(&self, id: WorkloadId) -> BoxFuture<'_, Result<Stats, RuntimeError>> {
        async move {
            let runs = self.lock().running.contains_key(&id);
            if runs {
                Ok(Stats { cpu_time: Some(Duration::ZERO), memory: Some(0) })
            } else {
                Err(RuntimeError::Absent(id))
            }
        }
        .boxed()
    }

    fn restart(&self, id: WorkloadId, call: Call) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async move {
            let held = self.lock().running.remove(&id).ok_or(RuntimeError::Absent(id.clone()))?;
            self.lock().deeds.push(Deed::Stopped(id));
            self.apply(held.workload, call).await
        }
        .boxed()
    }

    fn suspend(&self) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async {
            let mut state = self.lock();
            let stopped: Vec<_> = std::mem::take(&mut state.running).into_keys().map(Deed::Stopped).collect();
            state.deeds.extend(stopped);
            Ok(())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use oci::{ArtifactManifest, ContentStore, Descriptor};
    use runtime::Artifact;
    use tempfile::TempDir;

    use super::*;

    struct World {
        _folder: TempDir,
        content: ContentStore,
    }

    impl World {
        async fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let content = ContentStore::open(folder.path()).await.unwrap();
            Self { _folder: folder, content }
        }

        fn workload(&self, document: &str) -> Workload {
            let manifest = ArtifactManifest::artifact("x", vec![Descriptor::of("text/plain", b"layer")]);
            Workload {
                id: WorkloadId {
                    deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
                    component: "hello".parse().unwrap(),
                },
                digest: Digest::of(document.as_bytes()),
                artifact: Artifact {
                    repository: "hello".parse().unwrap(),
                    digest: Digest::of(&manifest.to_json()),
                    manifest,
                },
                values: BTreeMap::new(),
                images: BTreeMap::new(),
                settings: serde_json::json!({ "http": { "port": 8080 } }),
                content: self.content.clone(),
            }
        }
    }

    fn call() -> Call {
        Call::within(Duration::from_secs(60))
    }

    #[tokio::test]
    async fn what_runs_already_is_left_untouched_and_another_document_replaces_it() {
        let (world, runtime) = (World::new().await, NullRuntime::default());
        let (first, second) = (world.workload("first"), world.workload("second"));
        for wanted in [&first, &first, &second] {
            runtime.apply(wanted.clone(), call()).await.unwrap();
        }
        let started = |workload: &Workload| Deed::Started(workload.id.clone(), workload.digest);
        assert_eq!(runtime.deeds(), [started(&first), Deed::Stopped(first.id.clone()), started(&second)]);
        let observed = runtime.observe().await.unwrap();
        assert_eq!((observed[0].digest, observed[0].ports.clone()), (second.digest, BTreeSet::from([8080])));
        assert_eq!(runtime.starts(), 2);
    }

    #[tokio::test]
    async fn a_preparation_is_recorded_once_and_leaves_what_runs_alone() {
        let (world, runtime) = (World::new().await, NullRuntime::default());
        let (first, second) = (world.workload("first"), world.workload("second"));
        runtime.apply(first.clone(), call()).await.unwrap();
        for _ in 0..2 {
            runtime.prepare(second.clone(), call()).await.unwrap();
        }
        assert_eq!(runtime.deeds()[1..], [Deed::Prepared(second.id, second.digest)]);
        assert_eq!(runtime.observe().await.unwrap()[0].digest, first.digest);
    }

    #[tokio::test]
    async fn a_removal_is_recorded_once() {
        let (world, runtime) = (World::new().await, NullRuntime::default());
        let workload = world.workload("document");
        runtime.apply(workload.clone(), call()).await.unwrap();
        runtime.remove(workload.id.clone(), call()).await.unwrap();
        runtime.remove(workload.id.clone(), call()).await.unwrap();
        assert_eq!(runtime.deeds()[1..], [Deed::Stopped(workload.id)]);
        assert_eq!(runtime.observe().await.unwrap(), []);
    }

    #[tokio::test]
    async fn as_many_starts_fail_as_the_settings_say() {
        let world = World::new().await;
        let runtime = NullRuntime::new(Settings { failing_starts: 2, ..Settings::default() });
        let workload = world.workload("document");
        assert!(runtime.apply(workload.clone(), call()).await.is_err());
        assert!(runtime.apply(workload.clone(), call()).await.is_err());
        assert!(runtime.apply(workload, call()).await.is_ok());
        assert_eq!(runtime.starts(), 1);
    }

    #[tokio::test]
    async fn a_start_takes_as_long_as_the_settings_say() {
        let world = World::new().await;
        // Only now: the store works on other threads, for which a paused clock does not wait.
        tokio::time::pause();
        let delay = Duration::from_secs(3);
        let runtime = NullRuntime::new(Settings { start_delay: delay, ..Settings::default() });
        let begin = tokio::time::Instant::now();
        runtime.apply(world.workload("document"), call()).await.unwrap();
        // The timer rounds up to whole milliseconds.
        let elapsed = begin.elapsed();
        assert!(elapsed >= delay && elapsed <= delay + Duration::from_millis(2), "{elapsed:?}");
    }

    #[tokio::test]
    async fn a_blind_runtime_says_so_and_a_restart_stops_before_it_starts() {
        let (world, runtime) = (World::new().await, NullRuntime::default());
        let workload = world.workload("document");
        runtime.apply(workload.clone(), call()).await.unwrap();
        runtime.set_blind(true);
        assert!(runtime.observe().await.is_err());
        runtime.set_blind(false);
        runtime.restart(workload.id.clone(), call()).await.unwrap();
        let started = Deed::Started(workload.id.clone(), workload.digest);
        assert_eq!(runtime.deeds(), [started.clone(), Deed::Stopped(workload.id.clone()), started]);
        let other = WorkloadId { component: "other".parse().unwrap(), ..workload.id };
        assert!(matches!(runtime.restart(other, call()).await, Err(RuntimeError::Absent(_))));
    }
}
