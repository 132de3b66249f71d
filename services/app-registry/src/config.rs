//! What app-registry has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use service::{Base, ServerConfig};
use store::Location;

pub struct Config {
    pub base: Base,
    /// Where the catalogue and the outbox are kept.
    pub database: Location,
    /// The folder of the platform's OCI store.
    pub store: PathBuf,
    /// Address on which uploads come in and sites read the store.
    pub listen: SocketAddr,
    /// The certificate of the store. Without it the store is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The URL under which the gateway and the sites reach `listen`. Without one it is `http://<listen>` or `https://<listen>`, which has to
    /// be an address that they can reach.
    pub public_url: Option<String>,
}
