//! From the one pinned key to a head that may be acted on.
//!
//! A site pins the tenant's root public key and nothing else. `KEYS` travels with every head: the root signs it, and
//! it names the keys that may sign heads. A lower number than the one held is refused; so is a head that names another
//! tenant or client.

use margo::{ClientName, Head, KeySet, ManifestError, TenantName};

use crate::{KeyError, PublicKey, SigningKey};

/// SSHSIG namespace of a head.
pub const HEAD_NAMESPACE: &str = "edgewright-head";
/// SSHSIG namespace of a key set.
pub const KEYS_NAMESPACE: &str = "edgewright-keys";
/// SSHSIG namespace of a commit, fixed by Git.
pub const GIT_NAMESPACE: &str = "git";

/// Why a head or a key set is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Untrusted {
    /// KEYS is not by the root.
    #[error("KEYS is not signed by the tenant's root key")]
    Keys(#[source] KeyError),
    /// KEYS or head is malformed.
    #[error(transparent)]
    Malformed(#[from] ManifestError),
    /// KEYS is older than the one held.
    #[error("KEYS has number {found}, number {held} is held")]
    OldKeys {
        /// Its number.
        found: u64,
        /// The number held.
        held: u64,
    },
    /// No key in KEYS made this signature.
    #[error("the {0} is not signed by a key in KEYS")]
    Signature(&'static str),
    /// Signed, but about somebody else.
    #[error("the {document} is of {found}, not of {wanted}")]
    Foreign {
        /// Head or KEYS.
        document: &'static str,
        /// Whose it is.
        found: String,
        /// Who we are.
        wanted: String,
    },
}

/// Signs a key set with the root key: bytes and signature, as they stand in the repository and in every head.
pub fn sign_keys(root: &SigningKey, keys: &KeySet) -> Result<(Vec<u8>, String), KeyError> {
    let bytes = keys.to_bytes();
    let signature = root.sign(KEYS_NAMESPACE, &bytes)?;
    Ok((bytes, signature))
}

/// Verifies KEYS. `held` is the highest number seen so far, 0 before the first.
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

/// Verifies that a key in force signed these bytes. `document` names them in the refusal.
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

/// Verifies a head with keys that were verified before.
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
