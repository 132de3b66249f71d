//! The files that a site and a node are given: TOML, mode 0600. The seed in them never crosses a network.

use std::{fs, io, path::Path};

use margo::{NodeId, SiteName, TenantName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::write_secret;

/// What the LO of a site needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteCredentials {
    /// Of which tenant.
    pub tenant: TenantName,
    /// Which site.
    pub site: SiteName,
    /// The hub's NATS server.
    pub hub: String,
    /// NKey seed of the site's user at the hub.
    pub seed: String,
    /// The tenant's root public key: the one thing a site pins.
    pub root_key: String,
}

/// What a node needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeCredentials {
    /// Which node.
    pub node: NodeId,
    /// The site's NATS server.
    pub server: String,
    /// NKey seed of the node's user at the site.
    pub seed: String,
}

/// Why a credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read or written.
    #[error("credentials file {path}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// It is no credentials file of this kind.
    #[error("credentials file {path} is not valid: {reason}")]
    Invalid {
        /// Which file.
        path: String,
        /// Field, rule and place.
        reason: String,
    },
}

/// Reads a credentials file.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, CredentialsError> {
    let file = |source| CredentialsError::File { path: path.display().to_string(), source };
    let text = fs::read_to_string(path).map_err(file)?;
    toml::from_str(&text).map_err(|error| CredentialsError::Invalid {
        path: path.display().to_string(),
        // The message without the excerpt: the excerpt may hold the seed.
        reason: error.message().to_owned(),
    })
}

/// Writes a credentials file that only its owner may read.
pub fn save<T: Serialize>(path: &Path, credentials: &T) -> Result<(), CredentialsError> {
    let text = toml::to_string(credentials).expect("credentials are strings");
    write_secret(path, text.as_bytes())
        .map_err(|source| CredentialsError::File { path: path.display().to_string(), source })
}
