//! How a site gets from the one key that it pins to a head that it may act on.
//!
//! A site pins the tenant's root public key and nothing else. `KEYS` travels with every head: the root signs it, and
//! it names the keys that may sign heads. A lower number than the one held is refused; so is a head that names another
//! tenant or client.

use margo::{ClientName, Head, KeySet, ManifestError, TenantName};

use crate::{KeyError, PublicKey, SigningKey};

/// The SSHSIG namespace in which heads are signed.
pub const HEAD_NAMESPACE: &str = "edgewright-head";
/// The SSHSIG namespace in which sets of keys are signed.
pub const KEYS_NAMESPACE: &str = "edgewright-keys";
/// The SSHSIG namespace in which commits are signed, as Git demands.
pub const GIT_NAMESPACE: &str = "git";

/// A head, a set of keys or a commit is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// The set of keys is not signed by the tenant's root key.
    #[error("KEYS is not signed by the tenant's root key")]
    Keys(#[source] KeyError),
    /// The signature is right, and yet the bytes are no set of keys or no head.
    #[error(transparent)]
    Malformed(#[from] ManifestError),
    /// The set of keys is older than one that was seen before, so somebody may have replayed it.
    #[error("KEYS has number {found}, number {held} is held")]
    OldKeys {
        /// The number of the set that came.
        found: u64,
        /// The highest number seen so far.
        held: u64,
    },
    /// None of the keys in force made the signature. The text names the document.
    #[error("the {0} is not signed by a key in KEYS")]
    Signature(&'static str),
    /// The document is signed, but it is about another tenant or client.
    #[error("the {document} is of {found}, not of {wanted}")]
    Foreign {
        /// The document that is about somebody else: `head` or `KEYS`.
        document: &'static str,
        /// The tenant, or tenant and client, that the document names.
        found: String,
        /// The tenant, or tenant and client, that was to be named.
        wanted: String,
    },
}

/// Signs a set of keys with the root key. It returns the bytes and their signature, as they stand in the repository
/// and travel with every head.
pub fn sign_keys(root: &SigningKey, keys: &KeySet) -> Result<(Vec<u8>, String), KeyError> {
    let bytes = keys.to_bytes();
    let signature = root.sign(KEYS_NAMESPACE, &bytes)?;
    Ok((bytes, signature))
}

/// Verifies a set of keys. `held` is the highest number seen so far, and 0 before the first; a lower number is
/// refused, the same number is not.
pub fn verify_keys(
    root: &PublicKey,
    tenant: &TenantName,
    held: u64,
    bytes: &[u8],
    signature: &[u8],
) -> Result<KeySet, Untrusted> {
    root.verify(KEYS_NAMESPACE, bytes, signature).map_err(Untrusted::Keys)?;
    let keys = KeySet::parse(bytes)?;
    if keys.tenant != *tenant {
        let (found, wanted) = (keys.tenant.to_string(), tenant.to_string());
        return Err(Untrusted::Foreign { document: "KEYS", found, wanted });
    }
    if keys.number < held {
        return Err(Untrusted::OldKeys { found: keys.number, held });
    }
    Ok(keys)
}

/// Verifies that a key in force signed these bytes. `document` is the name that the error shows.
pub fn verify_with(
    keys: &KeySet,
    namespace: &str,
    document: &'static str,
    bytes: &[u8],
    signature: &[u8],
) -> Result<(), Untrusted> {
    let signed = |key: &String| PublicKey::parse(key).is_ok_and(|key| key.verify(namespace, bytes, signature).is_ok());
    if keys.keys.iter().any(signed) { Ok(()) } else { Err(Untrusted::Signature(document)) }
}

/// Verifies a head with a set of keys that was verified before. It fails when the head is about another tenant or
/// client.
pub fn verify_head(keys: &KeySet, client: &ClientName, bytes: &[u8], signature: &[u8]) -> Result<Head, Untrusted> {
    verify_with(keys, HEAD_NAMESPACE, "head", bytes, signature)?;
    let head = Head::parse(bytes)?;
    let (found, wanted) = (format!("{}/{}", head.tenant, head.client), format!("{}/{client}", keys.tenant));
    if found != wanted {
        return Err(Untrusted::Foreign { document: "head", found, wanted });
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        root: SigningKey,
        writer: SigningKey,
        keys: KeySet,
    }

    fn world() -> World {
        let root = SigningKey::generate("root").unwrap();
        let writer = SigningKey::generate("git-writer").unwrap();
        let keys = KeySet { tenant: TenantName::default(), number: 3, keys: vec![writer.public().to_string()] };
        World { root, writer, keys }
    }

    fn head(client: &str) -> Head {
        Head {
            tenant: TenantName::default(),
            client: client.parse().unwrap(),
            version: margo::ManifestVersion::FIRST,
            list: margo::Digest::of(b""),
        }
    }

    #[test]
    fn keys_are_believed_from_the_root_only_and_never_with_a_lower_number() {
        let World { root, writer, keys } = world();
        let (bytes, signature) = sign_keys(&root, &keys).unwrap();
        let verify = |root: &SigningKey, held| {
            verify_keys(&root.public(), &TenantName::default(), held, &bytes, signature.as_bytes())
        };
        assert_eq!(verify(&root, 0).unwrap(), keys);
        assert_eq!(verify(&root, 3).unwrap(), keys);
        assert!(matches!(verify(&root, 4), Err(Untrusted::OldKeys { found: 3, held: 4 })));
        assert!(matches!(verify(&writer, 0), Err(Untrusted::Keys(_))));
    }

    #[test]
    fn a_head_is_believed_from_a_key_in_force_and_for_its_client_only() {
        let World { root, writer, keys } = world();
        let plant: ClientName = "plant".parse().unwrap();
        let bytes = head("plant").to_bytes();
        let sign = |key: &SigningKey, bytes: &[u8]| key.sign(HEAD_NAMESPACE, bytes).unwrap();
        assert_eq!(verify_head(&keys, &plant, &bytes, sign(&writer, &bytes).as_bytes()).unwrap(), head("plant"));
        let forged = verify_head(&keys, &plant, &bytes, sign(&root, &bytes).as_bytes());
        assert!(matches!(forged, Err(Untrusted::Signature("head"))));
        let other = head("other").to_bytes();
        let foreign = verify_head(&keys, &plant, &other, sign(&writer, &other).as_bytes());
        assert!(matches!(foreign, Err(Untrusted::Foreign { .. })));
    }
}
