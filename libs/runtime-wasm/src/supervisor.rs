//! Keeps one workload running.

use std::{
    io,
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use runtime::Condition;
use tokio::{
    process::Child,
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    ask,
    folder::{Folder, Holder},
    process::Process,
    spec::{Command, LastWords},
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A runner that lived so long is thought to be well: the next pause is the first one again.
const STEADY: Duration = Duration::from_secs(60);

/// How a workload is, for whoever wants to know.
#[derive(Clone)]
pub struct Shown {
    condition: Arc<Mutex<Condition>>,
    changed: Arc<Notify>,
}

impl Shown {
    /// A workload that is on its way up.
    pub fn new(changed: Arc<Notify>) -> Self {
        Self { condition: Arc::new(Mutex::new(Condition::Starting)), changed }
    }

    /// How it is.
    pub fn get(&self) -> Condition {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is now like this.
    pub fn set(&self, condition: Condition) {
        let mut shown = self.condition.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != condition {
            *shown = condition;
            self.changed.notify_one();
        }
    }
}

/// Runs what the folder's specification says, again and again, until it is dropped. It may be dropped at any line, as
/// the agent may be killed at any line: the runner stays, and the next supervisor takes it up.
pub struct Supervisor {
    /// Of the workload.
    pub folder: Folder,
    /// The program.
    pub runner: PathBuf,
    /// How it is.
    pub shown: Shown,
}

/// The runner, as a child of ours or of an earlier life of the agent.
enum Runner {
    Child(Child),
    TakenUp(Process),
}

impl Runner {
    async fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Child(child) => child.wait().await.map(Some),
            Self::TakenUp(process) => process.ended().await.map(|()| None),
        }
    }
}

impl Supervisor {
    /// Never returns.
    pub async fn run(self) {
        let mut failures = 0;
        loop {
            self.shown.set(Condition::Starting);
            let begin = Instant::now();
            let words = self
                .run_once()
                .await
                .unwrap_or_else(|error| LastWords { code: "not-started".to_owned(), message: error.to_string() });
            if begin.elapsed() >= STEADY {
                failures = 0;
            }
            let pause = pause(failures, jitter());
            failures = failures.saturating_add(1);
            warn!(folder = %self.folder.path().display(), code = words.code, message = words.message, ?pause, "the runner ended");
            self.shown.set(Condition::Failed { code: words.code, message: words.message });
            sleep(pause).await;
        }
    }

    /// Takes the runner up or starts one; returns what it said when it ended.
    async fn run_once(&self) -> io::Result<LastWords> {
        let spec = self.folder.spec()?.ok_or_else(|| io::Error::other("the specification is gone"))?;
        let lock = match self.folder.holder().await? {
            Holder::Runner(process, digest) if digest == spec.digest => {
                info!(workload = %spec.workload, "taking up a runner that lives");
                return self.watch(Runner::TakenUp(process)).await;
            }
            Holder::Runner(..) => self.folder.stop().await?,
            Holder::Nobody(lock) => lock,
        };
        let child = self.folder.start(lock, &self.runner)?;
        info!(workload = %spec.workload, pid = child.id(), "started a runner");
        self.watch(Runner::Child(child)).await
    }

    async fn watch(&self, mut runner: Runner) -> io::Result<LastWords> {
        let status = tokio::select! {
            status = runner.ended() => status?,
            () = self.show_running() => runner.ended().await?,
        };
        let (words, last_line) = self.folder.last_words()?;
        Ok(words.unwrap_or_else(|| {
            let how = status.map_or_else(|| "it ended".to_owned(), |status| status.to_string());
            let message = last_line.map_or_else(|| how.clone(), |line| format!("{how}: {line}"));
            LastWords { code: "exited".to_owned(), message }
        }))
    }

    /// Returns when the runner answers.
    async fn show_running(&self) {
        // It compiles its component at its first start, which takes a while; from the cache, next to nothing.
        let mut pause = Duration::from_millis(5);
        loop {
            if let Ok(status) = ask(self.folder.path(), Command::Status).await {
                self.shown.set(Condition::Running { endpoint: Some(format!("http://{}/", status.listen)) });
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}

/// Doubles with each failure; `jitter` of 0 to 1 takes up to half of it away, so that workloads which failed together
/// do not start together.
fn pause(failures: u32, jitter: f64) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE);
    whole.mul_f64(1.0 - jitter / 2.0).max(FIRST_PAUSE)
}

fn jitter() -> f64 {
    // Without randomness there is no jitter; the pauses still grow.
    getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_one_second_to_sixty() {
        let pauses: Vec<_> = (0..8).map(|failures| pause(failures, 0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX, 0.0), LONGEST_PAUSE);
        assert_eq!(pause(3, 1.0), Duration::from_secs(4));
        assert_eq!(pause(0, 1.0), FIRST_PAUSE);
    }
}
