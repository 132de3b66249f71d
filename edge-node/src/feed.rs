//! Brings the desired state from the site: looks at every connect, on every signal, and every five minutes.

use std::time::Duration;

use bus::{Bus, Subject, streams};
use futures::{FutureExt, StreamExt};
use margo::NodeId;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{reconciler::Candidate, retry};
use process::jittered;

/// Signals can get lost; a look costs one small request.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Sends on what lies on the node's subject until shutdown. Whether it counts is the reconciler's to decide.
pub async fn run(
    bus: Bus,
    node: NodeId,
    candidates: mpsc::Sender<Candidate>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = follow(&bus, &node, &candidates) => result,
    }
}

async fn follow(bus: &Bus, node: &NodeId, candidates: &mpsc::Sender<Candidate>) -> anyhow::Result<()> {
    let mut connections = bus.connections();
    // Before the first look, so that no change falls between the two. The client renews it with each connection.
    let mut signals = bus.subscribe(Subject::ChangedNode(node.clone())).await?;
    let mut backoff = retry::SITE;
    loop {
        bus.connected().await;
        connections.borrow_and_update();
        // Signals from before this look are answered by it.
        while let Some(Some(_)) = signals.next().now_or_never() {}
        let pause = match look(bus, node).await {
            Ok(found) => {
                backoff = retry::SITE;
                if let Some(candidate) = found {
                    // The reconciler lives as long as we do, or both end.
                    let _ = candidates.send(candidate).await;
                }
                jittered(LOOK_AGAIN)
            }
            Err(reason) => {
                warn!(error = &*reason as &dyn std::error::Error, "the desired state could not be read; trying again");
                backoff.pause()
            }
        };
        tokio::select! {
            _ = signals.next() => {}
            _ = connections.changed() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Reads what the site desires of the node. Returns `None` when nothing was ever desired of it.
async fn look(bus: &Bus, node: &NodeId) -> anyhow::Result<Option<Candidate>> {
    let found = bus.last(streams::DESIRED, &Subject::DesiredNode(node.clone())).await?;
    if found.is_none() {
        debug!("nothing was ever desired of this node");
    }
    Ok(found.map(|message| Candidate { headers: message.headers, payload: message.payload }))
}
