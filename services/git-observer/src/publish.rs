//! What comes after the site was told: the hub's stream is brought to what the commit says.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use margo::{ClientName, NodeFolder, NodeName};
use process::stop_point;
use tracing::info;

use crate::{
    metrics,
    observer::{Look, LookError, Observer},
    places::blocking,
    snapshot::Snapshot,
    store::Files,
};

/// What is still to be published after the site was told.
pub struct Due {
    pub look: Look,
    pub commit: String,
    /// The version on the bus, after which nodes may have changed; `None` when it is this one.
    pub since: Option<u64>,
    /// Sequence of the head on the bus.
    pub sequence: u64,
}

impl Observer {
    /// Publishes messages of nodes and then the head, if the head on the bus is still the one that was seen. The head
    /// goes along also when only a node's message had to be put right, so that nobody overtakes that.
    pub async fn publish(self: &Arc<Self>, client: &ClientName, due: Due) -> Result<(), LookError> {
        let Due { look, commit, since, sequence } = due;
        let _place = self.places.publishing.acquire().await.context("waiting for a place to publish")?;
        let at_hand = self.snapshots().peek(client, &commit);
        let snapshot = match at_hand {
            Some(snapshot) => snapshot,
            None => {
                let (observer, name) = (self.clone(), client.clone());
                let (read, _) = blocking(&self.places.reads, move || observer.read_snapshot(&name, &commit)).await?;
                read?.context("the repository is gone")?
            }
        };
        let nodes: Vec<NodeName> = match (look, since) {
            (Look::Changes, since) => {
                snapshot.changed_since(since.unwrap_or(0)).map(|(name, _)| name.clone()).collect()
            }
            (Look::Everything, since) => {
                let compared = snapshot.clone();
                let differs = move |name: &NodeName, message: Option<&Bytes>| match message.map(|it| bus::decode(it)) {
                    None => compared.tip.differs(name, None),
                    Some(Ok(message)) => compared.tip.differs(name, Some(&message)),
                    Some(Err(_)) => true,
                };
                let known = snapshot.tip.list.nodes().map(|(name, _)| name.clone()).collect();
                let differing = self.hub.differing(client, known, differs).await?;
                if differing.is_empty() && since.is_none() {
                    return Ok(());
                }
                differing
            }
        };
        let (observer, name) = (self.clone(), client.clone());
        let build = move || {
            let head = bus::encode(&snapshot.tip.head.message);
            anyhow::Ok((observer.messages(&name, &snapshot, nodes)?, head))
        };
        let (built, _) = blocking(&self.places.builds, build).await?;
        let (messages, head) = built?;
        stop_point("git-observer.before-publish");
        let count = self.hub.publish(client, messages, head, sequence).await?;
        metrics::PUBLISHED.inc_by(count as u64);
        info!(messages = count, "published");
        Ok(())
    }

    /// The messages of these nodes, as they travel. Blocks.
    fn messages(
        &self,
        client: &ClientName,
        snapshot: &Snapshot,
        mut nodes: Vec<NodeName>,
    ) -> anyhow::Result<Vec<(NodeName, Bytes)>> {
        // Nodes of one folder one after the other, so that the folder is read once.
        nodes.sort_by_cached_key(NodeFolder::of);
        let mut files = Files::of(&self.store, client, snapshot.commit());
        let mut messages = Vec::new();
        for node in nodes {
            let message = snapshot.tip.message(&node, |deployment, digest| {
                let content = files.content(snapshot, &node, deployment, digest)?;
                content.with_context(|| format!("the commit lacks a file of node {node}"))
            })?;
            messages.push((node, bus::encode(&message)));
        }
        Ok(messages)
    }
}
