//! What git-observer has to know; the program that starts it fills it in.

use std::path::PathBuf;

use margo::TenantName;

#[derive(Clone)]
pub struct Config {
    /// The way into the hub's NATS server as the user `git-observer`.
    pub bus: bus::Login,
    /// Told whether the hub is connected and the stream DESIRED can be used.
    pub readiness: service::Readiness,
    /// The only tenant whose repositories are looked at.
    pub tenant: TenantName,
    /// The folder that holds a folder of repositories for each tenant. It is only read.
    pub repositories: PathBuf,
    /// The tenant's root public key, as one line of OpenSSH. It decides which tips are believed.
    pub root_key: String,
}
