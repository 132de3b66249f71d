//! The loop that reads reports from the hub's streams, and keeps these streams in being.

use std::time::Duration;

use anyhow::Context;
use bus::{Bus, Pattern, ServiceName, streams};
use futures::{StreamExt, stream};
use service::Readiness;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::{batch::handle, store::Store};

/// The most reports of one transaction: enough to share a sync of the disk among many, few enough to be stored in
/// milliseconds.
const BATCH: usize = 500;

/// The pause between two looks whether the streams are still there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Makes the streams that are missing, and reads reports from them until shutdown: one life for [`service::reopening`].
/// Nothing is lost by an error, because an unstored report is not acknowledged.
pub async fn collect(
    bus: &Bus,
    store: &Store,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    keep_streams(bus).await?;
    let service = ServiceName::StatusCollector;
    let states = bus.messages(service, streams::STATE, &[Pattern::Statuses], BATCH).await?;
    let events = bus.messages(service, streams::EVENTS, &[Pattern::Events], BATCH).await?;
    // Takes what is there, at most a batch: a single report does not wait, and under load many share a transaction.
    let mut batches = stream::select(states, events).ready_chunks(BATCH);
    readiness.ready();
    let mut look_again = interval(LOOK_AGAIN);
    look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let batch = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            // Nothing here reads DEAD_LETTERS, so only looking tells that it was deleted.
            _ = look_again.tick() => {
                keep_streams(bus).await?;
                continue;
            }
            // Cancel-safe: what we have not acknowledged is delivered again.
            next = batches.next() => next.context("the consumers ended")?,
        };
        let batch = batch.into_iter().collect::<Result<Vec<_>, _>>().context("pulling reports")?;
        handle(store, batch).await?;
    }
}

/// Makes the streams that are not there. A new STATE stream has a new identity, upon which every site sends its last
/// values again.
async fn keep_streams(bus: &Bus) -> anyhow::Result<()> {
    for config in [streams::state(Pattern::State), streams::events_at_hub(), streams::dead_letters()] {
        let name = config.name.clone();
        let made = bus.jetstream().get_or_create_stream(config).await;
        made.with_context(|| format!("making the stream {name}"))?;
    }
    Ok(())
}
