//! What local-orchestrator has to know; the program that starts it fills it in.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bus::Login;
use identity::{Authority, tls::ClientConfig};
use margo::{SiteName, UserNkey};
use service::{Base, ServerConfig};

/// What a local orchestrator needs to know of its site, of the hub and of its own place on the disk.
pub struct Config {
    /// Leads to the site's own server, as [`bus::User::LocalOrchestrator`].
    pub base: Base,
    /// The hub, as [`bus::User::Site`].
    pub hub: Login,
    /// The base URL at which the hub hands out JWTs, for a login at the hub whose JWT stands in a file.
    pub hub_minter: String,
    /// Which certificates are believed there, where that address is https.
    pub hub_minter_tls: Option<Arc<ClientConfig>>,
    /// The site's own server, as [`bus::User::Minter`].
    pub minter: Login,
    /// The keys of the site's own server, by which nodes are given their JWTs.
    pub authority: Arc<Authority>,
    /// The public keys of the site's own services at that server.
    pub services: BTreeSet<UserNkey>,
    /// The site that this service is the head of.
    pub site: SiteName,
    /// The folder of this service, for its owner only. It is made when it is missing.
    pub data: PathBuf,
    /// The tenant's root public key (OpenSSH): the one thing a site pins.
    pub root_key: String,
    /// The address on which `GET /api/v1/status` and `GET /v1/jwt/…` are answered.
    pub listen: SocketAddr,
    /// The certificate of that listener. Without it status and logins are handed out over plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The bearer token that a reader of the status has to present.
    pub status_token: String,
    /// Where the site's artifacts are read; handed to nodes.
    pub artifacts_url: String,
    /// The secret that the tokens for them are derived with, each for one node. The oci-fetcher has the same one.
    pub artifacts_secret: String,
    /// Silence after which a node counts as unreachable.
    pub unreachable_after: Duration,
    /// Base URL of an OTLP/HTTP receiver for the spans that nodes report.
    pub otlp_endpoint: Option<String>,
}
