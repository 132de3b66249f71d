//! TLS from certificate files: version 1.3 alone, with aws-lc-rs as the only provider.
//!
//! Whoever connects inside the platform knows whom it wants to reach, and demands a certificate in that [`Peer`]'s
//! name. Addresses matter to nobody: a server may move to another one with the certificate that it has, and a site's
//! intermediate, which may only sign for names of its own site, is of no use for standing in for anybody else.

use std::{
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use margo::ClientName;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::TLS13,
};
pub use rustls::{ClientConfig, ServerConfig};

/// The largest file of certificates that is read. A chain with its key takes some kilobytes; the authorities that an
/// operating system trusts take 250 KiB.
const LARGEST_FILE: u64 = 1 << 20;

/// The mode bits with which others than owner and group may do something with a file.
const OTHERS: u32 = 0o007;

/// A file of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or written.
    #[error("certificate file {}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The content is not what it has to be.
    #[error("certificate file {origin}: {rule}")]
    Invalid {
        /// The path of the file, or what else holds the certificate.
        origin: String,
        /// The rule that is broken. It repeats nothing of the content, which may be a key.
        rule: String,
    },
}

impl TlsError {
    pub(crate) fn invalid(origin: impl fmt::Display, rule: impl fmt::Display) -> Self {
        Self::Invalid { origin: origin.to_string(), rule: rule.to_string() }
    }
}

/// A part of the platform that is connected to. Its certificates carry the name that it has here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The hub with all its servers.
    Hub,
    /// The site with all its servers.
    Site(ClientName),
}

impl Peer {
    /// The DNS name that stands in the peer's certificates. It need not lead to any address.
    pub fn dns_name(&self) -> String {
        match self {
            Self::Hub => "hub.edgewright.internal".to_owned(),
            Self::Site(client) => format!("{client}.sites.edgewright.internal"),
        }
    }
}

/// A certificate with its chain, and its key, for a server. Both may stand in one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The PEM file with the server's certificate, and after it those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// The PEM file with the key.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// The files as a server takes them. It fails when a file cannot be read, when it does not hold what it should,
    /// when others may read the key, or when the two do not fit each other.
    pub fn server(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&read(&self.certificate)?, self.certificate.display())?;
        let key = self.key.display();
        let mode = fs::metadata(&self.key).map_err(|source| TlsError::File { path: self.key.clone(), source })?;
        if mode.permissions().mode() & OTHERS != 0 {
            return Err(TlsError::invalid(key, "everybody on this machine may use the key: `chmod 600` it"));
        }
        let parsed = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_| TlsError::invalid(&key, "it has to hold a private key in PEM form, not encrypted"))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, parsed);
        let mut config = config.map_err(|error| {
            let rule = format!("the key does not serve the certificate in {}: {error}", self.certificate.display());
            TlsError::invalid(key, rule)
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The root certificates that are believed.
#[derive(Clone, Debug)]
pub struct Trust(Arc<RootCertStore>);

impl Trust {
    /// Reads a PEM file of one or more root certificates.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Self::from_bytes(&read(path)?, path.display())
    }

    /// Reads one or more root certificates in PEM form. `origin` names in errors where they stand.
    pub fn parse(pem: &str, origin: impl fmt::Display) -> Result<Self, TlsError> {
        Self::from_bytes(pem.as_bytes(), origin)
    }

    fn from_bytes(pem: &[u8], origin: impl fmt::Display) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, &origin)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::invalid(&origin, format!("it holds no root certificate: {error}")))?;
        }
        Ok(Self(Arc::new(roots)))
    }

    /// What a client needs that connects to this peer, at whatever address. The name of the address is accepted, too,
    /// for servers with a certificate of another authority among the roots.
    pub fn peer(&self, peer: &Peer) -> Arc<ClientConfig> {
        let name = ServerName::try_from(peer.dns_name()).expect("names of clients are labels of DNS names");
        client(Arc::new(PeerVerifier { chains: self.verifier(), name }))
    }

    /// What a client needs that connects to whatever has a certificate for the name in its address, as browsers do.
    pub fn hosts(&self) -> Arc<ClientConfig> {
        client(self.verifier())
    }

    fn verifier(&self) -> Arc<WebPkiServerVerifier> {
        WebPkiServerVerifier::builder_with_provider(self.0.clone(), provider())
            .build()
            .expect("there is at least one root and no revocation list")
    }
}

fn client(verifier: Arc<dyn ServerCertVerifier>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Verifies chains as every client does, with two differences: the name to be found is the peer's, and a clock that is
/// behind is no obstacle.
#[derive(Debug)]
struct PeerVerifier {
    chains: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl PeerVerifier {
    /// Verifies a chain for one name. A certificate that is not valid yet tells that this machine's clock is behind, as
    /// after a power cut without a battery; it is then verified as of its own begin. Nobody can make such a certificate
    /// who could not make one that is valid now.
    fn verify(
        &self,
        (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
        name: &ServerName<'_>,
        ocsp: &[u8],
        mut now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        loop {
            let verified = self.chains.verify_server_cert(end_entity, intermediates, name, ocsp, now);
            match verified {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before > now =>
                {
                    now = not_before;
                }
                verified => return verified,
            }
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        address: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = (end_entity, intermediates);
        match self.verify(chain, &self.name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => self.verify(chain, address, ocsp, now),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Reads a file whole, if it is not larger than certificates are.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > LARGEST_FILE {
        return Err(TlsError::invalid(path.display(), "it is larger than 1 MiB, and so no file of certificates"));
    }
    fs::read(path).map_err(failed)
}

fn certificates(pem: &[u8], origin: impl fmt::Display) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::invalid(&origin, format!("it is not in PEM form: {error}")))?;
    if found.is_empty() {
        return Err(TlsError::invalid(origin, "it has to hold at least one certificate in PEM form"));
    }
    Ok(found)
}
