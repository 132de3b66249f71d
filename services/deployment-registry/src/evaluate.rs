//! The loop that gives assignments to nodes that came to match them.
//!
//! A signal of node-capabilities only says "look again", and so does every minute; which nodes there are decides. A
//! lost signal therefore costs a minute at most. Looking only adds, and looking twice does nothing the second time.

use std::time::Duration;

use api::Targets;
use bus::trace;
use tokio::{select, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use crate::{domain::Fleet, error::OrderError, handler::Registry};

/// How long to wait for a signal before looking all the same, because signals may get lost.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long to wait after a look that failed, most often because another service did not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The shortest time between two `place` orders. A thousand nodes that boot together then become a few commits and not
/// a thousand.
const PLACE_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the start, on each signal and when it is time, until shutdown. A look continues the trace of the signal.
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
            // This cannot fail: the sender lives in `registry`.
            _ = signals.changed() => signals.borrow_and_update().clone(),
            () = tokio::time::sleep(wait) => None,
        };
    }
}

/// Keeps `place` orders at least [`PLACE_INTERVAL`] apart.
struct Pace {
    next: Instant,
}

impl Pace {
    /// Waits until the next order may be given, and counts it as given now.
    async fn wait(&mut self) {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + PLACE_INTERVAL;
    }
}

/// Looks at each assignment that may have come to mean more nodes, and places it on those that miss it. One that cannot
/// be placed does not keep the others from it; the last failure is returned after all were tried.
async fn look(registry: &Registry, pace: &mut Pace, shutdown: &CancellationToken) -> Result<(), OrderError> {
    // A node that is named had to be active at that time, so only an assignment that names sites can come to mean more.
    let names = registry.store.standing_for_sites().await?;
    let mut fleet = Fleet::default();
    let mut failure = Ok(());
    for name in names {
        let Some(assignment) = registry.store.load(&name).await? else { continue };
        let named = assignment.spec.targets.sites.iter();
        let sites: Vec<_> = named.filter(|site| !fleet.sites.contains(*site)).cloned().collect();
        if !sites.is_empty() {
            match registry.neighbours.fleet(&Targets { nodes: Vec::new(), sites }).await {
                Ok(found) => fleet.extend(found),
                Err(error) => {
                    failure = Err(error);
                    continue;
                }
            }
        }
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
        if let Err(error) = placed.await {
            failure = Err(error);
        }
    }
    failure
}
