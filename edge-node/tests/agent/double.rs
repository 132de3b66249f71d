//! A runtime without processes: shows what it was told, and how tests want it to be.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{FutureExt, future::BoxFuture};
use margo::{Digest, ProfileType};
use runtime::{Condition, Observed, Runtime, RuntimeError, Workload, WorkloadId};
use tokio::sync::Notify;

pub struct Double {
    state: Mutex<State>,
    changed: Arc<Notify>,
}

struct State {
    running: BTreeMap<WorkloadId, (Digest, Condition)>,
    starts: Vec<Workload>,
    next: Result<Condition, String>,
}

impl Double {
    pub fn new() -> Arc<Self> {
        let next = Ok(Condition::Running { endpoint: Some("http://127.0.0.1:8080/".to_owned()) });
        let state = State { running: BTreeMap::new(), starts: Vec::new(), next };
        Arc::new(Self { state: Mutex::new(state), changed: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What becomes of workloads that are started from now on; `Err`: they are invalid.
    pub fn next(&self, next: Result<Condition, String>) {
        self.lock().next = next;
    }

    /// All workloads are like this now.
    pub fn set(&self, condition: &Condition) {
        for (_, held) in self.lock().running.values_mut() {
            *held = condition.clone();
        }
        self.changed.notify_one();
    }

    /// Every start so far.
    pub fn starts(&self) -> Vec<Workload> {
        self.lock().starts.clone()
    }

    /// Components that are there.
    pub fn components(&self) -> Vec<String> {
        self.lock().running.keys().map(|id| id.component.to_string()).collect()
    }
}

impl Runtime for Double {
    fn name(&self) -> &'static str {
        "wasm"
    }

    fn deployment_type(&self) -> ProfileType {
        ProfileType::Custom
    }

    fn detect(&self) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn apply(&self, workload: Workload) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let mut state = self.lock();
        let applied = state.next.clone().map_err(RuntimeError::Invalid).map(|condition| {
            state.running.insert(workload.id.clone(), (workload.digest, condition));
            state.starts.push(workload);
        });
        self.changed.notify_one();
        async { applied }.boxed()
    }

    fn remove(&self, id: WorkloadId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.lock().running.remove(&id);
        self.changed.notify_one();
        async { Ok(()) }.boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<Observed>, RuntimeError>> {
        let state = self.lock();
        let observed = state.running.iter().map(|(id, (digest, condition))| Observed {
            id: id.clone(),
            digest: *digest,
            condition: condition.clone(),
        });
        let observed = observed.collect();
        async { Ok(observed) }.boxed()
    }

    fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }
}
