//! What oci-fetcher has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use margo::ClientName;
use service::{Base, ClientConfig, ServerConfig};

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    pub base: Base,
    /// The client as which the site is known to the hub.
    pub client: ClientName,
    /// The folder of the site's content store.
    pub data: PathBuf,
    /// The address on which artifacts are served to nodes.
    pub listen: SocketAddr,
    /// The certificate of the site's store. Without it the store is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// What the certificate of the platform's store is verified with, where it has one.
    pub hub_tls: Option<Arc<ClientConfig>>,
    /// The secret that the tokens of the site's nodes are derived with. The LO has the same one.
    pub secret: String,
}
