//! What every service is told, whatever it does.

use bus::{Bus, Login};
use margo::TenantName;

use crate::Readiness;

/// The part that the configurations of all services have in common.
#[derive(Clone)]
pub struct Base {
    /// How to connect to the NATS server of the hub or of the site, as the user that is this service's own.
    pub bus: Login,
    /// Told when the service can do its work, and when it cannot and why.
    pub readiness: Readiness,
    /// The only tenant that the service works for.
    pub tenant: TenantName,
}

impl Base {
    /// Connects to the NATS server. The service counts as not ready while this connection is lost. A server that is
    /// not there yet is no error; [`Bus::connected`] waits for it.
    pub async fn connect(&self) -> anyhow::Result<Bus> {
        let bus = Bus::connect(&self.bus).await?;
        self.readiness.needs(&bus);
        Ok(bus)
    }
}
