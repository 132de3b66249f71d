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

use std::collections::BTreeMap;

use anyhow::Context;
use async_nats::jetstream::{message::StreamMessage, stream::Stream};
use bus::{Bus, Outgoing, Pattern, Subject, proto, streams};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use margo::{ClientName, NodeId, NodeName};

/// Messages that are read from the stream at once.
const READS: usize = 32;

/// The stream as one connection reaches it. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    bus: Bus,
}

/// The last message of a subject, or that there is none.
pub struct Stored<M> {
    /// Sequence of the message in the stream; 0 when there is none.
    pub sequence: u64,
    /// `None` when there is no message, or when it cannot be decoded.
    pub message: Option<M>,
}

impl<M> Stored<M> {
    /// Whether there is a message that cannot be decoded.
    pub fn is_unreadable(&self) -> bool {
        self.sequence > 0 && self.message.is_none()
    }
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

    pub async fn head(&self, client: &ClientName) -> anyhow::Result<Stored<proto::DesiredHead>> {
        self.get(&Subject::DesiredHead(client.clone())).await
    }

    /// Reads the messages of the given nodes, and of those that have a message although nobody gives their name.
    pub async fn nodes<'a>(
        &self,
        client: &ClientName,
        known: impl Iterator<Item = &'a NodeName>,
    ) -> anyhow::Result<BTreeMap<NodeName, Stored<proto::DesiredNode>>> {
        let mut names: Vec<NodeName> = known.cloned().collect();
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
        let reads = stream::iter(names).map(|name| async {
            let subject = Subject::DesiredNode(NodeId::new(client.clone(), name.clone()));
            Ok((name, self.get(&subject).await?))
        });
        reads.buffer_unordered(READS).try_collect().await
    }

    async fn get<M: prost::Message + Default>(&self, subject: &Subject) -> anyhow::Result<Stored<M>> {
        let message = self.bus.last(streams::DESIRED, subject).await?;
        Ok(message.map_or(Stored { sequence: 0, message: None }, |StreamMessage { sequence, payload, .. }| Stored {
            sequence,
            message: bus::decode(&payload).ok(),
        }))
    }

    /// Publishes messages of nodes and then the head, and returns how many messages that were. Fails when the head on
    /// the bus is not the one at `sequence` any more (0: none).
    pub async fn publish(
        &self,
        client: &ClientName,
        nodes: impl Iterator<Item = (NodeName, proto::DesiredNode)>,
        head: &proto::DesiredHead,
        sequence: u64,
    ) -> anyhow::Result<usize> {
        let node = |(name, message): (NodeName, proto::DesiredNode)| {
            Outgoing::new(Subject::DesiredNode(NodeId::new(client.clone(), name)), bus::encode(&message))
        };
        let mut messages: Vec<_> = nodes.map(node).collect();
        messages.push(Outgoing::new(Subject::DesiredHead(client.clone()), bus::encode(head)).expect_last(sequence));
        let count = messages.len();
        self.bus.publish_all(messages).await.context("publishing")?;
        Ok(count)
    }
}
