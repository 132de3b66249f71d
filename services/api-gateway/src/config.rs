//! What api-gateway has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use service::{Base, ClientConfig, ServerConfig};

pub struct Config {
    /// Its tenant is that of every caller: a token that is found belongs to it.
    pub base: Base,
    /// Address on which REST is served.
    pub listen: SocketAddr,
    /// The certificate of REST. Without it REST is plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// What app-registry's certificate is verified with, where its store has one.
    pub store_tls: Option<Arc<ClientConfig>>,
    /// The file with the names, roles and hashes of all tokens; see [`crate::tokens`].
    pub tokens: PathBuf,
}
