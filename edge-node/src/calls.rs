//! Calls that the hub makes through the site, and their answers.

use bus::{Bus, CallVerb, Pattern, Subject, calls, proto::CallPart};
use futures::StreamExt;
use margo::NodeId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Calls that are answered at once. One more is not heard, and whoever made it asks again.
const AT_ONCE: usize = 4;

/// Answers calls until shutdown.
pub async fn run(bus: Bus, node: NodeId, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut heard = bus.subscribe(Pattern::CallsTo(node.clone())).await?;
    let mut answers = JoinSet::new();
    while let Some(Some(message)) = shutdown.run_until_cancelled(heard.next()).await {
        while answers.try_join_next().is_some() {}
        let (Ok(Subject::Call(named, verb)), Some(id)) = (message.subject.parse(), calls::id_of(&message.payload))
        else {
            continue;
        };
        if named != node || answers.len() >= AT_ONCE {
            continue;
        }
        info!(call = %id, %verb, "called");
        let (bus, node) = (bus.clone(), node.clone());
        answers.spawn(async move {
            let parts = match verb {
                CallVerb::Ping => [CallPart { last: true, ..CallPart::default() }],
            };
            calls::answer(&bus, &node, &id, parts).await;
        });
    }
    Ok(())
}
