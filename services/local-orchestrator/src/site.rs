//! What all parts of the service share: the two connections, the site's streams, what was refused, what is in force.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context, bail};
use async_nats::jetstream::{message::StreamMessage, stream::DirectGetErrorKind};
use bus::{Bus, Pattern, Subject, streams};
use margo::{ClientName, ManifestVersion, NodeId, NodeName, SiteName, TenantName};
use tokio::sync::{Mutex, watch};
use tracing::info;

use crate::refusals::Refusals;

/// What the site knows of the manifest in force, for those who only look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub version: ManifestVersion,
    pub commit: String,
    /// Deployments of each node.
    pub desired: std::collections::BTreeMap<NodeName, u64>,
}

pub struct Site {
    pub tenant: TenantName,
    pub name: SiteName,
    pub client: ClientName,
    /// The site's own server.
    pub bus: Bus,
    pub hub: Bus,
    pub refusals: Refusals,
    /// `None` before the first adoption.
    pub in_force: watch::Sender<Option<InForce>>,
    state_stream: RwLock<String>,
    creating: Mutex<()>,
}

impl Site {
    pub fn new(tenant: TenantName, name: SiteName, bus: Bus, hub: Bus) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            client: name.client(),
            name,
            bus,
            hub,
            refusals: Refusals::new(),
            in_force: watch::Sender::new(None),
            state_stream: RwLock::default(),
            creating: Mutex::default(),
        })
    }

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

    /// Identity of the site's stream STATE.
    pub fn state_stream(&self) -> String {
        self.state_stream.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Direct get by subject: the last message, `None` when there is none.
pub async fn last(bus: &Bus, stream: &str, subject: &Subject) -> anyhow::Result<Option<StreamMessage>> {
    if !bus.is_connected() {
        bail!("reading {subject}: the server is not connected");
    }
    let stream = bus.jetstream().get_stream_no_info(stream).await?;
    match stream.direct_get_last_for_subject(subject.to_string()).await {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {subject}")),
    }
}
