//! The loop that reads reports from the hub's streams into the database.

use anyhow::{Context, bail};
use async_nats::jetstream::{
    context::ConsumerInfoErrorKind,
    stream::{LastRawMessageErrorKind, Stream},
};
use bus::{Bus, Pattern, ServiceName, streams};
use futures::{StreamExt, stream};
use service::Readiness;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{batch::handle, store::Store, writer::Writer};

/// The most reports of one transaction: as many as are asked for at once.
const BATCH: usize = 500;

/// What is copied into the database of the streams.
const COPIED: [(&str, Pattern); 2] = [(streams::STATE, Pattern::Statuses), (streams::EVENTS, Pattern::Events)];

/// Reads reports from the streams until shutdown: one life for [`service::reopening`]. Nothing is lost by an error, because an
/// unstored report is not acknowledged.
pub async fn collect(
    bus: &Bus,
    store: &Store,
    writer: &Writer,
    readiness: &Readiness,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut connections = bus.connections();
    connections.mark_unchanged();
    for (name, id) in misfits(bus, store, writer).await? {
        begin_anew(bus, store, name, id).await.with_context(|| format!("reading {name} from its beginning"))?;
    }
    let service = ServiceName::StatusCollector;
    let states = bus.messages(service, streams::STATE).await?;
    let events = bus.messages(service, streams::EVENTS).await?;
    // Takes what is there, at most a batch: a single report does not wait, and under load many share a transaction.
    let mut batches = stream::select(states, events).ready_chunks(BATCH);
    readiness.ready();
    loop {
        let batch = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            // A server that was started again may have an older disk.
            _ = connections.changed() => match misfits(bus, store, writer).await?.first() {
                None => continue,
                Some((name, _)) => bail!("{name} does not fit its copy any more"),
            },
            // Cancel-safe: what we have not acknowledged is delivered again.
            next = batches.next() => next.context("the consumers ended")?,
        };
        let batch = batch.into_iter().collect::<Result<Vec<_>, _>>().context("pulling reports")?;
        // A site may have shown in the meantime that STATE has lost something.
        let [state, events] = writer.ids().await;
        handle(store, batch, &[(streams::STATE, state), (streams::EVENTS, events)]).await?;
    }
}

/// Compares both streams with their copies, and returns the name and the identity of each that has to be read from its
/// beginning: its copy in the database is not one of it, or lacks a message that the consumer has acknowledged, because nobody
/// would deliver that one again. First the streams are looked at, so that one that has lost something has its new identity.
async fn misfits(bus: &Bus, store: &Store, writer: &Writer) -> anyhow::Result<Vec<(&'static str, String)>> {
    let ids = writer.look_anew().await?;
    let mut misfits = Vec::new();
    for ((name, filter), id) in COPIED.into_iter().zip(ids) {
        if !fits(bus, store, name, &filter, &id).await.with_context(|| format!("comparing {name} with its copy"))? {
            misfits.push((name, id));
        }
    }
    Ok(misfits)
}

async fn fits(bus: &Bus, store: &Store, name: &'static str, filter: &Pattern, id: &str) -> anyhow::Result<bool> {
    let Some(copied) = store.copied(name).await?.filter(|copied| copied.id == id) else { return Ok(false) };
    let stream = bus.jetstream().get_stream_no_info(name).await?;
    let acknowledged = acknowledged(&stream).await.context("looking at the consumer")?;
    Ok(!lacks(&stream, filter, copied.sequence, acknowledged).await?)
}

/// The last message that the consumer has seen acknowledged with all before it; 0 when there is no consumer yet.
async fn acknowledged(stream: &Stream<()>) -> anyhow::Result<u64> {
    match stream.consumer_info(ServiceName::StatusCollector.as_str()).await {
        Ok(info) => Ok(info.ack_floor.stream_sequence),
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Reads a stream from its beginning. The consumer comes first: a process that dies in between finds the same again.
async fn begin_anew(bus: &Bus, store: &Store, name: &'static str, id: String) -> anyhow::Result<()> {
    info!(stream = name, "the stream is read from its beginning");
    bus.begin_anew(ServiceName::StatusCollector, name).await?;
    store.begin_copy(name, id).await.context("noting that a copy begins")
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
