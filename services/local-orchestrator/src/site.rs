//! What all parts of the service share: the two connections, the site's streams, what was refused.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, bail};
use bus::{Bus, Front, Pattern, streams};
use margo::{ClientName, NodeId, NodeName, SiteName, TenantName};
use tokio::sync::Mutex;
use tracing::info;

use crate::refusals::Refusals;

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
    /// What the site did not accept.
    pub refusals: Refusals,
    state_stream: RwLock<String>,
    creating: Mutex<()>,
}

impl Site {
    pub fn new(tenant: TenantName, name: SiteName, bus: Bus, front: Front, hub: Bus) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            client: name.client(),
            name,
            bus,
            front,
            hub,
            refusals: Refusals::new(),
            state_stream: RwLock::default(),
            creating: Mutex::default(),
        })
    }

    /// The full name of one of the site's nodes.
    pub fn node(&self, node: &NodeName) -> NodeId {
        NodeId::new(self.client.clone(), node.clone())
    }

    /// Makes the site's streams where they are missing. A new STATE has a new identity: nodes then send everything.
    pub async fn ensure_streams(&self) -> anyhow::Result<()> {
        if !self.bus.is_connected() {
            bail!("the site's server is not connected");
        }
        // Two at once would make the same stream with different identities.
        let _creating = self.creating.lock().await;
        let client = || self.client.clone();
        let desired = streams::desired(Pattern::DesiredOf(client()));
        let state = streams::state(Pattern::StateOf(client()));
        let events = streams::events_at_site(Pattern::EventsOf(client()));
        for config in [desired, events, state] {
            let name = config.name.clone();
            let stream = self.bus.jetstream().get_or_create_stream(config).await;
            let stream = stream.with_context(|| format!("looking for the site's stream {name}"))?;
            if name == streams::STATE {
                let id = streams::id(&stream.cached_info().config).to_owned();
                let mut held = self.state_stream.write().unwrap_or_else(PoisonError::into_inner);
                if *held != id {
                    info!(id, "the site's stream STATE");
                    *held = id;
                }
            }
        }
        Ok(())
    }

    /// The identity of the site's stream STATE. A new one means that the old content is gone.
    pub fn state_stream(&self) -> String {
        self.state_stream.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
