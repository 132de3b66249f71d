//! The files that a site and a node are given: TOML, readable by their owner only. The seed in them never crosses a
//! network.

use std::{fs, io, path::Path};

use margo::{NodeId, SiteName, TenantName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What the LO of a site needs to connect to the hub and to believe its manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteCredentials {
    /// The tenant that the site belongs to.
    pub tenant: TenantName,
    /// The site's name, which is also the name of its client.
    pub site: SiteName,
    /// The address of the hub's NATS server.
    pub hub: String,
    /// The base URL at which the site asks for its JWT at the hub, and renews it.
    pub minter: String,
    /// The NKey seed of the site's user at the hub. It is a secret.
    pub seed: String,
    /// The tenant's root public key in OpenSSH form. It is the one key that a site pins.
    pub root_key: String,
    /// What TLS needs. It is absent in files of a platform that speaks none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SiteTls>,
}

/// The certificates of a site, in PEM form: what it believes, and what it makes its servers' certificates with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteTls {
    /// The root certificates by which the hub is known.
    pub root_certificates: String,
    /// The site's own intermediate, which may sign for the site's name only.
    pub certificate: String,
    /// The key of the intermediate. It is a secret.
    pub key: String,
}

/// What a node needs to connect to its site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeCredentials {
    /// The node that connects with these credentials, `SITE/NODE`.
    pub node: NodeId,
    /// The address of the site's NATS server.
    pub server: String,
    /// The base URL at which the node asks for its JWT at the site.
    pub minter: String,
    /// The NKey seed of the node's user at the site. It is a secret.
    pub seed: String,
    /// The root certificates, in PEM form, by which the site is known. They are absent in files of a platform that speaks
    /// no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_certificates: Option<String>,
}

/// A credentials file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read or written.
    #[error("credentials file {path}")]
    File {
        /// The path of the file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The content does not have the fields of such a file.
    #[error("credentials file {path} is not valid: {reason}")]
    Invalid {
        /// The path of the file.
        path: String,
        /// The field and the rule that it breaks. The content is not repeated, because it holds a secret.
        reason: String,
    },
}

/// Reads the credentials of a site or of a node, as the type says. It fails on unknown fields.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, CredentialsError> {
    let file = |source| CredentialsError::File { path: path.display().to_string(), source };
    let text = fs::read_to_string(path).map_err(file)?;
    toml::from_str(&text).map_err(|error| CredentialsError::Invalid {
        path: path.display().to_string(),
        // The message without the excerpt: the excerpt may hold the seed.
        reason: error.message().to_owned(),
    })
}

/// Writes a credentials file that only its owner may read. The file is on the disk when this returns.
pub fn save<T: Serialize>(path: &Path, credentials: &T) -> Result<(), CredentialsError> {
    let text = toml::to_string(credentials).expect("credentials are strings");
    disk::write_private(path, text.as_bytes())
        .map_err(|source| CredentialsError::File { path: path.display().to_string(), source })
}
