//! The platform's own certificate authority: a root at the hub, an intermediate for each site, and the certificates of
//! servers below both.
//!
//! A site's intermediate may sign for the site's own name only, for no IP address, and for no further authority. So a
//! stolen one stands in for its own site and for nobody else.

use std::{
    fs, io,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use margo::ClientName;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{
    random_token,
    tls::{Peer, TlsError, read},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a root and the intermediates below it are valid. Nobody replaces them by themselves, so they outlive the
/// machines that they are on.
const AUTHORITY_LIFE: Duration = DAY.saturating_mul(365 * 20);

/// How long a server's certificate is valid. With the day before its making this is the longest that browsers take.
const LEAF_LIFE: Duration = DAY.saturating_mul(824);

/// The longest request for a certificate that is read. Ours have less than 1 KiB.
const LONGEST_REQUEST: usize = 16 << 10;

/// The new key of a site's intermediate, and the request to sign it. The key stays with whoever made it.
pub struct SiteRequest {
    /// The private key in PEM form. It is a secret.
    pub key: String,
    /// The request in PEM form (PKCS #10), which proves that the key is held.
    pub request: String,
}

impl SiteRequest {
    /// Makes a new key and its request.
    pub fn generate() -> io::Result<Self> {
        Self::of(KeyPair::generate().map_err(io::Error::other)?)
    }

    /// Makes a request for a key that exists, in PEM form.
    pub fn for_key(pem: &str) -> io::Result<Self> {
        Self::of(KeyPair::from_pem(pem).map_err(io::Error::other)?)
    }

    fn of(key: KeyPair) -> io::Result<Self> {
        let request = CertificateParams::default().serialize_request(&key).and_then(|request| request.pem());
        Ok(Self { key: key.serialize_pem(), request: request.map_err(io::Error::other)? })
    }
}

/// A request for a site's intermediate that is not signed.
#[derive(Debug, thiserror::Error)]
#[error("the certificate request is not a signed PKCS #10 request in PEM form of at most 16 KiB: {0}")]
pub struct InvalidRequest(String);

/// A certificate that signs others, with its key.
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    /// What servers send along with their own certificates: the intermediate, and nothing for the root.
    chain: String,
    certificate: String,
    /// The name of the authority as DER, by which its certificates are known.
    name: Vec<u8>,
    begin: OffsetDateTime,
    end: OffsetDateTime,
}

impl Issuer {
    /// Makes a new root. Returns its certificate and its key, both in PEM form.
    pub fn generate_root() -> io::Result<(String, String)> {
        // Two roots of two hubs have two names, so that a certificate tells which of them made it.
        let mark: String = random_token()?.chars().take(8).collect();
        let mut params = params(&format!("Edgewright root {mark}"))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = lasting(now(), AUTHORITY_LIFE);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Reads the root of a hub from its two files.
    pub fn load_root(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let text = |path: &Path| {
            String::from_utf8(read(path)?).map_err(|_| TlsError::invalid(path.display(), "it has to be in PEM form"))
        };
        let mut root = Self::parse(&text(certificate)?, &text(key)?, &certificate.display().to_string())?;
        // Whoever verifies has the root already.
        root.chain.clear();
        Ok(root)
    }

    /// Reads an intermediate: its certificate and its key in PEM form. `origin` names in errors where they stand.
    pub fn parse(certificate: &str, key: &str, origin: &str) -> Result<Self, TlsError> {
        let invalid = |rule: &str| TlsError::invalid(origin, rule);
        let key = KeyPair::from_pem(key).map_err(|_| invalid("the key has to be a private key in PEM form"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| invalid("it has to hold a certificate in PEM form"))?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| invalid("it has to hold an X.509 certificate"))?;
        if !parsed.is_ca() {
            return Err(invalid("the certificate has to be one of an authority (CA: true)"));
        }
        if parsed.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(&key) {
            return Err(invalid("the key has to be that of the certificate"));
        }
        let (name, validity) = (parsed.subject().as_raw().to_vec(), parsed.validity().clone());
        let signer = rcgen::Issuer::from_ca_cert_der(&der, key).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self {
            signer,
            chain: certificate.to_owned(),
            certificate: certificate.to_owned(),
            name,
            begin: validity.not_before.to_datetime(),
            end: validity.not_after.to_datetime(),
        })
    }

    /// The authority's own certificate in PEM form.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs the intermediate of a site, as requested by whoever holds its key. Returns the certificate in PEM form.
    /// Nothing but the public key is taken from the request.
    pub fn sign_site(&self, site: &ClientName, request: &str) -> Result<String, InvalidRequest> {
        if request.len() > LONGEST_REQUEST {
            return Err(InvalidRequest(format!("it has {} bytes", request.len())));
        }
        let invalid = |error: &dyn std::fmt::Display| InvalidRequest(error.to_string());
        let request = CertificateSigningRequestParams::from_pem(request).map_err(|error| invalid(&error))?;
        let mut params = params(&format!("Edgewright site {site}")).map_err(|error| invalid(&error))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(Peer::Site(site.clone()).dns_name())],
            // A kind of name that no permitted subtree is of would be allowed without limit.
            excluded_subtrees: vec![
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        (params.not_before, params.not_after) = self.within(AUTHORITY_LIFE);
        let signed = params.signed_by(&request.public_key, &self.signer).map_err(|error| invalid(&error))?;
        Ok(signed.pem())
    }

    /// Sees to it that a file holds a server's certificate with its key and chain, for these DNS names and IP
    /// addresses, and tells whether a new one was made. One that is there stays until a third of its life is over, or
    /// until it lacks a name. Several processes may do this to one file.
    pub fn keep_leaf(&self, path: &Path, names: &[String]) -> Result<bool, TlsError> {
        let failed = |source| TlsError::File { path: path.to_owned(), source };
        if let Some(held) = disk::read_optional(path).map_err(failed)?
            && self.still_serves(&held, names, now())
        {
            return Ok(false);
        }
        let leaf = self.leaf(names).map_err(failed)?;
        disk::write_private_shared(path, leaf.as_bytes()).map_err(failed)?;
        Ok(true)
    }

    /// Makes a certificate with a new key. Returns key, certificate and chain in PEM form.
    fn leaf(&self, names: &[String]) -> io::Result<String> {
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name = common_name(names.first().map_or("", String::as_str));
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = self.within(LEAF_LIFE);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let signed = params.signed_by(&key, &self.signer).map_err(io::Error::other)?;
        Ok(format!("{}{}{}", key.serialize_pem(), signed.pem(), self.chain))
    }

    /// Whether a file that [`Issuer::keep_leaf`] wrote may stay. What does not parse may not.
    fn still_serves(&self, held: &[u8], names: &[String], now: OffsetDateTime) -> bool {
        let Ok(leaf) = CertificateDer::from_pem_slice(held) else { return false };
        let Ok((_, leaf)) = X509Certificate::from_der(&leaf) else { return false };
        let left = leaf.validity().not_after.to_datetime() - now;
        held.ends_with(self.chain.as_bytes())
            && leaf.issuer().as_raw() == self.name
            && left > LEAF_LIFE * 2 / 3
            && names.iter().all(|name| is_for(&leaf, name))
    }

    /// From now on for some time, and never longer than the authority itself. A clock that is behind the authority's
    /// begin is wrong.
    fn within(&self, life: Duration) -> (OffsetDateTime, OffsetDateTime) {
        let (begin, end) = lasting(now().max(self.begin), life);
        (begin.max(self.begin), end.min(self.end))
    }
}

/// From a day ago, so that a clock that is behind by hours accepts the certificate, until the end of its life.
fn lasting(now: OffsetDateTime, life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    (now - DAY, now + life)
}

#[expect(clippy::disallowed_methods, reason = "certificates begin and end by the clock on the wall")]
fn now() -> OffsetDateTime {
    SystemTime::now().into()
}

fn params(name: &str) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

/// A positive number of 16 bytes that no other certificate has.
fn serial() -> io::Result<SerialNumber> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn is_for(certificate: &X509Certificate<'_>, name: &str) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let address: Option<IpAddr> = name.parse().ok();
    names.value.general_names.iter().any(|held| match (held, address) {
        (GeneralName::DNSName(held), None) => *held == name,
        (GeneralName::IPAddress(held), Some(IpAddr::V4(address))) => *held == address.octets(),
        (GeneralName::IPAddress(held), Some(IpAddr::V6(address))) => *held == address.octets(),
        _ => false,
    })
}

/// Makes a root in two files unless the key is there already. Only the owner may read the key.
pub fn keep_root(certificate: &Path, key: &Path) -> Result<(), TlsError> {
    if fs::exists(certificate).map_err(|source| TlsError::File { path: certificate.to_owned(), source })? {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| TlsError::File { path, source }
    };
    let (root, secret) = Issuer::generate_root().map_err(failed(certificate))?;
    // The certificate comes last: while it is missing, nobody has seen the root, and a new one may take its place.
    disk::write_private(key, secret.as_bytes()).map_err(failed(key))?;
    disk::write_private(certificate, root.as_bytes()).map_err(failed(certificate))
}

#[cfg(test)]
mod tests;
