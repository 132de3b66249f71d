//! What the service needs to know, checked by whoever starts it.

use std::path::PathBuf;

use bus::Role;
use margo::TenantName;

/// Configuration of node-capabilities.
pub struct Config {
    /// The hub, as `Role::Central(ServiceName::NodeCapabilities)`.
    pub bus: bus::Endpoint,
    /// Says when the service can do its work.
    pub readiness: service::Readiness,
    /// Whose sites and nodes.
    pub tenant: TenantName,
    /// The SQLite file.
    pub database: PathBuf,
    /// Address of the hub that new sites are told.
    pub hub_url: String,
    /// The tenant's root public key (OpenSSH) that new sites are told.
    pub root_key: String,
    /// The hub's list of users. This service alone writes it.
    pub users_file: PathBuf,
    /// Users that are always in that list: role and public NKey.
    pub service_users: Vec<(Role, String)>,
    /// The hub's system account, as `Role::Reloader`.
    pub reloader: bus::Endpoint,
}
