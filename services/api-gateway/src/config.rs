//! What the gateway has to know; the program that starts it fills it in.

use std::{net::SocketAddr, path::PathBuf};

pub struct Config {
    /// The way into the hub's NATS server as the user `api-gateway`.
    pub bus: bus::Login,
    /// Told whether the hub is connected and requests can be answered.
    pub readiness: service::Readiness,
    /// The tenant of every caller: a token that is found belongs to it.
    pub tenant: margo::TenantName,
    /// Address on which REST is served, over plain HTTP.
    pub listen: SocketAddr,
    /// The file with the names, roles and hashes of all tokens; see [`crate::tokens`].
    pub tokens: PathBuf,
}
