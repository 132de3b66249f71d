//! Publishing several messages: as an atomic batch, or each by itself where that is faster and nobody needs it whole.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::future::try_join_all;
use serde::Deserialize;

use crate::{Bus, Subject, trace};

/// The largest number of messages in a batch. The server refuses a larger batch as a whole (10199).
pub const MAX_BATCH: usize = 1_000;

/// How long the server may take to put a batch on its disk.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// So many messages are faster one by one. A batch takes the server 3 to 4 ms however small it is, because it is staged
/// in files of its own; each message by itself takes a sync of the disk, which is a tenth of that.
pub(crate) const FEW: usize = 8;

/// What a message takes in a stream beside its subject and its body, at most: its record, its trace, and what a batch adds.
const OVERHEAD: usize = 256;

/// The header in which a publisher says how many messages it sends right behind this one. It is a hint: whoever reads it
/// may wait a moment for them, and must not wait for ever.
const MORE: &str = "Edgewright-More";

/// Whether the publisher of a message with these headers has sent others right behind it.
pub fn more_follow(headers: Option<&HeaderMap>) -> bool {
    headers.and_then(|headers| headers.get(MORE)).is_some_and(|more| more.as_str() != "0")
}

/// A message that is to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The subject on which it is published.
    pub subject: Subject,
    /// The headers of the message. The current trace is added when they carry none.
    pub headers: HeaderMap,
    /// The body of the message, as its readers decode it.
    pub payload: Bytes,
}

impl Outgoing {
    /// Makes a message without headers.
    pub fn new(subject: Subject, payload: Bytes) -> Self {
        Self { subject, headers: HeaderMap::new(), payload }
    }

    /// Returns how many bytes of a stream the message takes, at most. A small one is mostly what it is wrapped in.
    pub fn stored_bytes(&self) -> usize {
        self.subject.to_string().len() + self.payload.len() + OVERHEAD
    }

    /// Has the server refuse the message, and the whole batch with it, unless the last message on this subject has this
    /// sequence. 0 means that there must be none.
    pub fn expect_last(mut self, sequence: u64) -> Self {
        self.headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string().as_str());
        self
    }

    /// Tells readers how many messages are sent right behind this one.
    pub fn followed_by(mut self, messages: usize) -> Self {
        self.headers.insert(MORE, messages.to_string().as_str());
        self
    }

    fn with_trace(mut self) -> Self {
        if self.headers.get(trace::TRACEPARENT).is_none() {
            trace::inject(&mut self.headers);
        }
        self
    }
}

/// Why messages are not on the server's disk. Of a batch none is then, except after `Unknown`.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Too many batches are open, at this stream or at the server. Publishing again after a random pause may succeed.
    #[error("the stream is busy with other batches")]
    Busy,
    /// The last message on a subject is not the one that was expected: somebody else has written there.
    #[error("the stream holds another last message than expected")]
    Conflict,
    /// The stream, or the disk of the server, is full, and new messages are refused until something is removed.
    #[error("the stream is full")]
    Full,
    /// No stream takes messages on these subjects. It was not made yet, or was deleted.
    #[error("no stream takes these messages")]
    NoStream,
    /// There is no connection, or no answer came in time. The messages may or may not be stored; the text says what
    /// happened.
    #[error("publishing the batch: {0}")]
    Unknown(String),
    /// The server refused the batch for another reason.
    #[error("the server refused the batch: {description} ({code})")]
    Refused {
        /// The error code of JetStream (`err_code`), by which its documentation explains the error.
        code: u64,
        /// The explanation that the server sent with the code, for people.
        description: String,
    },
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    error: Option<ApiError>,
    #[serde(default)]
    seq: u64,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Bus {
    /// Publishes messages of one stream in their order, any number of them, and returns the sequence of the last one;
    /// of no messages, 0. When this returns `Ok`, all are on the server's disk. After an error, any of them may be, and
    /// others not.
    pub async fn publish_all(&self, mut messages: Vec<Outgoing>) -> Result<u64, BatchError> {
        let mut sequence = 0;
        while messages.len() > FEW {
            let rest = messages.split_off(messages.len().min(MAX_BATCH));
            sequence = self.publish_batch(std::mem::replace(&mut messages, rest)).await?;
        }
        // Each is handed to the connection when it is first polled, and that is in their order.
        let stored = try_join_all(messages.into_iter().map(|message| self.publish_one(message))).await?;
        Ok(stored.last().copied().unwrap_or(sequence))
    }

    /// Publishes at most [`MAX_BATCH`] messages of one stream atomically, and returns the sequence of the last one; of
    /// no messages, 0. When this returns `Ok`, the messages are on the server's disk. Panics when there are more
    /// messages.
    pub async fn publish_batch(&self, mut messages: Vec<Outgoing>) -> Result<u64, BatchError> {
        assert!(messages.len() <= MAX_BATCH, "callers split at MAX_BATCH");
        let Some(mut last) = messages.pop() else { return Ok(0) };
        if messages.is_empty() {
            return self.publish_one(last).await;
        }
        self.must_be_connected()?;
        // Not `Nats-Msg-Id`: one repeated id would refuse the whole batch.
        let id = uuid::Uuid::new_v4().to_string();
        let part = |message: &mut Outgoing, number: usize| {
            message.headers.insert("Nats-Batch-Id", id.as_str());
            message.headers.insert("Nats-Batch-Sequence", number.to_string().as_str());
        };
        part(&mut last, messages.len() + 1);
        last.headers.insert("Nats-Batch-Commit", "1");
        for (at, mut message) in messages.into_iter().enumerate() {
            part(&mut message, at + 1);
            let Outgoing { subject, headers, payload } = message.with_trace();
            let sent = self.client().publish_with_headers(&subject, headers, payload).await;
            sent.map_err(|error| BatchError::Unknown(error.to_string()))?;
        }
        self.publish_one(last).await
    }

    /// Publishes one message, or the one that commits a batch, and returns its sequence.
    async fn publish_one(&self, message: Outgoing) -> Result<u64, BatchError> {
        self.must_be_connected()?;
        let Outgoing { subject, headers, payload } = message.with_trace();
        let request = async_nats::Request::new().headers(headers).payload(payload).timeout(Some(COMMIT_TIMEOUT));
        let answer = self.client().send_request(&subject, request).await.map_err(|error| match error.kind() {
            async_nats::RequestErrorKind::NoResponders => BatchError::NoStream,
            _ => BatchError::Unknown(error.to_string()),
        })?;
        let ack: PubAck = serde_json::from_slice(&answer.payload)
            .map_err(|error| BatchError::Unknown(format!("an answer that is no acknowledgement: {error}")))?;
        match ack.error {
            None => Ok(ack.seq),
            Some(error) => Err(refusal(error)),
        }
    }

    fn must_be_connected(&self) -> Result<(), BatchError> {
        if self.is_connected() { Ok(()) } else { Err(BatchError::Unknown("not connected".to_owned())) }
    }
}

fn refusal(error: ApiError) -> BatchError {
    match error.err_code {
        // Too many open batches, of the stream or of the server.
        10_210 | 10_211 => BatchError::Busy,
        // Wrong last sequence; wrong last sequence constant.
        10_071 | 10_164 => BatchError::Conflict,
        // Store failed with "maximum bytes/messages exceeded"; insufficient storage resources.
        10_077 | 10_047 => BatchError::Full,
        10_059 => BatchError::NoStream,
        code => BatchError::Refused { code, description: error.description },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_that_says_so_has_others_behind_it() {
        let message = || Outgoing::new(Subject::GitCommittedFleet, Bytes::new());
        assert!(more_follow(Some(&message().followed_by(2).headers)));
        assert!(!more_follow(Some(&message().followed_by(0).headers)));
        assert!(!more_follow(Some(&message().headers)) && !more_follow(None));
    }
}
