//! What the service needs to know.

use std::{net::SocketAddr, path::PathBuf};

use margo::TenantName;
use service::Readiness;

/// Checked configuration; the program `edgewright` fills it from its data folder.
pub struct Config {
    /// The hub, as [`bus::Role::Central`] of app-registry.
    pub bus: bus::Endpoint,
    /// Told when the service can work.
    pub readiness: Readiness,
    /// First column of every key.
    pub tenant: TenantName,
    /// The SQLite file.
    pub database: PathBuf,
    /// The folder of the platform's OCI store.
    pub store: PathBuf,
    /// Where uploads come in and sites read.
    pub listen: SocketAddr,
    /// The URL under which others reach `listen`. Absent: `http://<listen>`.
    pub public_url: Option<String>,
}
