//! What the service needs to know, checked by whoever starts it.

use std::{net::SocketAddr, path::PathBuf};

use margo::{ClientName, TenantName};
use service::Readiness;

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    /// How to connect to the site's NATS server as the user [`bus::User::OciFetcher`].
    pub bus: bus::Login,
    /// Told when the service can do its work, and when it cannot.
    pub readiness: Readiness,
    pub tenant: TenantName,
    /// The client as which the site is known to the hub.
    pub client: ClientName,
    /// The folder of the site's content store.
    pub data: PathBuf,
    /// The address on which artifacts are served to nodes.
    pub listen: SocketAddr,
    /// The bearer token that every node of the site presents.
    pub token: String,
}
