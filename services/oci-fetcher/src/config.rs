//! What oci-fetcher has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf};

use margo::ClientName;
use service::Base;

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    pub base: Base,
    /// The client as which the site is known to the hub.
    pub client: ClientName,
    /// The folder of the site's content store.
    pub data: PathBuf,
    /// The address on which artifacts are served to nodes.
    pub listen: SocketAddr,
    /// The bearer token that every node of the site presents.
    pub token: String,
}
