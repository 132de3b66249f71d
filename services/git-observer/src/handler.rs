//! One look at one client: read the tip, believe it or not, publish the difference.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use api::RefusalInfo;
use bus::{Subject, proto, trace};
use identity::PublicKey;
use jiff::Timestamp;
use margo::{ClientName, NodeName};
use service::stop_point;
use tokio::task::spawn_blocking;
use tracing::{Instrument, info, info_span, warn};

use crate::{
    domain::{Refusal, Tip, Trust},
    hub::{Hub, Stored},
    metrics,
    store::{Candidate, Store},
};

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// The head tells which nodes have changed since.
    Changes,
    /// Every message on the bus is compared: it may be lost or not ours.
    Everything,
}

/// Why a look was in vain.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The tip is not to be published.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The repository or the hub could not be read or written: to be tried again.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What operators see: at most one refusal for each client.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<ClientName, RefusalInfo>>>);

impl Refusals {
    /// By client.
    pub fn list(&self) -> Vec<RefusalInfo> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn set(&self, client: &ClientName, refusal: Option<&Refusal>) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            None => refused.remove(client),
            Some(refusal) => {
                let subject = Subject::DesiredHead(client.clone()).to_string();
                let (reason, at) = (chain(refusal), Timestamp::now().to_string());
                // The first time is the one that matters.
                let at = refused.get(client).filter(|held| held.reason == reason).map_or(at, |held| held.at.clone());
                refused.insert(client.clone(), RefusalInfo { subject, reason, at })
            }
        };
        metrics::REFUSED.set(refused.len() as i64);
    }
}

fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Looks at clients. Keeps nothing that a new one could not do without.
pub struct Observer {
    /// Where is published.
    pub hub: Hub,
    /// What is published.
    pub store: Store,
    /// By which key it is believed.
    pub root: PublicKey,
    /// What was refused.
    pub refusals: Refusals,
    /// The highest number of KEYS that was seen, by client: one may be published no longer when the stream was deleted.
    pub keys: Mutex<BTreeMap<ClientName, u64>>,
}

impl Observer {
    /// Makes sure that the hub holds what the client's tip says.
    pub async fn look(&self, client: &ClientName, look: Look) -> Result<(), LookError> {
        let result = self.compare_and_publish(client, look).await;
        match &result {
            Ok(()) => self.refusals.set(client, None),
            Err(LookError::Refused(refusal)) => {
                warn!(%client, error = refusal as &dyn Error, "tip refused; what was published stays in force");
                self.refusals.set(client, Some(refusal));
            }
            Err(LookError::Failed(error)) => warn!(%client, error = format!("{error:#}"), "not published"),
        }
        result
    }

    async fn compare_and_publish(&self, client: &ClientName, look: Look) -> Result<(), LookError> {
        let (store, of) = (self.store.clone(), client.clone());
        let candidate = spawn_blocking(move || store.candidate(&of)).await.context("reading a repository")??;
        let Some(candidate) = candidate else { return Ok(()) };

        let trust = Trust { root: &self.root, tenant: &self.store.tenant, client };
        let stored = self.hub.head(client).await?;
        // What is on the bus and cannot be believed counts for nothing, and is replaced.
        let published = stored.message.and_then(|message| trust.believe(message, 0).ok()).map(|(head, _)| head);
        let held = published.as_ref().map_or(0, |head| head.keys).max(self.held_keys(client));
        let tip = trust.check(&candidate.commit(), &candidate.files, held, |keys| candidate.verify(keys))?;
        self.hold_keys(client, tip.head.keys);

        let since = tip.since(published.as_ref())?;
        let nodes = match (look, since) {
            (Look::Changes, None) => return Ok(()),
            (Look::Changes, Some(since)) => {
                tip.changed_since(since).map(|name| (name.clone(), tip.message(name))).collect()
            }
            (Look::Everything, since) => {
                let differing = self.differing(client, &tip).await?;
                if differing.is_empty() && since.is_none() {
                    return Ok(());
                }
                differing
            }
        };
        self.publish(client, &candidate, &tip, nodes, stored.sequence).await?;
        Ok(())
    }

    async fn differing(
        &self,
        client: &ClientName,
        tip: &Tip,
    ) -> anyhow::Result<BTreeMap<NodeName, proto::DesiredNode>> {
        let published = self.hub.nodes(client, tip.nodes.keys()).await?;
        let differs =
            |name: &NodeName, stored: &Stored<_>| stored.is_garbage() || tip.differs(name, stored.message.as_ref());
        let differing = published.into_iter().filter(|(name, stored)| differs(name, stored));
        Ok(differing.map(|(name, _)| (name.clone(), tip.message(&name))).collect())
    }

    /// The head goes along also when only a node's message was put right: its signal tells the LO to look again.
    async fn publish(
        &self,
        client: &ClientName,
        candidate: &Candidate,
        tip: &Tip,
        nodes: BTreeMap<NodeName, proto::DesiredNode>,
        sequence: u64,
    ) -> anyhow::Result<()> {
        let version = tip.head.head.version.get();
        let span = info_span!("publish desired", %client, version, trace_id = tracing::field::Empty);
        if let Some(traceparent) = &candidate.traceparent {
            trace::continue_from_text(&span, traceparent);
        }
        async {
            stop_point("git-observer.before-publish");
            let count = self.hub.publish(client, nodes.into_iter(), &tip.head.message, sequence).await?;
            metrics::PUBLISHED.inc_by(count as u64);
            info!(messages = count, "published");
            Ok(())
        }
        .instrument(span)
        .await
    }

    fn held_keys(&self, client: &ClientName) -> u64 {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(client).copied().unwrap_or(0)
    }

    fn hold_keys(&self, client: &ClientName, number: u64) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let held = keys.entry(client.clone()).or_default();
        *held = number.max(*held);
    }
}
