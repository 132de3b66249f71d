//! Keeping services and children running.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

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
    let mut pause = Duration::from_millis(200);
    loop {
        let begin = Instant::now();
        match attempt().await {
            Ok(()) => return Ok(()),
            Err(failure) if shutdown.is_cancelled() => return Err(failure),
            Err(failure) => error!(name, error = format!("{failure:#}"), pause = ?pause, "ended; starting it again"),
        }
        if begin.elapsed() > GOOD_RUN {
            pause = Duration::from_millis(200);
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of it and all of it, so that things that fell together do not rise together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [0];
    let share = getrandom::fill(&mut byte).map_or(1.0, |()| 0.5 + f64::from(byte[0]) / 512.0);
    pause.mul_f64(share)
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
