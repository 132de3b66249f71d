//! The level trigger: nodes that came to match an assignment get it.
//!
//! A signal says "look again", and so does every minute; what is there decides. Looking only adds, and looking twice
//! does nothing the second time.

use std::time::Duration;

use bus::trace;
use tokio::{select, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use crate::{error::OrderError, handler::Registry};

/// Without a signal: signals get lost.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// After a look that failed, because a neighbour was not there.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Between two `place` orders: a thousand nodes that boot together are a few commits.
const PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// Looks until shutdown.
pub async fn run(registry: &Registry, shutdown: &CancellationToken) {
    let mut signals = registry.look_again.subscribe();
    let mut pace = Pace { next: Instant::now() };
    let mut cause: Option<String> = None;
    loop {
        let span = info_span!("evaluate", trace_id = tracing::field::Empty);
        if let Some(cause) = &cause {
            trace::continue_from_text(&span, cause);
        }
        let wait = match look(registry, &mut pace, shutdown).instrument(span).await {
            Ok(()) => LOOK_INTERVAL,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "nodes not evaluated");
                RETRY_INTERVAL
            }
        };
        cause = select! {
            biased;
            () = shutdown.cancelled() => return,
            // The sender is in `registry`, so it is not gone.
            _ = signals.changed() => signals.borrow_and_update().clone(),
            () = tokio::time::sleep(wait) => None,
        };
    }
}

struct Pace {
    next: Instant,
}

impl Pace {
    /// Waits until the next order may be made.
    async fn wait(&mut self) {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + PLACE_INTERVAL;
    }
}

async fn look(registry: &Registry, pace: &mut Pace, shutdown: &CancellationToken) -> Result<(), OrderError> {
    // Named nodes had to be active when they were named: only sites can come to mean more.
    let names = registry.store.standing_for_sites().await?;
    if names.is_empty() {
        return Ok(());
    }
    let fleet = registry.neighbours.fleet().await?;
    let mut failure = Ok(());
    for name in names {
        let Some(assignment) = registry.store.load(&name).await? else { continue };
        if fleet.missing(&assignment).is_empty() {
            continue;
        }
        select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            () = pace.wait() => {}
        }
        let app = &assignment.spec.app;
        let placed = async { registry.place(&name, app, registry.neighbours.app(app).await?, &fleet).await };
        // One that cannot be placed must not keep the others from it.
        if let Err(error) = placed.await {
            failure = Err(error);
        }
    }
    failure
}
