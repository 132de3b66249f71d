//! What the service has to know, checked by the program that starts it.

use margo::TenantName;
use service::Readiness;
use store::Location;

pub struct Config {
    /// The way into the hub's NATS server as the user `deployment-registry`.
    pub bus: bus::Login,
    /// Told when requests can be answered.
    pub readiness: Readiness,
    /// The only tenant whose assignments are kept; the first column of every key.
    pub tenant: TenantName,
    /// Where the service keeps its tables.
    pub database: Location,
}
