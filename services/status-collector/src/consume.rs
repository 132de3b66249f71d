//! The loop that reads reports from the hub's streams into the database, and keeps these streams in being.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
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

/// What is copied into the database of the streams.
const COPIED: [(&str, Pattern); 2] = [(streams::STATE, Pattern::Statuses), (streams::EVENTS, Pattern::Events)];

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
    connections.mark_unchanged();
    fit_copies(bus, store, writer).await?;
    let service = ServiceName::StatusCollector;
    let [(states, state_filter), (events, event_filter)] = COPIED;
    let states = bus.messages(service, states, &[state_filter], BATCH).await?;
    let events = bus.messages(service, events, &[event_filter], BATCH).await?;
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
    let ids = writer.look_anew().await?;
    for ((name, filter), id) in COPIED.into_iter().zip(ids) {
        fit(bus, store, name, &filter, &id).await.with_context(|| format!("comparing {name} with its copy"))?;
    }
    Ok(())
}

/// Has the stream read from its beginning when the copy in the database is not one of it, or lacks a message that the
/// consumer has acknowledged, because nobody would deliver that one again.
async fn fit(bus: &Bus, store: &Store, name: &'static str, filter: &Pattern, id: &str) -> anyhow::Result<()> {
    let consumer = ServiceName::StatusCollector.as_str();
    let stream = bus.jetstream().get_stream_no_info(name).await?;
    let acknowledged = match stream.consumer_info(consumer).await {
        Ok(info) => info.ack_floor.stream_sequence,
        Err(error) => {
            debug!(stream = name, %error, "no consumer yet");
            0
        }
    };
    if let Some(copied) = store.copied(name).await?
        && copied.id == id
        && !lacks(&stream, filter, copied.sequence, acknowledged).await?
    {
        return Ok(());
    }
    info!(stream = name, "the stream is read from its beginning");
    // Fails when there is none, which is as good.
    if let Err(error) = stream.delete_consumer(consumer).await {
        debug!(stream = name, %error, "no consumer to be removed");
    }
    store.begin_copy(name, id.to_owned()).await.context("noting that a copy begins")
}

/// Whether the stream holds a message that was acknowledged and is not in the copy. The numbers alone do not tell: a consumer
/// counts as acknowledged what is not for it, and what was gone before it began.
async fn lacks(stream: &Stream<()>, filter: &Pattern, copied: u64, acknowledged: u64) -> anyhow::Result<bool> {
    if copied >= acknowledged {
        return Ok(false);
    }
    match stream.get_first_raw_message_by_subject(filter.to_string(), copied + 1).await {
        Ok(message) => Ok(message.sequence <= acknowledged),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(false),
        Err(error) => Err(error).context("looking for what the copy lacks"),
    }
}
