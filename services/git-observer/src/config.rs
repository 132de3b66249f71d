//! What git-observer has to know.

use std::path::PathBuf;

use margo::TenantName;

/// Configuration of git-observer.
#[derive(Clone)]
pub struct Config {
    /// The hub.
    pub bus: bus::Endpoint,
    /// Where it says whether it can work.
    pub readiness: service::Readiness,
    /// Whose repositories.
    pub tenant: TenantName,
    /// The folder of all tenants' repositories.
    pub repositories: PathBuf,
    /// The tenant's root public key (OpenSSH).
    pub root_key: String,
}
