//! What git-writer has to know.

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use identity::SigningKey;
use margo::{KeySet, TenantName};

/// Configuration of git-writer.
#[derive(Clone)]
pub struct Config {
    /// The hub.
    pub bus: bus::Endpoint,
    /// Where it says whether it can work.
    pub readiness: service::Readiness,
    /// Whose repositories.
    pub tenant: TenantName,
    /// The folder of all tenants' repositories.
    pub repositories: PathBuf,
    /// OpenSSH private key that signs commits and heads.
    pub signing_key: PathBuf,
    /// The file `KEYS`.
    pub keys: PathBuf,
    /// The file `KEYS.sig`.
    pub keys_signature: PathBuf,
}

/// `KEYS` as it stands in every client's repository.
pub(crate) struct Keys {
    /// In force.
    pub set: KeySet,
    /// Bytes of `KEYS`.
    pub bytes: Vec<u8>,
    /// Bytes of `KEYS.sig`.
    pub signature: Vec<u8>,
}

impl Config {
    pub(crate) fn read_keys(&self) -> anyhow::Result<(SigningKey, Keys)> {
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let (bytes, signature) = (read(&self.keys)?, read(&self.keys_signature)?);
        let set = KeySet::parse(&bytes).with_context(|| format!("reading {}", self.keys.display()))?;
        let signing = SigningKey::load(&self.signing_key)?;
        ensure!(
            set.tenant == self.tenant,
            "{} is of tenant {}, not of {}",
            self.keys.display(),
            set.tenant,
            self.tenant
        );
        ensure!(
            set.keys.contains(&signing.public().to_string()),
            "{} does not name the key {}: nobody would believe a commit; sign a new KEYS with the root key",
            self.keys.display(),
            self.signing_key.display(),
        );
        Ok((signing, Keys { set, bytes, signature }))
    }
}
