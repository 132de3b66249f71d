//! The loop that reads reports from the hub's streams into the database, and keeps these streams in being.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::stream::Info;
use bus::{Bus, Known, Look, Pattern, ServiceName, streams};
use futures::{StreamExt, stream};
use service::Readiness;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    batch::handle,
    store::{Copied, Store},
    writer::Writer,
};

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
    // First, so that a stream that has lost something has its new identity.
    let state = writer.look_anew().await?.id;
    let events = events_id(bus, store).await?;
    let service = ServiceName::StatusCollector;
    for (name, id) in [(streams::STATE, &state), (streams::EVENTS, &events)] {
        fit(bus, store, name, id).await.with_context(|| format!("comparing {name} with its copy"))?;
    }
    let states = bus.messages(service, streams::STATE, &[Pattern::Statuses], BATCH).await?;
    let events_of_nodes = bus.messages(service, streams::EVENTS, &[Pattern::Events], BATCH).await?;
    // Takes what is there, at most a batch: a single report does not wait, and under load many share a transaction.
    let mut batches = stream::select(states, events_of_nodes).ready_chunks(BATCH);
    readiness.ready();
    let mut ids = [(streams::STATE, state), (streams::EVENTS, events)];
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
        // A site may have shown in the meantime that STATE has lost something.
        ids[0].1 = writer.state_id().await;
        handle(store, batch, &ids).await?;
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

async fn info(bus: &Bus, name: &str) -> anyhow::Result<Info> {
    let stream = bus.jetstream().get_stream(name).await.with_context(|| format!("looking at {name}"))?;
    Ok(stream.cached_info().clone())
}

/// The identity of EVENTS, which it gets anew when it lies behind its copy.
async fn events_id(bus: &Bus, store: &Store) -> anyhow::Result<String> {
    let info = info(bus, streams::EVENTS).await?;
    let id = streams::id(&info.config).to_owned();
    let Some(Copied { id: copied, sequence, .. }) = store.copied(streams::EVENTS).await? else { return Ok(id) };
    if (Known { id: copied, sequence }).judge(&id, info.state.last_sequence) == Look::Behind {
        warn!("EVENTS has lost a part of what it held: it gets a new identity");
        return streams::renew(bus, streams::EVENTS).await;
    }
    Ok(id)
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
