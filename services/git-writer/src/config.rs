//! What git-writer has to know, and the keys that it reads once, when it starts.

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use identity::SigningKey;
use margo::KeySet;
use service::Base;

use crate::{mirrors::Mirror, serve::Serving};

#[derive(Clone)]
pub struct Config {
    /// Its tenant is also the one of the key set.
    pub base: Base,
    /// The folder that holds a folder of repositories for each tenant.
    pub repositories: PathBuf,
    /// File with the OpenSSH private key that signs commits and heads. Its public key has to be in the key set.
    pub signing_key: PathBuf,
    /// File with the key set, which every commit of a client's repository carries as `KEYS`.
    pub keys: PathBuf,
    /// File with the root key's signature of the key set, carried as `KEYS.sig`.
    pub keys_signature: PathBuf,
    /// Where and how the repositories are served.
    pub serving: Serving,
    /// The foreign remotes that the repositories are pushed to.
    pub mirrors: Vec<Mirror>,
}

/// The key set and the exact bytes that go into every client's repository.
pub struct Keys {
    pub set: KeySet,
    /// The content of `KEYS`: what the root key signed, byte for byte.
    pub bytes: Vec<u8>,
    /// The content of `KEYS.sig`.
    pub signature: Vec<u8>,
}

impl Config {
    /// Reads the signing key and the key set. Fails when the key set is of another tenant or does not name the signing
    /// key, because no site would then believe what git-writer commits. Blocks.
    pub(crate) fn read_keys(&self) -> anyhow::Result<(SigningKey, Keys)> {
        let read = |path: &PathBuf| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let (bytes, signature) = (read(&self.keys)?, read(&self.keys_signature)?);
        let set = KeySet::parse(&bytes).with_context(|| format!("reading {}", self.keys.display()))?;
        let signing = SigningKey::load(&self.signing_key)?;
        ensure!(
            set.tenant == self.base.tenant,
            "{} is of tenant {}, not of {}",
            self.keys.display(),
            set.tenant,
            self.base.tenant
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
