//! Reading a stream by a durable consumer: opening it, and the loop that takes, handles and answers.

use std::{error::Error, time::Duration};

use anyhow::Context as _;
pub use async_nats::jetstream::AckKind;
use async_nats::jetstream::{
    Message,
    consumer::{PullConsumer, pull},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span, warn};

use crate::{Bus, ServiceName, service::Reads, trace};

/// The server sends a sign of life at least this often while there are no messages; after twice this time of silence
/// the messages end with an error.
const HEARTBEAT: Duration = Duration::from_secs(5);

impl Bus {
    /// Reads the messages of a stream as the table of services says that this service does, by its durable consumer. When
    /// there is none, the bootstrap is asked to make it.
    ///
    /// The messages end with an error when the consumer or its stream is deleted, and after 10 s without a sign of life of the
    /// server. What was not acknowledged until then is delivered again to whoever reads next.
    pub async fn messages(&self, service: ServiceName, stream: &str) -> anyhow::Result<pull::Stream> {
        let reads = service.service().reads.iter().find(|reads| reads.stream == stream);
        let Reads { batch, progress, .. } = reads.with_context(|| format!("{service} does not read {stream}"))?;
        if !progress.is_kept() {
            self.begin_anew(service, stream).await?;
        }
        let consumer: PullConsumer = match self.jetstream().get_consumer_from_stream(service.as_str(), stream).await {
            Ok(consumer) => consumer,
            // Without words for what is missing; the second attempt has them.
            Err(error) => {
                debug!(stream, error = &error as &dyn Error, "no consumer");
                self.want_streams().await.with_context(|| format!("waiting for the consumer of {stream}"))?;
                let consumer = self.jetstream().get_consumer_from_stream(service.as_str(), stream).await;
                consumer.with_context(|| format!("looking for the consumer of {stream}"))?
            }
        };
        let pulls = consumer.stream().max_messages_per_batch(*batch).heartbeat(HEARTBEAT);
        pulls.messages().await.with_context(|| format!("reading {stream}"))
    }

    /// Has the consumer of this service read the stream from its beginning. Whoever is reading has to stop and open its
    /// messages again.
    pub async fn begin_anew(&self, service: ServiceName, stream: &str) -> anyhow::Result<()> {
        let handle = self.jetstream().get_stream_no_info(stream).await?;
        // The server says at once that there is no consumer when it is looked for, and nothing when it is to begin anew.
        if let Err(error) = handle.consumer_info(service.as_str()).await {
            debug!(stream, error = &error as &dyn Error, "no consumer that could begin anew");
            self.want_streams().await.with_context(|| format!("waiting for the consumer of {stream}"))?;
        }
        let reset = handle.reset_consumer(service.as_str(), Some(1)).await;
        reset.with_context(|| format!("reading {stream} from its beginning"))?;
        Ok(())
    }
}

/// Handles one message, and says what becomes of one that could not be handled.
pub trait Handle {
    /// The error of a message that could not be handled.
    type Error: Error + 'static;

    /// Handles one message: stores, then announces. It has to be safe to repeat, because the bus delivers at least
    /// once.
    fn handle(&mut self, message: &Message) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Decides how the bus is answered when a message could not be handled.
    fn ack(error: &Self::Error) -> AckKind;
}

/// Handles the messages of [`Bus::messages`] until shutdown, one after another. Ends with an error when they do.
pub async fn consume<H: Handle>(
    mut messages: pull::Stream,
    mut handler: H,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let message = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            // Cancel-safe: what we have not received is delivered again.
            next = messages.next() => next.ok_or_else(|| anyhow::anyhow!("the consumer ended"))??,
        };
        let span = info_span!("consume", subject = %message.subject, trace_id = tracing::field::Empty);
        trace::continue_from(&span, message.headers.as_ref());
        // Outside `select!`: work in hand is finished, never dropped half way.
        async {
            let handled = handler.handle(&message).await;
            let answer = match &handled {
                Ok(()) => AckKind::Ack.into(),
                Err(error) => {
                    warn!(subject = %message.subject, error = error as &dyn Error, "message not handled");
                    match H::ack(error) {
                        AckKind::Term => term(error),
                        answer => answer.into(),
                    }
                }
            };
            drop(handled);
            send(&message, answer).await
        }
        .instrument(span)
        .await?;
    }
}

/// Gives a message up for good: it will be just as impossible to handle next time. The reason stands in the server's
/// advisory, and so among the dead letters.
pub fn terminate<'a>(
    message: &'a Message,
    reason: &dyn Error,
) -> impl Future<Output = anyhow::Result<()>> + Send + use<'a> {
    send(message, term(reason))
}

fn term(reason: &dyn Error) -> Bytes {
    format!("+TERM {}", process::chain(reason)).into()
}

async fn send(message: &Message, answer: Bytes) -> anyhow::Result<()> {
    let reply = message.reply.clone().context("a message without a reply subject cannot be answered")?;
    message.context.client().publish(reply, answer).await.context("answering a message")
}
