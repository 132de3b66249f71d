//! What looks and answers share: the repositories, the hub, and what is kept in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use git_state::Changes;
use identity::PublicKey;
use margo::ClientName;
use tokio::sync::mpsc;

use crate::{
    domain::{Trust, UntrustedTip},
    hand::Hand,
    hub::Hub,
    places::Places,
    refusals::Refusals,
    snapshot::{Snapshot, Snapshots},
    store::{Read, ReadError, Store},
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

impl From<ReadError> for LookError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused(error) => Self::Refused(error),
            ReadError::Git(error) => Self::Failed(error.into()),
        }
    }
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
    /// Documents of which sites have a part.
    pub hand: Mutex<Hand>,
    /// Clients that a site asked about before they were looked at.
    pub wanted: mpsc::Sender<ClientName>,
    pub places: Places,
}

impl Observer {
    /// What a tip of this client is held against.
    pub fn trust<'a>(&'a self, client: &'a ClientName) -> Trust<'a> {
        Trust { root: &self.root, tenant: &self.store.tenant, client }
    }

    /// What sites are answered from.
    pub fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Documents of which sites have a part.
    pub fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Makes the snapshot of a commit that somebody names. Nobody has to believe it: the site checks every byte. Blocks.
    pub fn read_snapshot(&self, client: &ClientName, commit: &str) -> Result<Option<Arc<Snapshot>>, ReadError> {
        let before = self.snapshots().nearest(client);
        let Some(read) = self.store.at(&self.trust(client), commit, before.as_ref())? else { return Ok(None) };
        let Read { tip, tree, traceparent, .. } = read;
        let snapshot = Arc::new(Snapshot::of(tip, tree, Changes::default(), traceparent, None));
        self.snapshots().keep(client, snapshot.clone());
        Ok(Some(snapshot))
    }
}
