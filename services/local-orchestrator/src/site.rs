//! What all parts of the service share: the two connections, the site's streams, what was refused.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context, bail};
use bus::{Bus, Content, Front, Known, OwnStream, Pattern, bootstrap, streams};
use margo::{ClientName, NodeId, NodeName, SiteName, TenantName};
use tokio::sync::Mutex;

use crate::{refusals::Refusals, reported::Reported};

/// The site as its parts see it.
pub struct Site {
    /// The tenant that the site belongs to.
    pub tenant: TenantName,
    pub name: SiteName,
    /// The client that this LO is.
    pub client: ClientName,
    /// The connection to the site's own server.
    pub bus: Bus,
    /// The connection to the site's own server on which nodes are heard and answered.
    pub front: Front,
    /// The connection to the hub, which may be away for days.
    pub hub: Bus,
    /// How many former keys each node has that has one.
    generations: RwLock<BTreeMap<NodeName, u64>>,
    /// What the site did not accept.
    pub refusals: Refusals,
    /// The site's stream STATE, which the LO alone writes.
    state: Mutex<OwnStream>,
    /// The last reports in it.
    pub reported: Reported,
    /// What is known of the stream, for those who only look.
    state_known: RwLock<Known>,
    creating: Mutex<()>,
}

impl Site {
    pub fn new(tenant: TenantName, name: SiteName, bus: Bus, front: Front, hub: Bus) -> Arc<Self> {
        let state = Mutex::new(OwnStream::new(bus.clone(), streams::STATE, Known::default()));
        Arc::new(Self {
            state,
            reported: Reported::default(),
            state_known: RwLock::default(),
            tenant,
            client: name.client(),
            name,
            bus,
            front,
            hub,
            generations: RwLock::default(),
            refusals: Refusals::new(),
            creating: Mutex::default(),
        })
    }

    /// The generation of a node's key: how many former keys the NODE file in force names.
    pub fn generation(&self, node: &NodeName) -> u64 {
        self.generations.read().unwrap_or_else(PoisonError::into_inner).get(node).copied().unwrap_or(0)
    }

    /// Takes these as the generations of the nodes that have former keys.
    pub fn set_generations(&self, generations: BTreeMap<NodeName, u64>) {
        *self.generations.write().unwrap_or_else(PoisonError::into_inner) = generations;
    }

    /// The full name of one of the site's nodes.
    pub fn node(&self, node: &NodeName) -> NodeId {
        NodeId::new(self.client.clone(), node.clone())
    }

    /// Makes the site's streams where they are missing, and brings them to the form of this version. A new STATE has a new
    /// identity: nodes then send everything.
    pub async fn ensure_streams(&self) -> anyhow::Result<()> {
        if !self.bus.is_connected() {
            bail!("the site's server is not connected");
        }
        // Two at once would make the same stream with different identities.
        let _creating = self.creating.lock().await;
        let client = || self.client.clone();
        let desired = streams::desired(Pattern::DesiredOf(client()));
        let state = streams::state_at_site(Pattern::StateOf(client()));
        let events = streams::events_at_site(Pattern::EventsOf(client()));
        for wanted in [desired, events, state] {
            let id = bootstrap::keep_stream(&self.bus, &wanted).await.context("keeping a stream of the site")?.id;
            if wanted.name == streams::STATE && self.state_known().id != id {
                // What is written next looks at it, and learns that it is another one.
                self.state.lock().await.distrust();
                self.state_known.write().unwrap_or_else(PoisonError::into_inner).id = id;
            }
        }
        Ok(())
    }

    /// Looks at the site's stream STATE, if that has to be done, and hears how far nodes, by name, say that it was. When it
    /// lies behind that, it gets a new identity, upon which nodes send everything again.
    pub async fn look_at_state(&self, claims: Vec<(String, Known)>) -> anyhow::Result<()> {
        let mut state = self.state.lock().await;
        let looked = state.look().await?;
        let heard = state.hear(claims).await?;
        if looked == Content::Void || heard == Content::Void {
            self.reported.clear();
        }
        self.tell(&state);
        Ok(())
    }

    /// Notes how far the site's stream STATE was written.
    pub async fn wrote_state(&self, sequence: u64) {
        let mut state = self.state.lock().await;
        state.wrote(sequence);
        self.tell(&state);
    }

    fn tell(&self, state: &OwnStream) {
        self.state_known.write().unwrap_or_else(PoisonError::into_inner).clone_from(state.known());
    }

    /// The site's stream STATE: its identity, and how far it is written. A new identity means that something of the old content
    /// is gone.
    pub fn state_known(&self) -> Known {
        self.state_known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
