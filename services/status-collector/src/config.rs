//! What the service needs to know, checked by whoever starts it.

use std::path::PathBuf;

use margo::TenantName;

/// Configuration of the status collector.
pub struct Config {
    /// The hub, as `Role::Central(ServiceName::StatusCollector)`.
    pub bus: bus::Endpoint,
    /// Says when the service can do its work.
    pub readiness: service::Readiness,
    /// Whose statuses.
    pub tenant: TenantName,
    /// The SQLite file.
    pub database: PathBuf,
}
