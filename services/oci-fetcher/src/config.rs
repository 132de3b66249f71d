//! What the service needs to know.

use std::{net::SocketAddr, path::PathBuf};

use margo::{ClientName, TenantName};
use service::Readiness;

/// Checked configuration; the program `edgewright` fills it from its data folder.
pub struct Config {
    /// The site's server, as [`bus::Role::OciFetcher`].
    pub bus: bus::Endpoint,
    /// Told when the service can work.
    pub readiness: Readiness,
    /// Whose site this is.
    pub tenant: TenantName,
    /// The client that is the site's LO.
    pub client: ClientName,
    /// The folder of the site's content store.
    pub data: PathBuf,
    /// Where nodes read.
    pub listen: SocketAddr,
    /// The bearer token that nodes present.
    pub token: String,
}
