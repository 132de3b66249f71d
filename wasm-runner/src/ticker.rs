//! The clock by which a computing request gives way.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context;
use wasmtime::Engine;

/// How long a request computes before the others get their turn.
const TICK: Duration = Duration::from_millis(10);

/// Advances the engine's epoch while requests are in work. Idle, it sleeps: a hundred wake-ups a second for each
/// workload would be felt on a small node.
#[derive(Clone)]
pub struct Ticker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    in_work: Mutex<usize>,
    begun: Condvar,
}

/// Counts as one request in work for as long as it lives.
pub struct InWork(Ticker);

impl Ticker {
    /// Starts the clock's thread, which lives as long as the process.
    pub fn start(engine: Engine) -> anyhow::Result<Self> {
        let ticker = Self(Arc::default());
        let shared = ticker.0.clone();
        #[expect(clippy::disallowed_methods, reason = "the thread is the ticker's own, and no task waits on it")]
        let tick = move || loop {
            let idle = shared.in_work.lock().unwrap_or_else(PoisonError::into_inner);
            drop(shared.begun.wait_while(idle, |in_work| *in_work == 0).unwrap_or_else(PoisonError::into_inner));
            thread::sleep(TICK);
            engine.increment_epoch();
        };
        thread::Builder::new().name("ticker".into()).stack_size(64 * 1024).spawn(tick).context("starting a thread")?;
        Ok(ticker)
    }

    /// A request begins; it ends with the value returned.
    pub fn begin(&self) -> InWork {
        self.count(|in_work| *in_work += 1);
        self.0.begun.notify_one();
        InWork(self.clone())
    }

    fn count(&self, change: impl FnOnce(&mut usize)) {
        change(&mut self.0.in_work.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.count(|in_work| *in_work -= 1);
    }
}
