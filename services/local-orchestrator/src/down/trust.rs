//! Which heads this site believes: those that the pinned root key vouches for.

use anyhow::Context;
use identity::{
    PublicKey,
    trust::{Untrusted, verify_head, verify_keys},
};
use margo::{ClientName, Head, TenantName};

use super::road::SignedHead;

/// The one key that the site pins, and whose heads are meant for this site.
pub struct Trust {
    root: PublicKey,
    tenant: TenantName,
    client: ClientName,
}

/// A head that is believed.
#[derive(Debug)]
pub struct Believed {
    pub head: Head,
    /// Number of its KEYS. From now on a lower one is not to be believed.
    pub keys: u64,
}

impl Trust {
    /// Believes what this root key (OpenSSH) vouches for.
    pub fn new(root: &str, tenant: TenantName, client: ClientName) -> anyhow::Result<Self> {
        let root = PublicKey::parse(root).context("reading the tenant's root key")?;
        Ok(Self { root, tenant, client })
    }

    /// Verifies all signatures of a head. `keys_held`: the number of the newest KEYS believed so far, 0 before the first.
    pub fn verify(&self, keys_held: u64, signed: &SignedHead) -> Result<Believed, Untrusted> {
        let keys = verify_keys(&self.root, &self.tenant, keys_held, &signed.keys, &signed.keys_signature)?;
        let head = verify_head(&keys, &self.client, &signed.head, &signed.head_signature)?;
        Ok(Believed { head, keys: keys.number })
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
        SignedHead {
            head: head.into(),
            head_signature,
            keys,
            keys_signature,
            commit: String::new(),
            list: Default::default(),
        }
    }

    fn trust(root: &SigningKey) -> Trust {
        Trust::new(&root.public().to_string(), TenantName::default(), "plant".parse().unwrap()).unwrap()
    }

    #[test]
    fn keys_with_a_lower_number_are_refused() {
        let (root, writer) = (SigningKey::generate("root").unwrap(), SigningKey::generate("writer").unwrap());
        let trust = trust(&root);
        assert_eq!(trust.verify(0, &signed(&root, &writer, 4)).unwrap().keys, 4);
        trust.verify(4, &signed(&root, &writer, 4)).unwrap();
        let refused = trust.verify(4, &signed(&root, &writer, 3)).unwrap_err();
        assert!(matches!(refused, Untrusted::OldKeys { found: 3, held: 4 }));
    }

    #[test]
    fn only_the_pinned_root_counts() {
        let (root, writer) = (SigningKey::generate("root").unwrap(), SigningKey::generate("writer").unwrap());
        let trust = trust(&root);
        assert!(matches!(trust.verify(0, &signed(&writer, &writer, 1)), Err(Untrusted::Keys(_))));
        let mut forged = signed(&root, &writer, 1);
        forged.head_signature = root.sign(HEAD_NAMESPACE, &forged.head).unwrap().into();
        assert!(matches!(trust.verify(0, &forged), Err(Untrusted::Signature("head"))));
    }
}
