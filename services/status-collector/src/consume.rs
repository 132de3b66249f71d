//! The loop that reads reports from the hub's streams into the database, and keeps these streams in being.

use std::time::Duration;

use anyhow::Context;
use bus::{Bus, Pattern, ServiceName, streams};
use futures::{StreamExt, stream};
use service::Readiness;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{batch::handle, store::Store, writer::Writer};

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
    writer: &Writer,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    keep_streams(bus).await?;
    let mut connections = bus.connections();
    fit_copies(bus, store, writer).await?;
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
            // A server that was started again may have an older disk. A consumer that does not fit any more is deleted, which
            // ends this life.
            _ = connections.changed() => {
                fit_copies(bus, store, writer).await?;
                continue;
            }
            // Cancel-safe: what we have not acknowledged is delivered again.
            next = batches.next() => next.context("the consumers ended")?,
        };
        let batch = batch.into_iter().collect::<Result<Vec<_>, _>>().context("pulling reports")?;
        // A site may have shown in the meantime that STATE has lost something.
        let [state, events] = writer.ids().await;
        handle(store, batch, &[(streams::STATE, state), (streams::EVENTS, events)]).await?;
    }
}

/// Makes the streams that are not there. A new STATE stream has a new identity, upon which every site sends its last
/// values again.
async fn keep_streams(bus: &Bus) -> anyhow::Result<()> {
    for config in [streams::state_at_hub(), streams::events_at_hub(), streams::dead_letters()] {
        let name = config.name.clone();
        let made = bus.jetstream().get_or_create_stream(config).await;
        made.with_context(|| format!("making the stream {name}"))?;
    }
    Ok(())
}

/// Compares both streams with their copies. First they are looked at, so that one that has lost something has its new identity.
async fn fit_copies(bus: &Bus, store: &Store, writer: &Writer) -> anyhow::Result<()> {
    let [state, events] = writer.look_anew().await?;
    for (name, id) in [(streams::STATE, state), (streams::EVENTS, events)] {
        fit(bus, store, name, &id).await.with_context(|| format!("comparing {name} with its copy"))?;
    }
    Ok(())
}

/// Has the stream read from its beginning when the copy in the database is not one of it, or is older than what the consumer
/// has acknowledged: then messages are gone that nobody would deliver again.
async fn fit(bus: &Bus, store: &Store, name: &'static str, id: &str) -> anyhow::Result<()> {
    let consumer = ServiceName::StatusCollector.as_str();
    let stream = bus.jetstream().get_stream_no_info(name).await?;
    let acknowledged = match stream.consumer_info(consumer).await {
        Ok(info) => info.ack_floor.stream_sequence,
        Err(error) => {
            debug!(stream = name, %error, "no consumer yet");
            0
        }
    };
    let copied = store.copied(name).await?;
    if copied.as_ref().is_some_and(|copied| copied.id == id && copied.sequence >= acknowledged) {
        return Ok(());
    }
    info!(stream = name, "the stream is read from its beginning");
    // Fails when there is none, which is as good.
    if let Err(error) = stream.delete_consumer(consumer).await {
        debug!(stream = name, %error, "no consumer to be removed");
    }
    store.begin_copy(name, id.to_owned()).await.context("noting that a copy begins")
}
