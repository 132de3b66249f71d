//! What identity has to know; the program that starts it fills it in.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bus::Login;
use identity::Authority;
use margo::UserNkey;
use service::{Base, ServerConfig};

/// The program `edgewright` fills this from its data folder.
pub struct Config {
    pub base: Base,
    /// The hub's server, as [`bus::User::Minter`].
    pub minter: Login,
    /// The hub's server, as [`bus::User::Bootstrap`].
    pub bootstrap: Login,
    /// The keys of the hub's server.
    pub authority: Arc<Authority>,
    /// The public keys of the central services, which are never those of a site.
    pub services: BTreeSet<UserNkey>,
    /// The folder that holds a folder of repositories for each tenant.
    pub repositories: PathBuf,
    /// The address on which sites ask for their logins.
    pub listen: SocketAddr,
    /// The certificate of that listener. Without it logins are handed out over plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// How long a site's login holds.
    pub life: Duration,
}
