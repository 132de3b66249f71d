//! Calls of the hub: passed on to the node that they name, and the parts of its answer passed on to the hub.

use std::sync::{Arc, Mutex, PoisonError};

use bus::{
    Ask, Pattern, Subject,
    calls::{self, PassedOn},
    proto::CallPartOutcome as Outcome,
};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::site::Site;

/// Passes both ways until shutdown. Nothing of it is kept: a call that is lost is made again by whoever wants the answer.
pub async fn run(site: Arc<Site>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let passed: Arc<Mutex<PassedOn>> = Arc::default();
    let mut heard = site.hub.subscribe(Pattern::CallsOf(site.client.clone())).await?;
    let parts = site.front.asks(Pattern::NodeParts(site.client.clone()), calls::PARTS).await?;
    let down = async {
        while let Some(message) = heard.next().await {
            pass_down(&site, &passed, message).await;
        }
    };
    let up = parts.stream().for_each_concurrent(calls::CONCURRENCY, |part| {
        let (site, passed) = (site.clone(), passed.clone());
        async move { pass_up(&site, &passed, part).await }
    });
    shutdown.run_until_cancelled(futures::future::join(down, up)).await;
    Ok(())
}

async fn pass_down(site: &Site, passed: &Mutex<PassedOn>, message: async_nats::Message) {
    let Ok(subject @ Subject::Call(..)) = message.subject.parse() else { return };
    let (Subject::Call(node, _), Some(id)) = (&subject, calls::id_of(&message.payload)) else { return };
    passed.lock().unwrap_or_else(PoisonError::into_inner).note(id, node.clone());
    // Old calls are worth nothing to a server that comes back.
    if site.bus.is_connected()
        && let Err(error) = site.bus.signal(&subject, message.payload).await
    {
        debug!(%subject, error = format!("{error:#}"), "call not passed on");
    }
}

async fn pass_up(site: &Site, passed: &Mutex<PassedOn>, part: Ask) {
    let outcome = match calls::sender(&part) {
        Some((node, id)) if passed.lock().unwrap_or_else(PoisonError::into_inner).holds(id, node) => {
            let subject = Subject::SitePart(site.client.clone(), id.clone());
            calls::pass_on(&site.hub, &subject, part.payload.clone()).await
        }
        _ => Outcome::Unwanted,
    };
    calls::answer_part(&part, outcome).await;
}
