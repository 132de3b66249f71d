//! What local-orchestrator has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bus::{Login, User};
use margo::{SiteName, UserNkey};
use service::{Base, ServerConfig};

/// What a local orchestrator needs to know of its site, of the hub and of its own place on the disk.
pub struct Config {
    /// Leads to the site's own server, as [`User::LocalOrchestrator`].
    pub base: Base,
    /// The hub, as [`User::Site`].
    pub hub: Login,
    /// The site's own server, as [`User::Reloader`].
    pub reloader: Login,
    /// The site that this service is the head of.
    pub site: SiteName,
    /// The list of users that the site's server includes.
    pub users_file: PathBuf,
    /// Who is in it besides the nodes: role and public NKey.
    pub own_users: Vec<(User, UserNkey)>,
    /// The folder of this service, for its owner only. It is made when it is missing.
    pub data: PathBuf,
    /// The tenant's root public key (OpenSSH): the one thing a site pins.
    pub root_key: String,
    /// The address on which `GET /api/v1/status` is answered.
    pub listen: SocketAddr,
    /// The certificate of the status. Without it the status is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The bearer token that a reader of the status has to present.
    pub status_token: String,
    /// Where the site's artifacts are read; handed to nodes.
    pub artifacts_url: String,
    /// The bearer token for them; handed to nodes.
    pub artifacts_token: String,
    /// Silence after which a node counts as unreachable.
    pub unreachable_after: Duration,
    /// Base URL of an OTLP/HTTP receiver for the spans that nodes report.
    pub otlp_endpoint: Option<String>,
}
