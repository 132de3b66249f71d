//! The stream DESIRED at the hub: made, read, written; and a consumer for each client.

use std::collections::BTreeMap;

use anyhow::Context;
use async_nats::jetstream::{
    ErrorCode,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::GetStreamErrorKind,
    message::StreamMessage,
    stream::{Config, DirectGetErrorKind, Stream},
};
use bus::{Bus, MAX_BATCH, Outgoing, Pattern, Subject, proto, streams};
use futures::{StreamExt, TryStreamExt, stream};
use margo::{ClientName, NodeId, NodeName};

/// Messages of one client that may be delivered and not yet acknowledged. An LO acknowledges what it has staged, so this
/// only has to exceed the nodes of the largest site: the server's default of 1,000 would not.
const MAX_ACK_PENDING: i64 = 20_000;

/// Direct gets at once.
const READS: usize = 32;

/// The stream and whom it belongs to. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    bus: Bus,
}

/// The last message of a subject and where it stands.
pub struct Stored<M> {
    /// Its sequence; 0: there is none.
    pub sequence: u64,
    /// What it says; `None` when there is none or it does not decode.
    pub message: Option<M>,
}

impl<M> Stored<M> {
    /// Whether there is something that nobody can read.
    pub fn is_garbage(&self) -> bool {
        self.sequence > 0 && self.message.is_none()
    }
}

impl Hub {
    /// The hub as this connection reaches it.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Makes the stream, or makes it anew when it is not as it has to be: all it holds comes from the repositories.
    /// Gives its identity.
    pub async fn ensure_stream(&self) -> anyhow::Result<String> {
        let wanted = streams::desired(Pattern::Desired);
        if let Some(found) = self.find().await? {
            if is_as(&found, &wanted) {
                return Ok(streams::id(&found).to_owned());
            }
            self.bus
                .jetstream()
                .delete_stream(streams::DESIRED)
                .await
                .context("deleting a stream DESIRED of another form")?;
        }
        let created = self.bus.jetstream().create_stream(wanted).await.context("creating the stream DESIRED")?;
        Ok(streams::id(&created.cached_info().config).to_owned())
    }

    /// The identity of the stream; `None` when there is none.
    pub async fn identity(&self) -> anyhow::Result<Option<String>> {
        Ok(self.find().await?.map(|config| streams::id(&config).to_owned()))
    }

    async fn find(&self) -> anyhow::Result<Option<Config>> {
        match self.bus.jetstream().get_stream(streams::DESIRED).await {
            Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(missing) if missing.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(error).context("looking for the stream DESIRED"),
            },
        }
    }

    async fn stream(&self) -> anyhow::Result<Stream<()>> {
        self.bus.jetstream().get_stream_no_info(streams::DESIRED).await.context("using the stream DESIRED")
    }

    /// Makes the consumer that this client's LO pulls from; leaves one that is there as it is.
    pub async fn ensure_consumer(&self, client: &ClientName) -> anyhow::Result<()> {
        let config = pull::Config {
            durable_name: Some(client.to_string()),
            filter_subject: Pattern::DesiredOf(client.clone()).to_string(),
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: MAX_ACK_PENDING,
            ..pull::Config::default()
        };
        let created = self.stream().await?.create_consumer(config).await;
        created.with_context(|| format!("creating the consumer of {client}"))?;
        Ok(())
    }

    /// Makes the consumer anew, so that everything is delivered again.
    pub async fn recreate_consumer(&self, client: &ClientName) -> anyhow::Result<()> {
        // One that is not there need not be deleted; any other reason shows in the next line.
        let _ = self.stream().await?.delete_consumer(client.as_str()).await;
        self.ensure_consumer(client).await
    }

    /// The head on the bus.
    pub async fn head(&self, client: &ClientName) -> anyhow::Result<Stored<proto::DesiredHead>> {
        self.get(&Subject::DesiredHead(client.clone())).await
    }

    /// The messages of these nodes, and of those that only the bus knows.
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
        match self.stream().await?.direct_get_last_for_subject(subject.to_string()).await {
            Ok(StreamMessage { sequence, payload, .. }) => Ok(Stored { sequence, message: bus::decode(&payload).ok() }),
            Err(error) if matches!(error.kind(), DirectGetErrorKind::NotFound) => {
                Ok(Stored { sequence: 0, message: None })
            }
            Err(error) => Err(error).with_context(|| format!("reading {subject}")),
        }
    }

    /// Publishes node messages and then the head, if the head on the bus is still the one at `sequence`. Up to the last
    /// batch the old head stands, and with it the old state.
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
        for batch in messages.chunks(MAX_BATCH) {
            self.bus.publish_batch(batch.to_vec()).await.context("publishing")?;
        }
        Ok(messages.len())
    }
}

/// Whether a stream serves: what differs otherwise is the server's or the operator's business.
fn is_as(found: &Config, wanted: &Config) -> bool {
    let form = |config: &Config| {
        let republish = config.republish.clone();
        let republish = republish.map(|it| (it.source, it.destination, it.headers_only));
        (
            config.subjects.clone(),
            config.max_messages_per_subject,
            config.allow_direct,
            config.allow_atomic_publish,
            republish,
        )
    };
    form(found) == form(wanted)
}
