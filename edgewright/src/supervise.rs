//! Keeping services and children running.

use std::time::{Duration, Instant};

use service::Backoff;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// The pause after a first failure: most pass quickly.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A run this long was a good one: the next pause is short again.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// Runs `attempt` until it ends well (which it does at shutdown); after a failure again, after a growing pause.
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

/// Tasks that live as long as the process. None dies unseen.
#[derive(Default)]
pub struct Tasks(JoinSet<(String, anyhow::Result<()>)>);

impl Tasks {
    /// Adds one.
    pub fn spawn(&mut self, name: impl Into<String>, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let name = name.into();
        self.0.spawn(async move { (name, task.await) });
    }

    /// Waits until all have ended. A task that fails ends the others.
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
