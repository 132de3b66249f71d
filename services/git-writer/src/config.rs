//! What git-writer has to know, and the keys that it reads once, when it starts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use identity::{PublicKey, SigningKey, trust};
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
    /// Reads the signing key and the key set. Fails when the key set is of another tenant, does not name the signing key,
    /// or lies beside the signature of another one, because no site would then believe what git-writer commits. Blocks.
    pub(crate) fn read_keys(&self) -> anyhow::Result<(SigningKey, Keys)> {
        let keys = Keys::read(&self.keys, &self.keys_signature)?;
        let signing = SigningKey::load(&self.signing_key)?;
        ensure!(
            keys.set.tenant == self.base.tenant,
            "{} is of tenant {}, not of {}",
            self.keys.display(),
            keys.set.tenant,
            self.base.tenant
        );
        ensure!(
            keys.set.keys.contains(&signing.public().to_string()),
            "{} does not name the key {}: nobody would believe a commit; sign a new KEYS with the root key",
            self.keys.display(),
            self.signing_key.display(),
        );
        Ok((signing, keys))
    }
}

impl Keys {
    /// Reads the key set and its signature. Two files are replaced one after the other, so they may not belong together; which key
    /// is the root, sites know.
    fn read(keys: &Path, signature: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
        let (bytes, signed) = (read(keys)?, read(signature)?);
        let set = KeySet::parse(&bytes).with_context(|| format!("reading {}", keys.display()))?;
        PublicKey::named_in(&signed)
            .and_then(|root| root.verify(trust::KEYS_NAMESPACE, &bytes, &signed))
            .with_context(|| format!("{} is no signature of {}", signature.display(), keys.display()))?;
        Ok(Self { set, bytes, signature: signed })
    }
}

#[cfg(test)]
mod tests {
    use margo::TenantName;

    use super::*;

    #[test]
    fn a_key_set_beside_the_signature_of_another_one_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let [keys, signature] = ["KEYS", "KEYS.sig"].map(|name| folder.path().join(name));
        let root = SigningKey::generate("root").unwrap();
        let signed = |number| {
            let set = KeySet { tenant: TenantName::default(), number, keys: vec![root.public().to_string()] };
            trust::sign_keys(&root, &set).unwrap()
        };
        fs::write(&keys, signed(1).0).unwrap();
        fs::write(&signature, signed(1).1).unwrap();
        assert_eq!(Keys::read(&keys, &signature).unwrap().set.number, 1);
        fs::write(&keys, signed(2).0).unwrap();
        let error = Keys::read(&keys, &signature).err().unwrap();
        assert!(error.to_string().contains("KEYS.sig is no signature of"), "{error}");
    }
}
