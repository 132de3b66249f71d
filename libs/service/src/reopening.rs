//! The loop around what a service reads from the bus: it is opened again whenever it is lost.

use std::{error::Error, time::Duration};

use bus::{Bus, streams::FIRST_PAUSE};
use process::Backoff;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Readiness;

/// The longest pause between two lives, and so the longest time that a stream goes unread which is there again. A life
/// that lasted longer shows that the fault had passed, so the pause after it is the shortest again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Reads from the bus until shutdown, in one life after another. Each call of `read` is one life: it opens what the
/// service reads, says that the service is ready, and reads; it returns `Ok` only at shutdown. `what` names it in the
/// log.
///
/// A life ends with an error when its consumer or its stream is deleted, or when the connection is lost for longer
/// than the consumer bridges. The service then says that it is not ready, and why. After a pause, and not before the
/// server is connected, the next life opens everything anew; so a stream that another service has yet to make is tried
/// until it is there. Nothing gets lost in between, because what no life has acknowledged is delivered again.
pub async fn reopening<F: Future<Output = anyhow::Result<()>>>(
    what: &str,
    bus: &Bus,
    readiness: &Readiness,
    shutdown: &CancellationToken,
    mut read: impl FnMut() -> F,
) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    while shutdown.run_until_cancelled(bus.connected()).await.is_some() {
        let begin = Instant::now();
        let Err(failure) = read().await else { return };
        readiness.not_ready(&format!("{failure:#}"));
        if begin.elapsed() > LONGEST_PAUSE {
            backoff.reset();
        }
        let pause = backoff.pause();
        warn!(what, error = &*failure as &dyn Error, ?pause, "reading was interrupted");
        shutdown.run_until_cancelled(sleep(pause)).await;
    }
}
