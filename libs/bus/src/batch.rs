//! Atomic batches: one fsync group each, all or nothing for readers of the stream.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;

use crate::{Bus, Subject, trace};

/// The largest number of messages in a batch. The server refuses a larger batch as a whole (10199).
pub const MAX_BATCH: usize = 1_000;

/// How long the server may take to put a batch on its disk.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(15);

/// A message that is to be published in a batch.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The subject on which it is published.
    pub subject: Subject,
    /// Its headers. The current trace is added when they carry none.
    pub headers: HeaderMap,
    /// The body of the message.
    pub payload: Bytes,
}

impl Outgoing {
    /// Makes a message without headers.
    pub fn new(subject: Subject, payload: Bytes) -> Self {
        Self { subject, headers: HeaderMap::new(), payload }
    }

    /// Has the server refuse the whole batch unless the last message on this subject has this sequence. 0 means that
    /// there must be none.
    pub fn expect_last(mut self, sequence: u64) -> Self {
        self.headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string().as_str());
        self
    }
}

/// Why a batch is not on the server's disk. Then none of it is, except after `Unknown`.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Too many open batches: back off with jitter and publish again.
    #[error("the stream is busy with other batches")]
    Busy,
    /// An expected sequence was stale: somebody else has written.
    #[error("the stream holds another last message than expected")]
    Conflict,
    /// The stream is full and refuses new messages.
    #[error("the stream is full")]
    Full,
    /// No stream listens on these subjects.
    #[error("no stream takes these messages")]
    NoStream,
    /// Not connected, or no answer in time: the batch may or may not be stored.
    #[error("publishing the batch: {0}")]
    Unknown(String),
    /// The server refused the batch for another reason.
    #[error("the server refused the batch: {description} ({code})")]
    Refused {
        /// The error code of JetStream.
        code: u64,
        /// What the server said.
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
    /// Publishes at most [`MAX_BATCH`] messages of one stream atomically, and returns the sequence of the last one.
    /// When this returns `Ok`, the messages are on the server's disk.
    pub async fn publish_batch(&self, messages: Vec<Outgoing>) -> Result<u64, BatchError> {
        assert!(messages.len() <= MAX_BATCH, "callers split at MAX_BATCH");
        if !self.is_connected() {
            return Err(BatchError::Unknown("not connected".to_owned()));
        }
        let count = messages.len();
        // Not `Nats-Msg-Id`: one repeated id would refuse the whole batch.
        let id = uuid::Uuid::new_v4().to_string();
        for (at, mut message) in messages.into_iter().enumerate() {
            if message.headers.get(trace::TRACEPARENT).is_none() {
                trace::inject(&mut message.headers);
            }
            if count > 1 {
                message.headers.insert("Nats-Batch-Id", id.as_str());
                message.headers.insert("Nats-Batch-Sequence", (at + 1).to_string().as_str());
            }
            if at + 1 < count {
                let sent = self.client().publish_with_headers(&message.subject, message.headers, message.payload).await;
                sent.map_err(|error| BatchError::Unknown(error.to_string()))?;
                continue;
            }
            if count > 1 {
                message.headers.insert("Nats-Batch-Commit", "1");
            }
            let request = async_nats::Request::new()
                .headers(message.headers)
                .payload(message.payload)
                .timeout(Some(COMMIT_TIMEOUT));
            let answer =
                self.client().send_request(&message.subject, request).await.map_err(|error| match error.kind() {
                    async_nats::RequestErrorKind::NoResponders => BatchError::NoStream,
                    _ => BatchError::Unknown(error.to_string()),
                })?;
            let ack: PubAck = serde_json::from_slice(&answer.payload)
                .map_err(|error| BatchError::Unknown(format!("an answer that is no acknowledgement: {error}")))?;
            return match ack.error {
                None => Ok(ack.seq),
                Some(error) => Err(refusal(error)),
            };
        }
        Ok(0)
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
