//! The loop that records what sites report of themselves and of their nodes.

use std::time::Duration;

use anyhow::Context;
use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, pull},
};
use bus::{AckKind, Bus, Handle, Pattern, ServiceName, consume, streams};
use service::Readiness;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    decode::{Report, decode},
    error::ObserveError,
    store::{Recorded, Store},
};

/// The pause between a failure of the bus and the next attempt.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long a message may take before the server sends it again. After a crash with messages in hand they wait for as long.
const ACK_WAIT: Duration = Duration::from_secs(10);

/// The most messages in hand. Each takes a few milliseconds, so none of them waits for as long as [`ACK_WAIT`].
const PULL: usize = 200;

/// The server sends a sign of life at least this often while we wait for messages; after twice this time of silence the
/// pull fails.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Records what sites report, until shutdown. A stream that is missing is tried again, because status-collector makes it.
pub async fn observe(bus: Bus, store: Store, readiness: Readiness, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        let observed = async {
            let messages = messages(&bus).await?;
            readiness.ready();
            consume(messages, Observer { store: store.clone() }, &shutdown).await
        };
        let Err(failure) = observed.await else { return Ok(()) };
        readiness.not_ready(&format!("{failure:#}"));
        warn!(error = &*failure as &dyn std::error::Error, "observing was interrupted");
        let connected_again = async {
            tokio::time::sleep(RETRY_DELAY).await;
            bus.connected().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = connected_again => {}
        }
    }
}

/// The reports of capabilities and health, from where this service's durable consumer stands.
async fn messages(bus: &Bus) -> anyhow::Result<pull::Stream> {
    let config = pull::Config {
        durable_name: Some(ServiceName::NodeCapabilities.to_string()),
        filter_subjects: [Pattern::AllCapabilities, Pattern::AllHealth].map(|pattern| pattern.to_string()).to_vec(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_ack_pending: PULL as i64,
        ..pull::Config::default()
    };
    let stream = streams::STATE;
    let consumer = bus.jetstream().create_consumer_on_stream(config, stream).await;
    let consumer = consumer.with_context(|| format!("making the consumer of {stream}"))?;
    let pulls = consumer.stream().max_messages_per_batch(PULL).heartbeat(HEARTBEAT);
    pulls.messages().await.with_context(|| format!("reading {stream}"))
}

/// Records one report after the other; refuses those of sites and nodes that nobody added.
struct Observer {
    store: Store,
}

impl Handle for Observer {
    type Error = ObserveError;

    async fn handle(&mut self, message: &Message) -> Result<(), ObserveError> {
        match decode(&message.subject, &message.payload)? {
            Report::Capabilities(node, capabilities) => {
                match self.store.record_capabilities(&node, &capabilities).await? {
                    Recorded::Known => Ok(()),
                    Recorded::Unknown => Err(ObserveError::UnknownNode(node)),
                    Recorded::OtherDevice { wanted } => {
                        Err(ObserveError::OtherDevice { found: capabilities.device, wanted })
                    }
                }
            }
            Report::Health(client, health) => match self.store.record_health(&client, &health).await? {
                Recorded::Unknown => Err(ObserveError::UnknownClient(client)),
                Recorded::Known | Recorded::OtherDevice { .. } => Ok(()),
            },
        }
    }

    fn ack(error: &ObserveError) -> AckKind {
        error.ack()
    }
}
