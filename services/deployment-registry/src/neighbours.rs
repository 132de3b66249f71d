//! Questions to the services that know what an order depends on: applications, sites and nodes.

use api::{AppContent, AppRef, FieldError, Members, Problem, Targets};
use bus::{Bus, ServiceName, Subject};
use serde::{Serialize, de::DeserializeOwned};

use crate::{domain::Fleet, error::OrderError};

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

    /// Asks for the sites and nodes that targets name, and for the nodes of these sites.
    pub async fn fleet(&self, targets: &Targets) -> Result<Fleet, OrderError> {
        let Members { sites, nodes } = self.ask(ServiceName::NodeCapabilities, "members", targets).await?;
        Ok(Fleet {
            nodes: nodes.into_iter().map(|member| (member.name.clone(), member)).collect(),
            sites: sites.into_iter().collect(),
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
