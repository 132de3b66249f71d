//! What the service needs to know, checked by whoever starts it.

use margo::TenantName;
use store::Location;

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    /// How to connect to the hub as the user `User::Central(ServiceName::StatusCollector)`.
    pub bus: bus::Login,
    /// Told when the service can do its work, and when it cannot.
    pub readiness: service::Readiness,
    pub tenant: TenantName,
    /// Where the service keeps its tables.
    pub database: Location,
}
