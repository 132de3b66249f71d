//! What the service has to know, checked by the program that starts it.

use std::path::PathBuf;

use margo::TenantName;
use service::Readiness;

/// Configuration of deployment-registry.
pub struct Config {
    /// The hub, as this service.
    pub bus: bus::Endpoint,
    /// Where it says that it can work.
    pub readiness: Readiness,
    /// Whose assignments these are.
    pub tenant: TenantName,
    /// The SQLite file.
    pub database: PathBuf,
}
