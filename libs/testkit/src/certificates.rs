//! The certificates of a platform, for tests of what speaks TLS.

use std::path::PathBuf;

use identity::{
    certificates::{Issuer, keep_root},
    tls::{CertificateFiles, Peer, Trust},
};
use tempfile::TempDir;

/// A root of its own, and what is made with it.
pub struct Certificates(TempDir);

impl Default for Certificates {
    fn default() -> Self {
        let certificates = Self(TempDir::new().expect("a folder for certificates"));
        keep_root(&certificates.path("root.pem"), &certificates.path("root.key")).expect("a root");
        certificates
    }
}

impl Certificates {
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The root with its key.
    pub fn issuer(&self) -> Issuer {
        Issuer::load_root(&self.path("root.pem"), &self.path("root.key")).expect("the root that was made")
    }

    /// The root's certificate in PEM form.
    pub fn root(&self) -> String {
        self.issuer().certificate().to_owned()
    }

    /// Believes this root alone.
    pub fn trust(&self) -> Trust {
        Trust::load(&self.path("root.pem")).expect("the root that was made")
    }

    /// The files of a server that is this peer.
    pub fn server(&self, peer: &Peer) -> CertificateFiles {
        let leaf = self.path(&peer.dns_name());
        self.issuer().keep_leaf(&leaf, &[peer.dns_name()]).expect("a certificate for a server");
        CertificateFiles { certificate: leaf.clone(), key: leaf }
    }
}
