//! Reading a stream by a durable consumer: opening it, and the loop that takes, handles and answers.

use std::{error::Error, time::Duration};

use anyhow::Context as _;
pub use async_nats::jetstream::AckKind;
use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, pull},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use crate::{Bus, Pattern, ServiceName, trace};

/// How long a message may take before the server sends it again. After a crash with messages in hand they wait for as
/// long.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// The server sends a sign of life at least this often while there are no messages; after twice this time of silence
/// the messages end with an error.
const HEARTBEAT: Duration = Duration::from_secs(5);

impl Bus {
    /// Reads the messages of a stream under these patterns, from where the durable consumer of this service stands. The
    /// consumer is made when the stream has none. `batch` messages are asked for at once, and at most twice as many are
    /// delivered before the first of them is answered.
    ///
    /// Fails when there is no such stream. The messages end with an error when the consumer or its stream is deleted,
    /// and after 10 s without a sign of life of the server. What was not acknowledged until then is delivered again to
    /// whoever reads next.
    pub async fn messages(
        &self,
        service: ServiceName,
        stream: &str,
        patterns: &[Pattern],
        batch: usize,
    ) -> anyhow::Result<pull::Stream> {
        // The server has one field for a single filter, and another one for several.
        let (filter_subject, filter_subjects) = match patterns {
            [pattern] => (pattern.to_string(), Vec::new()),
            patterns => (String::new(), patterns.iter().map(Pattern::to_string).collect()),
        };
        let config = pull::Config {
            durable_name: Some(service.to_string()),
            filter_subject,
            filter_subjects,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: 2 * batch as i64,
            ..pull::Config::default()
        };
        let consumer = self.jetstream().create_consumer_on_stream(config, stream).await;
        let consumer = consumer.with_context(|| format!("making the consumer of {stream}"))?;
        let pulls = consumer.stream().max_messages_per_batch(batch).heartbeat(HEARTBEAT);
        pulls.messages().await.with_context(|| format!("reading {stream}"))
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
