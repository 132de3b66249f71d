//! The loop over signals and timers: when `fleet.git` is looked at.
//!
//! A signal only says "look again"; a lost one costs at most a minute.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::Subscriber;
use bus::Bus;
use futures::{FutureExt, StreamExt};
use minter::Roll;
use process::Backoff;
use service::Readiness;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    domain::{Keys, keys},
    git::Fleet,
};

/// Between looks that nobody asked for.
const LOOK: Duration = Duration::from_secs(60);

/// Whom the newest commit is told to.
pub struct Told {
    /// Who may log in, for the minter.
    pub roll: watch::Sender<Option<Arc<Roll>>>,
    /// The key of each client, for those who ask.
    pub keys: watch::Sender<Option<Keys>>,
}

/// Tells what follows from the newest commit, until shutdown. Fails only when `signals` end.
pub async fn run(
    fleet: Fleet,
    bus: Bus,
    mut signals: Subscriber,
    told: Told,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut connections = bus.connections();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    let (mut seen, mut look) = (None, Instant::now());
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Ok(()) = connections.changed() => {}
            signal = signals.next() => {
                signal.context("the subscription to git.committed.fleet ended")?;
                // One look is enough for all signals that are there.
                while let Some(Some(_)) = signals.next().now_or_never() {}
            }
            () = sleep_until(look) => {}
        }
        let looking = fleet.clone();
        let found = tokio::task::spawn_blocking(move || looking.look(seen)).await.context("looking at fleet.git")?;
        look = Instant::now()
            + match found {
                Ok(found) => {
                    seen = found.folder;
                    if let Some(next) = found.roll
                        && told.roll.borrow().as_deref() != Some(&next)
                    {
                        info!(sites = next.members.len(), revoked = next.revoked.len(), "who may log in");
                        told.keys.send_replace(Some(keys(&next)));
                        told.roll.send_replace(Some(Arc::new(next)));
                    }
                    backoff.reset();
                    readiness.ready();
                    LOOK
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "fleet.git does not say who may log in");
                    readiness.not_ready(&format!("{error:#}"));
                    backoff.pause()
                }
            };
    }
}
