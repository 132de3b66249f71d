//! What other services know.

use api::{AppContent, AppRef, FieldError, Node, Problem, Site};
use bus::{Bus, ServiceName, Subject};
use serde::{Serialize, de::DeserializeOwned};

use crate::{domain::Fleet, error::OrderError};

/// Requests to app-registry and node-capabilities.
pub struct Neighbours {
    bus: Bus,
}

impl Neighbours {
    /// Asks over this connection.
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    /// An application with all that a deployment is made of.
    pub async fn app(&self, app: &AppRef) -> Result<AppContent, OrderError> {
        self.ask(ServiceName::AppRegistry, "get", app).await.map_err(|error| match error {
            OrderError::Neighbour { source: Problem { status: 404, .. }, .. } => {
                let message = format!("there is no application {} at version {}", app.id, app.version);
                OrderError::Invalid(vec![FieldError { field: "app".to_owned(), message }])
            }
            error => error,
        })
    }

    /// All sites and nodes.
    pub async fn fleet(&self) -> Result<Fleet, OrderError> {
        let nodes = self.ask::<_, Vec<Node>>(ServiceName::NodeCapabilities, "nodes", &());
        let sites = self.ask::<_, Vec<Site>>(ServiceName::NodeCapabilities, "sites", &());
        let (nodes, sites) = futures::try_join!(nodes, sites)?;
        Ok(Fleet {
            nodes: nodes.into_iter().map(|node| (node.name, node.state)).collect(),
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
        let answer = self.bus.call(&subject, body, Some(ServiceName::DeploymentRegistry.as_str())).await;
        answer.map_err(|source| OrderError::Neighbour { service, source })
    }
}
