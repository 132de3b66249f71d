//! Which heads this site believes: the pinned root key, and the highest KEYS seen, kept on disk.

use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use identity::{
    PublicKey,
    trust::{Untrusted, verify_head, verify_keys},
};
use margo::{ClientName, Head, TenantName};

use crate::files;

/// A head as a road brings it.
pub struct SignedHead {
    pub head: Bytes,
    pub head_signature: Bytes,
    pub keys: Bytes,
    pub keys_signature: Bytes,
    /// For people; not signed.
    pub commit: String,
}

pub struct Trust {
    root: PublicKey,
    tenant: TenantName,
    client: ClientName,
    /// Number of the newest KEYS believed; 0 before the first.
    number: u64,
    file: PathBuf,
}

impl Trust {
    pub fn open(root: &str, tenant: TenantName, client: ClientName, data: &Path) -> anyhow::Result<Self> {
        let root = PublicKey::parse(root).context("reading the tenant's root key")?;
        let file = data.join("keys-number");
        let number = match files::read(&file).with_context(|| format!("reading {}", file.display()))? {
            None => 0,
            Some(bytes) => {
                let number = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok());
                number.with_context(|| format!("{} must hold the number of the newest KEYS", file.display()))?
            }
        };
        Ok(Self { root, tenant, client, number, file })
    }

    /// The head and the number of its KEYS, when all signatures hold.
    pub fn verify(&self, signed: &SignedHead) -> Result<(Head, u64), Untrusted> {
        let keys = verify_keys(&self.root, &self.tenant, self.number, &signed.keys, &signed.keys_signature)?;
        let head = verify_head(&keys, &self.client, &signed.head, &signed.head_signature)?;
        Ok((head, keys.number))
    }

    /// From now on KEYS with a lower number are refused, also after a restart.
    pub fn raise(&mut self, number: u64) -> anyhow::Result<()> {
        if number > self.number {
            identity::write_secret(&self.file, number.to_string().as_bytes()).context("keeping the number of KEYS")?;
            self.number = number;
        }
        Ok(())
    }

    /// Number of the newest KEYS believed.
    pub fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use identity::{
        SigningKey,
        trust::{HEAD_NAMESPACE, sign_keys},
    };
    use margo::{Digest, KeySet, ManifestVersion};

    use super::*;

    fn signed(root: &SigningKey, writer: &SigningKey, number: u64) -> SignedHead {
        let tenant = TenantName::default();
        let keys = KeySet { tenant: tenant.clone(), number, keys: vec![writer.public().to_string()] };
        let (keys, keys_signature) = sign_keys(root, &keys).unwrap();
        let client = "plant".parse().unwrap();
        let head = Head { tenant, client, version: ManifestVersion::FIRST, list: Digest::of(b"") }.to_bytes();
        let head_signature = writer.sign(HEAD_NAMESPACE, &head).unwrap().into();
        let (keys, keys_signature) = (keys.into(), keys_signature.into());
        SignedHead { head: head.into(), head_signature, keys, keys_signature, commit: String::new() }
    }

    #[test]
    fn keys_with_a_lower_number_are_refused_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (root, writer) = (SigningKey::generate("root").unwrap(), SigningKey::generate("writer").unwrap());
        let open = || {
            let root = root.public().to_string();
            Trust::open(&root, TenantName::default(), "plant".parse().unwrap(), folder.path()).unwrap()
        };
        let mut trust = open();
        let (_, number) = trust.verify(&signed(&root, &writer, 4)).unwrap();
        trust.raise(number).unwrap();
        trust.raise(2).unwrap();
        let trust = open();
        assert_eq!(trust.number(), 4);
        let refused = trust.verify(&signed(&root, &writer, 3)).unwrap_err();
        assert!(matches!(refused, Untrusted::OldKeys { found: 3, held: 4 }));
        trust.verify(&signed(&root, &writer, 4)).unwrap();
    }

    #[test]
    fn only_the_pinned_root_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (root, writer) = (SigningKey::generate("root").unwrap(), SigningKey::generate("writer").unwrap());
        let pinned = root.public().to_string();
        let trust = Trust::open(&pinned, TenantName::default(), "plant".parse().unwrap(), folder.path()).unwrap();
        assert!(matches!(trust.verify(&signed(&writer, &writer, 1)), Err(Untrusted::Keys(_))));
        let mut forged = signed(&root, &writer, 1);
        forged.head_signature = root.sign(HEAD_NAMESPACE, &forged.head).unwrap().into();
        assert!(matches!(trust.verify(&forged), Err(Untrusted::Signature("head"))));
    }
}
