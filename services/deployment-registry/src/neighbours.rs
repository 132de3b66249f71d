//! Questions to the services that know what an order depends on: applications, sites and nodes.

use api::{AppContent, AppRef, FieldError, NodeState, Problem};
use bus::{Bus, ServiceName, Subject};
use margo::{DeviceId, NodeId, SiteName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    domain::{Fleet, Member},
    error::OrderError,
};

/// What an order depends on of an [`api::Node`]. Everything else is passed over unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownNode {
    name: NodeId,
    device_id: DeviceId,
    state: NodeState,
}

/// What an order depends on of an [`api::Site`].
#[derive(Deserialize)]
struct KnownSite {
    name: SiteName,
}

/// Sends requests to app-registry and node-capabilities.
pub struct Neighbours {
    bus: Bus,
}

impl Neighbours {
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// Asks for an application with all that documents are made of. One that is not in the catalogue is a mistake in
    /// the order's field `app`, and no failure of app-registry.
    pub async fn app(&self, app: &AppRef) -> Result<AppContent, OrderError> {
        self.ask(ServiceName::AppRegistry, "get", app).await.map_err(|error| match error {
            OrderError::Neighbour { source: Problem { status: 404, .. }, .. } => {
                let message = format!("there is no application {} at version {}", app.id, app.version);
                OrderError::Invalid(vec![FieldError { field: "app".to_owned(), message }])
            }
            error => error,
        })
    }

    /// Asks for all sites and nodes, at the same time.
    pub async fn fleet(&self) -> Result<Fleet, OrderError> {
        let nodes = self.ask::<_, Vec<KnownNode>>(ServiceName::NodeCapabilities, "nodes", &());
        let sites = self.ask::<_, Vec<KnownSite>>(ServiceName::NodeCapabilities, "sites", &());
        let (nodes, sites) = futures::try_join!(nodes, sites)?;
        Ok(Fleet {
            nodes: nodes
                .into_iter()
                .map(|node| (node.name, Member { state: node.state, device: node.device_id }))
                .collect(),
            sites: sites.into_iter().map(|site| site.name).collect(),
        })
    }

    async fn ask<T: Serialize, R: DeserializeOwned>(
        &self,
        service: ServiceName,
        verb: &str,
        body: &T,
    ) -> Result<R, OrderError> {
        let subject = Subject::service(service, verb);
        let answer = self.bus.call(&subject, body, None).await;
        answer.map_err(|source| OrderError::Neighbour { service, source })
    }
}
