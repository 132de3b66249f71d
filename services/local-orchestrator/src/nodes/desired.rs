//! `node.<client>.<node>.desired`: what a node shall run, from the set in force. While the next one is on its way into force,
//! nodes are answered from the one before.

use std::{convert::Infallible, error::Error, sync::Arc};

use bus::{Ask, Asker, NodeVerb, Pattern, Rules, Shares, Subject, proto};
use bytes::Bytes;
use futures::StreamExt;
use margo::NodeName;
use prost::Message as _;
use proto::{DesiredOutcome, NodeDesiredAnswer, NodeDesiredAsk};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{down::InForce, site::Site};

/// Asks that are answered at once: each reads one message from the disk.
const CONCURRENCY: usize = 8;

/// An ask is two numbers. A node has one in work, and may ask once more when it waited in vain.
const ASKS: Rules = Rules { longest: 1 << 10, shares: Shares { each: 2, bytes: 4 << 20 }, answered: true };

/// Answers until shutdown.
pub async fn run(
    site: Arc<Site>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let pattern = Pattern::Nodes(site.client.clone(), NodeVerb::Desired);
    let asks = site.front.asks(pattern, ASKS).await?;
    let telling = tell_all(&site, in_force.clone());
    let answering =
        asks.stream().take_until(shutdown.cancelled_owned()).for_each_concurrent(CONCURRENCY, async |ask| {
            let held = in_force.borrow().clone();
            answer(held, ask).await;
        });
    tokio::select! {
        () = answering => {}
        never = telling => match never {},
    }
    Ok(())
}

/// Tells every node to ask, at the start and with each connection: an earlier life may have died, or a connection may have been
/// lost, between the adoption of a set and the signals. Whoever has it already is answered with a word.
async fn tell_all(site: &Site, in_force: watch::Receiver<Option<Arc<InForce>>>) -> Infallible {
    let mut connections = site.bus.connections();
    loop {
        site.front.reachable().await;
        connections.mark_unchanged();
        let held = in_force.borrow().clone();
        for (node, _) in held.iter().flat_map(|held| held.set.list.nodes()) {
            let subject = Subject::ChangedNode(site.node(node));
            if let Err(error) = site.bus.signal(&subject, Bytes::new()).await {
                debug!(%subject, error = format!("{error:#}"), "not told to ask");
            }
        }
        if connections.changed().await.is_err() {
            // The connection has ended, and so does whoever holds this.
            std::future::pending::<()>().await;
        }
    }
}

async fn answer(in_force: Option<Arc<InForce>>, ask: Ask) {
    let Asker::Node(id) = &ask.asker else { return };
    let answer = match NodeDesiredAsk::decode(ask.payload.clone()) {
        Ok(asked) => of_node(in_force, id.node.clone(), asked.held).await,
        Err(_) => outcome(DesiredOutcome::Gone),
    };
    ask.answer(answer.encode_to_vec().into()).await;
}

async fn of_node(in_force: Option<Arc<InForce>>, node: NodeName, held: u64) -> NodeDesiredAnswer {
    let Some(in_force) = in_force else { return outcome(DesiredOutcome::NotNow) };
    let Some(desired) = in_force.set.list.get(&node) else { return outcome(DesiredOutcome::Nothing) };
    if desired.version.get() == held {
        return outcome(DesiredOutcome::Held);
    }
    let name = node.clone();
    match disk::blocking(move || in_force.node(&name)).await {
        Ok(Some(served)) => NodeDesiredAnswer {
            message: served.payload,
            traceparent: served.trace.unwrap_or_default(),
            ..outcome(DesiredOutcome::Found)
        },
        Ok(None) => outcome(DesiredOutcome::Nothing),
        Err(error) => {
            warn!(%node, error = &error as &dyn Error, "reading what is in force");
            outcome(DesiredOutcome::NotNow)
        }
    }
}

fn outcome(outcome: DesiredOutcome) -> NodeDesiredAnswer {
    NodeDesiredAnswer { outcome: outcome.into(), ..NodeDesiredAnswer::default() }
}
