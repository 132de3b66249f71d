//! `node.<client>.<node>.desired`: what a node shall run, from the set in force. While the next one is on its way into force,
//! nodes are answered from the one before.

use std::{error::Error, sync::Arc};

use bus::{Ask, Asker, NodeVerb, Pattern, Rules, Shares, proto};
use futures::{StreamExt, stream};
use margo::NodeName;
use prost::Message as _;
use proto::{DesiredOutcome, NodeDesiredAnswer, NodeDesiredAsk};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

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
    stream::unfold(asks, async |mut asks| Some((asks.next().await?, asks)))
        .take_until(shutdown.cancelled_owned())
        .for_each_concurrent(CONCURRENCY, async |ask| {
            let held = in_force.borrow().clone();
            answer(held, ask).await;
        })
        .await;
    Ok(())
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
