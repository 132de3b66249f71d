//! One look at one client: read the tip of its repository, decide whether to believe it, publish the difference.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use bus::{proto, trace};
use identity::PublicKey;
use margo::{ClientName, NodeName};
use process::stop_point;
use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::{Instrument, info, info_span, warn};

use crate::{
    domain::{Tip, Trust, UntrustedTip},
    hub::{Hub, Stored},
    metrics,
    refusals::Refusals,
    snapshot::{Snapshot, Snapshots},
    store::{Candidate, Store},
};

/// How closely to look at a client. The later one is the closer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Trusts the head on the bus: only nodes that changed after its version are published.
    Changes,
    /// Compares every message on the bus with the repository: one may be lost, or written by somebody else.
    Everything,
}

/// Why a look at a client was in vain.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The tip is not to be believed, so nothing of it was published.
    #[error(transparent)]
    Refused(#[from] UntrustedTip),
    /// The repository or the hub could not be read or written.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Looks at clients. What it keeps in memory is found again by looking.
pub struct Observer {
    pub hub: Hub,
    pub store: Store,
    /// The tenant's root key, which has to have signed the key set of a tip.
    pub root: PublicKey,
    pub refusals: Refusals,
    /// The highest number of a key set that was seen for each client, so that an older key set is refused. The head on
    /// the bus tells the number too; this memory is for the time after the stream was deleted, and ends with the
    /// process.
    pub keys: Mutex<BTreeMap<ClientName, u64>>,
    /// What sites are answered from.
    pub snapshots: Mutex<Snapshots>,
    /// Clients that a site asked about before they were looked at.
    pub wanted: mpsc::Sender<ClientName>,
}

impl Observer {
    /// Makes sure that the hub holds what the client's tip says. Looking twice publishes nothing the second time.
    pub async fn look(&self, client: &ClientName, look: Look) -> Result<(), LookError> {
        let result = self.compare_and_publish(client, look).await;
        match &result {
            Ok(()) => self.refusals.remove(client),
            Err(LookError::Refused(error)) => {
                warn!(%client, error = error as &dyn Error, "tip refused; what was published stays in force");
                self.refusals.add(client, error);
            }
            Err(LookError::Failed(error)) => warn!(%client, error = format!("{error:#}"), "not published"),
        }
        result
    }

    async fn compare_and_publish(&self, client: &ClientName, look: Look) -> Result<(), LookError> {
        let (store, name) = (self.store.clone(), client.clone());
        let candidate = async { spawn_blocking(move || store.candidate(&name)).await.context("reading a repository")? };
        let (candidate, stored) = tokio::try_join!(candidate, self.hub.head(client))?;
        let Some(candidate) = candidate else { return Ok(()) };

        let trust = Trust { root: &self.root, tenant: &self.store.tenant, client };
        // A head on the bus that cannot be believed was not published by us. It is replaced as if there were none.
        let published = stored.message.and_then(|message| trust.believe(message, 0).ok()).map(|(head, _)| head);
        let held = published.as_ref().map_or(0, |head| head.keys).max(self.held_keys(client));
        let tip = trust.check(&candidate.commit(), &candidate.files, held, |keys| candidate.verify(keys))?;
        self.hold_keys(client, tip.head.keys);

        let since = tip.since(published.as_ref())?;
        // Before anything is published: sites are answered from the commit, and whoever dies in between signals again.
        let version = tip.head.head.version.get();
        let span = info_span!("publish desired", %client, version, trace_id = tracing::field::Empty);
        if let Some(traceparent) = &candidate.traceparent {
            trace::continue_from_text(&span, traceparent);
        }
        self.tell(client, &candidate, &tip).instrument(span.clone()).await;
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
        self.publish(client, &tip, nodes, stored.sequence).instrument(span).await?;
        Ok(())
    }

    /// Takes this tip as what the client's site is answered from, and tells the site to look again.
    async fn tell(&self, client: &ClientName, candidate: &Candidate, tip: &Tip) {
        let commit = candidate.commit();
        if self.newest(client).as_ref() == Some(&commit) {
            return;
        }
        let before = self.snapshots().newest_snapshot(client);
        let snapshot = Snapshot::of(tip.clone(), trace::current_text(), before.as_deref());
        self.snapshots().advance(client, Arc::new(snapshot));
        stop_point("git-observer.before-signal");
        if let Err(error) = self.hub.changed(client).await {
            // The site asks when it connects again, and every hour.
            warn!(%client, error = format!("{error:#}"), "the site is not told of a change");
        }
    }

    /// What sites are answered from.
    pub fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The commit of the newest head of a client that was believed; `None` before the first look.
    pub fn newest(&self, client: &ClientName) -> Option<String> {
        self.snapshots().newest(client).map(str::to_owned)
    }

    /// Has a client looked at that a site asked about.
    pub fn want(&self, client: &ClientName) {
        // A full queue holds others that a site asked about, and this one comes again.
        let _ = self.wanted.try_send(client.clone());
    }

    /// Makes the snapshot of a commit that a site names. Nobody has to believe it: the site checks every byte. Blocks.
    pub fn read_snapshot(&self, client: &ClientName, commit: &str) -> anyhow::Result<Option<Arc<Snapshot>>> {
        let Some(candidate) = self.store.candidate_at(client, commit)? else { return Ok(None) };
        let trust = Trust { root: &self.root, tenant: &self.store.tenant, client };
        let tip = trust.check(&candidate.commit(), &candidate.files, 0, |keys| candidate.verify(keys))?;
        let snapshot = Arc::new(Snapshot::of(tip, candidate.traceparent, None));
        self.snapshots().keep(client, snapshot.clone());
        Ok(Some(snapshot))
    }

    /// Messages of nodes that are on the bus in another form than the tip wants them, as the tip wants them.
    async fn differing(
        &self,
        client: &ClientName,
        tip: &Tip,
    ) -> anyhow::Result<BTreeMap<NodeName, proto::DesiredNode>> {
        let published = self.hub.nodes(client, tip.nodes.keys()).await?;
        let differs =
            |name: &NodeName, stored: &Stored<_>| stored.is_unreadable() || tip.differs(name, stored.message.as_ref());
        let differing = published.into_iter().filter(|(name, stored)| differs(name, stored));
        Ok(differing.map(|(name, _)| (name.clone(), tip.message(&name))).collect())
    }

    /// Publishes messages of nodes and then the head, if the head on the bus is still the one at `sequence`. The head
    /// goes along also when only a node's message had to be put right, so that nobody overtakes that.
    async fn publish(
        &self,
        client: &ClientName,
        tip: &Tip,
        nodes: BTreeMap<NodeName, proto::DesiredNode>,
        sequence: u64,
    ) -> anyhow::Result<()> {
        stop_point("git-observer.before-publish");
        let count = self.hub.publish(client, nodes.into_iter(), &tip.head.message, sequence).await?;
        metrics::PUBLISHED.inc_by(count as u64);
        info!(messages = count, "published");
        Ok(())
    }

    /// The highest number of a key set that was seen for this client; 0 when none was.
    fn held_keys(&self, client: &ClientName) -> u64 {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(client).copied().unwrap_or(0)
    }

    fn hold_keys(&self, client: &ClientName, number: u64) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let held = keys.entry(client.clone()).or_default();
        *held = number.max(*held);
    }
}
