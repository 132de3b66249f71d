//! The loop around a durable consumer: take, handle, answer.

use std::error::Error;

use anyhow::Context as _;
pub use async_nats::jetstream::AckKind;
use async_nats::jetstream::{Message, consumer::pull};
use bytes::Bytes;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};

use crate::trace;

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

/// Handles messages until shutdown, one after another. Ends with an error when the consumer is gone.
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
