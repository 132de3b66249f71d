//! Brings the desired state from the site: asks at every connect, on every signal, and every five minutes.

use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::HeaderMap;
use bus::{Bus, NodeVerb, Subject, proto, trace};
use futures::{FutureExt, StreamExt};
use margo::NodeId;
use prost::Message as _;
use proto::{DesiredOutcome, NodeDesiredAnswer, NodeDesiredAsk};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{reconciler::Candidate, retry};
use process::jittered;

/// Signals can get lost; a look costs one small request.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Form of answers that this agent understands.
const PROTOCOL: u32 = 1;

/// Sends on what the site answers until shutdown. Whether it counts is the reconciler's to decide. `held` is the version in
/// force, 0 for none.
pub async fn run(
    bus: Bus,
    node: NodeId,
    held: watch::Receiver<u64>,
    candidates: mpsc::Sender<Candidate>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        result = follow(&bus, &node, &held, &candidates) => result,
    }
}

async fn follow(
    bus: &Bus,
    node: &NodeId,
    held: &watch::Receiver<u64>,
    candidates: &mpsc::Sender<Candidate>,
) -> anyhow::Result<()> {
    let mut connections = bus.connections();
    // Before the first look, so that no change falls between the two. The client renews it with each connection.
    let mut signals = bus.subscribe(Subject::ChangedNode(node.clone())).await?;
    let mut backoff = retry::SITE;
    loop {
        bus.connected().await;
        connections.borrow_and_update();
        // Signals from before this look are answered by it.
        while let Some(Some(_)) = signals.next().now_or_never() {}
        let version = *held.borrow();
        let pause = match look(bus, node, version).await {
            Ok(found) => {
                backoff = retry::SITE;
                if let Some(candidate) = found {
                    // The reconciler lives as long as we do, or both end.
                    let _ = candidates.send(candidate).await;
                }
                jittered(LOOK_AGAIN)
            }
            Err(reason) => {
                warn!(error = &*reason as &dyn std::error::Error, "the site was asked in vain for the desired state");
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

/// Asks what the site desires of the node. Returns `None` when the node has it, or when nothing was ever desired of it.
async fn look(bus: &Bus, node: &NodeId, held: u64) -> anyhow::Result<Option<Candidate>> {
    let subject = Subject::Node(node.clone(), NodeVerb::Desired);
    let ask = NodeDesiredAsk { protocol: PROTOCOL, held };
    let answer = bus.ask(&subject, ask.encode_to_vec().into()).await?;
    let answer = NodeDesiredAnswer::decode(answer.payload).context("decoding the site's answer")?;
    match answer.outcome() {
        DesiredOutcome::Found => {}
        DesiredOutcome::Held => return Ok(None),
        DesiredOutcome::Nothing => {
            debug!("nothing was ever desired of this node");
            return Ok(None);
        }
        other => bail!("the site cannot tell now: {}", other.as_str_name()),
    }
    let mut headers = HeaderMap::new();
    if !answer.traceparent.is_empty() {
        headers.insert(trace::TRACEPARENT, answer.traceparent.as_str());
    }
    Ok(Some(Candidate { headers, payload: answer.message }))
}
