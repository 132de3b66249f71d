//! The stream DESIRED at the hub: the only file that reads and writes it. Sites do not read it; the platform's own
//! services and third parties do.
//!
//! **Layout.** One message for each node with all that the node shall run, and one for each client with the signed
//! head. The stream keeps the last message of each subject.
//!
//! **Updates.** Messages of nodes are published before the head. The head is only taken when the head on the bus is still
//! the one that was read before (compare-and-swap), so a publication that another one overtook fails.
//!
//! **After a crash.** Some messages of nodes may be new while the head is old: the clients do not act before the head is
//! there. Where the head is new and a message of a node is not, because the hub refused that one, the client finds that
//! they do not fit. The next look compares everything, and publishes what is missing.

use anyhow::Context;
use async_nats::jetstream::{message::StreamMessage, stream::Stream};
use bus::{Bus, Outgoing, Pattern, Subject, proto, streams};
use bytes::Bytes;
use futures::{TryStreamExt, future::try_join_all};
use margo::{ClientName, NodeId, NodeName};
use tokio::task::spawn_blocking;

/// Messages that are read from the stream at once, and then compared together.
const READS: usize = 32;

/// The longest head: signatures, keys, and a top text of 256 lines.
const LONGEST_HEAD: usize = 256 << 10;

/// The stream as one connection reaches it. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    bus: Bus,
}

/// The head that the stream holds, or that there is none.
pub struct Stored {
    /// Sequence of the message in the stream; 0 when there is none.
    pub sequence: u64,
    /// `None` when there is no message, or when it cannot be decoded.
    pub head: Option<proto::DesiredHead>,
}

impl Hub {
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// The identity of the stream, which is another one after the stream was deleted and made again. When there is no stream,
    /// it is made.
    pub async fn identity(&self) -> anyhow::Result<String> {
        Ok(streams::id(&self.bus.look_at(streams::DESIRED).await?.config).to_owned())
    }

    async fn stream(&self) -> anyhow::Result<Stream<()>> {
        self.bus.jetstream().get_stream_no_info(streams::DESIRED).await.context("using the stream DESIRED")
    }

    /// Tells the client's site to look again.
    pub async fn changed(&self, client: &ClientName) -> anyhow::Result<()> {
        self.bus.signal(&Subject::ChangedHead(client.clone()), Bytes::new()).await
    }

    pub async fn head(&self, client: &ClientName) -> anyhow::Result<Stored> {
        let message = self.bus.last(streams::DESIRED, &Subject::DesiredHead(client.clone())).await?;
        Ok(message.map_or(Stored { sequence: 0, head: None }, |StreamMessage { sequence, payload, .. }| Stored {
            sequence,
            head: bus::decode_within(&payload, LONGEST_HEAD).ok(),
        }))
    }

    /// Reads the messages of the given nodes, and of those that have a message although nobody gives their name. Returns the
    /// nodes whose message is to be replaced, as `differs` tells, which runs where it may block. Without a message it is told so.
    pub async fn differing(
        &self,
        client: &ClientName,
        mut names: Vec<NodeName>,
        differs: impl Fn(&NodeName, Option<&Bytes>) -> bool + Clone + Send + 'static,
    ) -> anyhow::Result<Vec<NodeName>> {
        let pattern = Pattern::DesiredOf(client.clone()).to_string();
        let stream = self.stream().await?;
        let mut subjects = stream.info_with_subjects(pattern).await.context("listing the stream DESIRED")?;
        while let Some((subject, _)) = subjects.try_next().await.context("listing the stream DESIRED")? {
            if let Ok(Subject::DesiredNode(id)) = subject.parse() {
                names.push(id.node);
            }
        }
        names.sort();
        names.dedup();
        let mut differing = Vec::new();
        for names in names.chunks(READS) {
            let reads = names.iter().cloned().map(|name| async move {
                let subject = Subject::DesiredNode(NodeId::new(client.clone(), name.clone()));
                let message = self.bus.last(streams::DESIRED, &subject).await?;
                anyhow::Ok((name, message.map(|message| message.payload)))
            });
            let messages = try_join_all(reads).await?;
            let differs = differs.clone();
            let look = move || {
                let differing = messages.into_iter().filter(|(name, message)| differs(name, message.as_ref()));
                differing.map(|(name, _)| name).collect::<Vec<_>>()
            };
            differing.extend(spawn_blocking(look).await.context("comparing messages")?);
        }
        Ok(differing)
    }

    /// Publishes messages of nodes and then the head, all of them compressed, and returns how many messages that were. Fails when the head on
    /// the bus is not the one at `sequence` any more (0: none).
    pub async fn publish(
        &self,
        client: &ClientName,
        nodes: Vec<(NodeName, Bytes)>,
        head: Bytes,
        sequence: u64,
    ) -> anyhow::Result<usize> {
        let node = |(name, message)| Outgoing::new(Subject::DesiredNode(NodeId::new(client.clone(), name)), message);
        let mut messages: Vec<_> = nodes.into_iter().map(node).collect();
        messages.push(Outgoing::new(Subject::DesiredHead(client.clone()), head).expect_last(sequence));
        let count = messages.len();
        self.bus.publish_all(messages).await.context("publishing")?;
        Ok(count)
    }
}
