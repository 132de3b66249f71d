//! A site that has lost its disk asks the hub where its nodes stand, before it registers anybody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use async_nats::HeaderMap;
use bus::{
    SiteVerb, Subject, proto,
    report::{MAX_COUNTER, PROTOCOL},
};
use margo::NodeName;
use process::Backoff;
use prost::Message as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::incarnations::{Incarnations, Life};
use crate::site::Site;

/// Asks until the hub has answered and the answer is on disk, when that has to be.
pub async fn learn(
    site: Arc<Site>,
    incarnations: Arc<Incarnations>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let subject = Subject::Site(site.client.clone(), SiteVerb::Positions);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    while !incarnations.is_complete() {
        let learned = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            learned = ask_and_keep(&site, &incarnations) => learned,
        };
        if let Err(error) = learned {
            warn!(error = format!("{error:#}"), "no node is registered before the hub has said where the nodes stand");
            site.refusals.add(&subject.to_string(), &format!("nodes are not registered: {error:#}"));
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(backoff.pause()) => {}
            }
        }
    }
    shutdown.cancelled().await;
    Ok(())
}

async fn ask_and_keep(site: &Site, incarnations: &Incarnations) -> anyhow::Result<()> {
    site.hub.connected().await;
    let known = ask(site).await.context("asking the hub where the nodes stand")?;
    let nodes = known.len();
    incarnations.learn(known).await?;
    info!(nodes, "the hub has said where the nodes stand");
    Ok(())
}

async fn ask(site: &Site) -> anyhow::Result<BTreeMap<NodeName, Life>> {
    let subject = Subject::Site(site.client.clone(), SiteVerb::Positions);
    let mut known = BTreeMap::new();
    let mut after = String::new();
    loop {
        let question = proto::PositionsRequest { protocol: PROTOCOL, after: after.clone() };
        let answer = site.hub.request(&subject, HeaderMap::new(), question.encode_to_vec().into()).await?;
        let answer = proto::PositionsAnswer::decode(answer.payload).context("decoding the answer")?;
        ensure!(answer.refused.is_empty(), "the hub says: {}", answer.refused);
        for held in answer.positions {
            ensure!(held.node > after, "the hub's answer is out of order at {:?}", held.node);
            ensure!(held.generation.max(held.incarnation) < MAX_COUNTER, "{:?} has no valid position", held.node);
            after.clone_from(&held.node);
            let life = Life { generation: held.generation, incarnation: held.incarnation };
            known.insert(held.node.parse().context("a name in the answer")?, life);
        }
        if !answer.more {
            return Ok(known);
        }
    }
}
