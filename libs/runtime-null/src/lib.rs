//! A runtime that starts nothing: it records what it was told, with delays and faults by setting.
//!
//! Tests and measurements give it to an agent in place of a real runtime. A profile chooses it with
//! `x-edgewright-extensions: { runtime: "null" }`. What it "runs" lives in its memory and ends with it.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use margo::{Digest, ProfileType};
use runtime::{Condition, Observed, Runtime, RuntimeError, Workload, WorkloadId};
use tokio::{sync::Notify, time::sleep};

/// The name by which a profile asks for this runtime when the settings give no other.
pub const NAME: &str = "null";

/// How the runtime behaves. By default everything succeeds at once.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name by which a profile asks for it: the name of another runtime where that one's applications are to be
    /// ordered and not run.
    pub name: &'static str,
    /// How long each start takes before it is recorded.
    pub start_delay: Duration,
    /// How long each stop takes before it is recorded.
    pub stop_delay: Duration,
    /// How many starts fail, from the first one on; the later ones succeed.
    pub failing_starts: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { name: NAME, start_delay: Duration::ZERO, stop_delay: Duration::ZERO, failing_starts: 0 }
    }
}

/// One thing that the runtime did, in the order in which it did them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It started this workload for the document with this digest.
    Started(WorkloadId, Digest),
    /// It stopped this workload, because of a removal or because another document replaced it.
    Stopped(WorkloadId),
}

#[derive(Default)]
struct State {
    running: BTreeMap<WorkloadId, Digest>,
    deeds: Vec<Deed>,
    failed_starts: usize,
}

/// The runtime. Its agent and whoever looks at the deeds share it by an [`Arc`].
#[derive(Default)]
pub struct NullRuntime {
    settings: Settings,
    state: Mutex<State>,
    starts: AtomicUsize,
    changed: Arc<Notify>,
}

impl NullRuntime {
    /// A runtime that runs nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Everything that it did so far.
    pub fn deeds(&self) -> Vec<Deed> {
        self.lock().deeds.clone()
    }

    /// How many starts succeeded so far. This counts without a lock, because measurements ask a thousand runtimes often.
    pub fn starts(&self) -> usize {
        self.starts.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No deed is half done when a thread panics: the state is as it was before or after it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, id: WorkloadId, digest: Digest) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        if state.failed_starts < self.settings.failing_starts {
            state.failed_starts += 1;
            let source = io::Error::other("the settings want this start to fail");
            return Err(RuntimeError::Io { attempt: format!("starting {id}"), source });
        }
        if state.running.insert(id.clone(), digest).is_some() {
            state.deeds.push(Deed::Stopped(id.clone()));
        }
        state.deeds.push(Deed::Started(id, digest));
        self.starts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Runtime for NullRuntime {
    fn name(&self) -> &'static str {
        self.settings.name
    }

    fn deployment_type(&self) -> ProfileType {
        ProfileType::Custom
    }

    fn detect(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn apply(&self, Workload { id, digest, .. }: Workload) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            if self.lock().running.get(&id) == Some(&digest) {
                return Ok(());
            }
            sleep(self.settings.start_delay).await;
            self.start(id, digest)?;
            self.changed.notify_one();
            Ok(())
        })
    }

    fn remove(&self, id: WorkloadId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            sleep(self.settings.stop_delay).await;
            let mut state = self.lock();
            if state.running.remove(&id).is_some() {
                state.deeds.push(Deed::Stopped(id));
                self.changed.notify_one();
            }
            Ok(())
        })
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        Box::pin(async {
            let observed = |(id, digest): (&WorkloadId, &Digest)| Observed {
                id: id.clone(),
                digest: *digest,
                condition: Condition::Running { endpoint: None },
            };
            Ok(self.lock().running.iter().map(observed).collect())
        })
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(document: &str) -> Workload {
        Workload {
            id: WorkloadId {
                deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
                component: "hello".parse().unwrap(),
            },
            digest: Digest::of(document.as_bytes()),
            artifact: "/nowhere".into(),
            artifact_digest: Digest::of(b"artifact"),
            environment: BTreeMap::new(),
            settings: serde_json::Value::Null,
            address: "127.0.0.1".parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn what_runs_already_is_left_untouched_and_another_document_replaces_it() {
        let runtime = NullRuntime::default();
        let (first, second) = (workload("first"), workload("second"));
        for wanted in [&first, &first, &second] {
            runtime.apply(wanted.clone()).await.unwrap();
        }
        let started = |workload: &Workload| Deed::Started(workload.id.clone(), workload.digest);
        assert_eq!(runtime.deeds(), [started(&first), Deed::Stopped(first.id.clone()), started(&second)]);
        assert_eq!(runtime.observe().await.unwrap()[0].digest, second.digest);
        assert_eq!(runtime.starts(), 2);
    }

    #[tokio::test]
    async fn a_removal_is_recorded_once() {
        let runtime = NullRuntime::default();
        let workload = workload("document");
        runtime.apply(workload.clone()).await.unwrap();
        runtime.remove(workload.id.clone()).await.unwrap();
        runtime.remove(workload.id.clone()).await.unwrap();
        assert_eq!(runtime.deeds()[1..], [Deed::Stopped(workload.id)]);
        assert_eq!(runtime.observe().await.unwrap(), []);
    }

    #[tokio::test]
    async fn as_many_starts_fail_as_the_settings_say() {
        let runtime = NullRuntime::new(Settings { failing_starts: 2, ..Settings::default() });
        let workload = workload("document");
        assert!(runtime.apply(workload.clone()).await.is_err());
        assert!(runtime.apply(workload.clone()).await.is_err());
        assert!(runtime.apply(workload).await.is_ok());
        assert_eq!(runtime.starts(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_takes_as_long_as_the_settings_say() {
        let delay = Duration::from_secs(3);
        let runtime = NullRuntime::new(Settings { start_delay: delay, ..Settings::default() });
        let begin = tokio::time::Instant::now();
        runtime.apply(workload("document")).await.unwrap();
        assert_eq!(begin.elapsed(), delay);
    }
}
