//! What oci-fetcher has to know; the program that starts it fills it in.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU64, path::PathBuf, sync::Arc};

use margo::ClientName;
use oci::{Limits, Platform, Registry};
use service::{Base, ClientConfig, ServerConfig};

use crate::{
    hours::Hours,
    sources::{RegistryAccess, sources},
};

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
    /// What is downloaded, from where, and when.
    pub downloads: Downloads,
}

/// What a site downloads, from where, and when.
pub struct Downloads {
    pub limits: Limits,
    /// The rate of all downloads together, in bytes per second. Without one they are as fast as the line.
    pub bytes_per_second: Option<NonZeroU64>,
    pub hours: Hours,
    /// Of an artifact for several platforms, those that the site's nodes have.
    pub platforms: Vec<Platform>,
    /// The registries besides the platform's store that artifacts may come from. What a deployment names from any other is
    /// not fetched, so that whoever writes deployments cannot have the site connect to whatever address they like.
    pub registries: BTreeMap<Registry, RegistryAccess>,
}

impl Downloads {
    /// Fails when a registry has no usable address, or names a mirror that is not among the registries.
    pub fn check(&self) -> anyhow::Result<()> {
        sources(&self.registries, self.limits, None).map(|_| ())
    }
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            bytes_per_second: None,
            hours: Hours::default(),
            platforms: vec![Platform::host()],
            registries: BTreeMap::new(),
        }
    }
}
