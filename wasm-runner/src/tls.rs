//! Whom the HTTPS requests of a component believe: a server whose certificate comes from an authority that this node's system
//! trusts, and the node's collector of telemetry by a certificate of its own.
//!
//! The certificates are read when the first request needs them, since they take some hundred KiB of memory and most components send
//! none. What an operator changes in them counts for runners that are started later.

use std::{io, path::PathBuf, sync::Arc};

use margo::Host;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::OnceCell};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wasmtime_wasi_http::Error;

/// Authorities, and what a client that believes them needs.
pub struct Believed {
    authorities: Authorities,
    config: OnceCell<Arc<ClientConfig>>,
}

/// Where the certificates of authorities are.
pub enum Authorities {
    /// Where the system has those that it trusts.
    System,
    /// In this PEM file.
    File(PathBuf),
}

impl Believed {
    /// Believes these and nobody else.
    pub fn new(authorities: Authorities) -> Self {
        Self { authorities, config: OnceCell::new() }
    }

    /// Speaks TLS over this connection, with a server that proves to be this host.
    pub async fn connect(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let name = match host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| Error::HttpRequestUriInvalid)?,
            Host::Address(address) => ServerName::from(*address),
        };
        // Nobody can be believed without it, and the component is not at fault.
        let config = self.config.get_or_try_init(|| self.load()).await.map_err(|_| Error::ConfigurationError)?;
        TlsConnector::from(config.clone()).connect(name, stream).await.map_err(|error| refusal(&error))
    }

    async fn load(&self) -> io::Result<Arc<ClientConfig>> {
        let read: Box<dyn FnOnce() -> io::Result<_> + Send> = match &self.authorities {
            Authorities::System => Box::new(|| Ok(rustls_native_certs::load_native_certs().certs)),
            Authorities::File(path) => {
                let path = path.clone();
                Box::new(move || certificates(&std::fs::read(path)?))
            }
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(disk::blocking(read).await?);
        if roots.is_empty() {
            return Err(io::Error::other("there is no certificate of an authority"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn certificates(pem: &[u8]) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// What a component is told: that the server is not the one it claims to be, or that the connection did not come about.
fn refusal(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        _ => Error::TlsProtocolError,
    }
}
