//! The loop that records what sites report of themselves and of their nodes.

use async_nats::jetstream::Message;
use bus::{AckKind, Bus, Handle, ServiceName, consume, streams};
use service::Readiness;
use tokio_util::sync::CancellationToken;

use crate::{
    decode::{Report, decode},
    error::ObserveError,
    store::{Recorded, Store},
};

/// Records what sites report, until shutdown. A stream that is missing is asked for again and
/// again.
pub async fn observe(bus: Bus, store: Store, readiness: Readiness, shutdown: CancellationToken) -> anyhow::Result<()> {
    let read = || async {
        let messages = bus.messages(ServiceName::NodeCapabilities, streams::STATE).await?;
        readiness.ready();
        consume(messages, Observer { store: store.clone() }, &shutdown).await
    };
    service::reopening("reports of sites", &bus, &readiness, &shutdown, read).await;
    Ok(())
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
