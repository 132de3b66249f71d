//! Ed25519 keys in OpenSSH form, and their signatures as SSHSIG.

use std::{fmt, fs, path::Path};

use aws_lc_rs::signature::Ed25519KeyPair;
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, Signature, SshSig, rand_core::OsRng};

/// A key or a signature cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key file cannot be read or written.
    #[error("key file {path}")]
    File {
        /// The path of the file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The text is not a key in OpenSSH form, or the key is not an Ed25519 key.
    #[error("not an Ed25519 key in OpenSSH form: {0}")]
    Key(String),
    /// The text is not an SSHSIG, or the key did not sign these bytes in this namespace.
    #[error("the signature does not verify: {0}")]
    Signature(String),
}

/// A private key. It is shown by its public half only.
pub struct SigningKey {
    key: PrivateKey,
    /// The same key for the library that signs: it takes a quarter of the time that the one of `key` takes.
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Makes a new key. The comment tells people what the key is for.
    pub fn generate(comment: &str) -> Result<Self, KeyError> {
        let mut key =
            PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(|error| KeyError::Key(error.to_string()))?;
        key.set_comment(comment);
        Self::of(key)
    }

    /// Reads a private key from a file in OpenSSH form.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text =
            fs::read_to_string(path).map_err(|source| KeyError::File { path: path.display().to_string(), source })?;
        let key = PrivateKey::from_openssh(&text).map_err(|error| KeyError::Key(error.to_string()))?;
        Self::of(key)
    }

    fn of(key: PrivateKey) -> Result<Self, KeyError> {
        let pair = key.key_data().ed25519().ok_or_else(|| {
            KeyError::Key(format!("{} is another algorithm, or the key is encrypted", key.algorithm()))
        })?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(&pair.private.to_bytes(), &pair.public.0);
        let pair = pair.map_err(|error| KeyError::Key(error.to_string()))?;
        Ok(Self { key, pair })
    }

    /// Writes a key file that only its owner may read. The file is on the disk when this returns.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let pem = self.key.to_openssh(LineEnding::LF).map_err(|error| KeyError::Key(error.to_string()))?;
        disk::write_private(path, pem.as_bytes())
            .map_err(|source| KeyError::File { path: path.display().to_string(), source })
    }

    /// Returns the public half of the key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.public_key().clone())
    }

    /// Signs bytes and returns the SSHSIG in its armoured form (PEM). The namespace keeps a signature from being used
    /// for another purpose.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, KeyError> {
        let pem = || -> ssh_key::Result<String> {
            let signed = self.pair.sign(&SshSig::signed_data(namespace, HashAlg::Sha512, bytes)?);
            let signature = Signature::new(Algorithm::Ed25519, signed.as_ref())?;
            let public = self.key.public_key().key_data().clone();
            SshSig::new(public, namespace, HashAlg::Sha512, signature)?.to_pem(LineEnding::LF)
        };
        pem().map_err(|error| KeyError::Signature(error.to_string()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

/// A public key, written `ssh-ed25519 AAAA…`.
#[derive(Clone, Debug)]
pub struct PublicKey(ssh_key::PublicKey);

impl PublicKey {
    /// Reads the one-line OpenSSH form and drops the comment.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut key =
            ssh_key::PublicKey::from_openssh(text.trim()).map_err(|error| KeyError::Key(error.to_string()))?;
        if key.algorithm() != Algorithm::Ed25519 {
            return Err(KeyError::Key(format!("{} is another algorithm", key.algorithm())));
        }
        key.set_comment("");
        Ok(Self(key))
    }

    /// Returns the key that an armoured SSHSIG says it was made with. Anybody can make a signature, so this is no reason to believe
    /// anything.
    pub fn named_in(signature: &[u8]) -> Result<Self, KeyError> {
        let signature = SshSig::from_pem(signature).map_err(|error| KeyError::Signature(error.to_string()))?;
        Self::parse(&ssh_key::PublicKey::from(signature.public_key().clone()).to_string())
    }

    /// Fails unless the armoured SSHSIG was made by this key over these bytes in this namespace.
    pub fn verify(&self, namespace: &str, bytes: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let signature = SshSig::from_pem(signature).map_err(|error| KeyError::Signature(error.to_string()))?;
        self.0.verify(namespace, bytes, &signature).map_err(|error| KeyError::Signature(error.to_string()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = self.0.clone();
        key.set_comment("");
        f.write_str(key.to_openssh().map_err(|_| fmt::Error)?.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_bytes_its_namespace_and_its_key_only() {
        let key = SigningKey::generate("test").unwrap();
        let signature = key.sign("edgewright-head", b"bytes").unwrap();
        let public = PublicKey::parse(&key.public().to_string()).unwrap();
        public.verify("edgewright-head", b"bytes", signature.as_bytes()).unwrap();
        assert!(public.verify("edgewright-head", b"other", signature.as_bytes()).is_err());
        assert!(public.verify("edgewright-keys", b"bytes", signature.as_bytes()).is_err());
        assert!(public.verify("edgewright-head", b"bytes", b"no signature").is_err());
        assert_eq!(PublicKey::named_in(signature.as_bytes()).unwrap().to_string(), public.to_string());
        assert!(PublicKey::named_in(b"no signature").is_err());
        let other = SigningKey::generate("test").unwrap().public();
        assert!(other.verify("edgewright-head", b"bytes", signature.as_bytes()).is_err());
    }

    #[test]
    fn signatures_are_those_of_the_ssh_library() {
        let key = SigningKey::generate("test").unwrap();
        for (namespace, bytes) in [("git", &b""[..]), ("git", b"tree 4b825dc"), ("edgewright-head", &[7; 100_000])] {
            let theirs = key.key.sign(namespace, HashAlg::Sha512, bytes).unwrap().to_pem(LineEnding::LF).unwrap();
            assert_eq!(key.sign(namespace, bytes).unwrap(), theirs);
        }
        assert!(key.sign("", b"bytes").is_err());
    }

    #[test]
    fn a_key_file_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("root");
        let key = SigningKey::generate("root of default").unwrap();
        key.save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::load(&path).unwrap().public().to_string(), key.public().to_string());
    }
}
