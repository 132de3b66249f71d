//! The end of a process: work in hand is finished within a grace period.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long a process may take to finish what it has in hand. It is less than the 10 s after which Docker kills it.
pub const GRACE: Duration = Duration::from_secs(8);

/// Returns a token that is cancelled by SIGTERM and SIGINT. It fails when the signals cannot be listened for.
pub fn shutdown_token() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: finishing work in hand"),
            _ = interrupt.recv() => info!("SIGINT: finishing work in hand"),
        }
        cancelled.cancel();
    });
    Ok(token)
}

/// Runs until `work` ends. After `shutdown` is cancelled, `work` gets the grace period, and is then dropped.
pub async fn within_grace(
    work: impl Future<Output = anyhow::Result<()>>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = work => result,
        () = grace => {
            warn!("the grace period ended with work in hand");
            Ok(())
        }
    }
}
