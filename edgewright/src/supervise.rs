//! Keeping services and child processes running.

use std::time::{Duration, Instant};

use process::Backoff;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The pause after a first failure. It is short because most failures pass quickly, such as a server that restarts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two attempts, and so the longest time that a repaired fault goes unnoticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A run of this length shows that the fault had passed, so the pause after it is the shortest again.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// Runs `attempt` again after each failure, with growing pauses, until it succeeds, which it does at shutdown. A failure
/// during shutdown is returned.
pub async fn restarting<F: Future<Output = anyhow::Result<()>>>(
    name: &str,
    shutdown: &CancellationToken,
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(SHORTEST_PAUSE, LONGEST_PAUSE);
    loop {
        let begin = Instant::now();
        let result = attempt().await;
        if begin.elapsed() > GOOD_RUN {
            backoff.reset();
        }
        let pause = backoff.pause();
        match result {
            Ok(()) => return Ok(()),
            Err(failure) if shutdown.is_cancelled() => return Err(failure),
            Err(failure) => error!(name, error = format!("{failure:#}"), ?pause, "ended; starting it again"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Tasks that live as long as the process. [`Tasks::join`] awaits all of them, so that none dies unseen.
#[derive(Default)]
pub struct Tasks(JoinSet<(String, anyhow::Result<()>)>);

impl Tasks {
    /// Starts a task; logs call it by this name.
    pub fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let name = name.into();
        self.0.spawn(async move { (name, task.await) });
    }

    /// Waits until all tasks have ended, and returns the first failure. A task that fails has the others shut down.
    pub async fn join(mut self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.0.join_next().await {
            let (name, ended) = ended?;
            match ended {
                Ok(()) => info!(name, "ended"),
                Err(failure) => {
                    error!(name, error = format!("{failure:#}"), "failed");
                    shutdown.cancel();
                    result = result.and(Err(failure.context(name)));
                }
            }
        }
        result
    }
}
