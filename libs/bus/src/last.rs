//! The last message of a subject: direct get.

use anyhow::{Context as _, bail};
use async_nats::jetstream::{message::StreamMessage, stream::DirectGetErrorKind};

use crate::{Bus, Subject};

impl Bus {
    /// Reads the last message that a stream holds of a subject; returns `None` when there is none. An error means that
    /// the server could not be asked, or that there is no such stream.
    pub async fn last(&self, stream: &str, subject: &Subject) -> anyhow::Result<Option<StreamMessage>> {
        if !self.is_connected() {
            bail!("reading {subject}: the server is not connected");
        }
        let stream = self.jetstream().get_stream_no_info(stream).await?;
        // By subject: the only form of direct get that every user may use.
        match stream.direct_get_last_for_subject(subject.to_string()).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {subject}")),
        }
    }
}
