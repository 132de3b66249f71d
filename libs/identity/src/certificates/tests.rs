use std::{fs::Permissions, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, ServerConnection,
    pki_types::{ServerName, UnixTime},
    time_provider::TimeProvider,
    version::TLS12,
};
use tempfile::TempDir;

use super::*;
use crate::tls::{CertificateFiles, Trust};

/// A hub with its root, in a folder that servers' files are put into.
struct Hub {
    folder: TempDir,
    root: Issuer,
}

impl Hub {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["root.pem", "root.key"].map(|name| folder.path().join(name));
        keep_root(&certificate, &key).unwrap();
        Self { root: Issuer::load_root(&certificate, &key).unwrap(), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn trust(&self) -> Trust {
        Trust::load(&self.path("root.pem")).unwrap()
    }

    fn site(&self, name: &str) -> Issuer {
        let request = SiteRequest::generate().unwrap();
        let certificate = self.root.sign_site(&client(name), &request.request).unwrap();
        Issuer::parse(&certificate, &request.key, "the credentials").unwrap()
    }

    /// The file of a server with these names.
    fn leaf(&self, authority: &Issuer, names: &[&str]) -> PathBuf {
        let path = self.path(&names.join("+"));
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        authority.keep_leaf(&path, &names).unwrap();
        path
    }
}

fn client(name: &str) -> ClientName {
    name.parse().unwrap()
}

fn both(path: &Path) -> CertificateFiles {
    CertificateFiles { certificate: path.to_owned(), key: path.to_owned() }
}

/// Has a client connect at an address to a server with this file, in memory, and returns why that failed.
fn connect(file: &Path, config: Arc<ClientConfig>, address: &str) -> Result<(), String> {
    let name = ServerName::try_from(address.to_owned()).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(both(file).server().unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| error.to_string())?;
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| error.to_string())?;
    }
    Ok(())
}

const HUB: &str = "hub.edgewright.internal";
const PLANT: &str = "plant.sites.edgewright.internal";
const DEPOT: &str = "depot.sites.edgewright.internal";

#[test]
fn a_server_is_believed_to_be_what_its_authority_may_sign_for() {
    let hub = Hub::new();
    let (trust, plant) = (hub.trust(), hub.site("plant"));
    let of_hub = hub.leaf(&hub.root, &[HUB, "192.0.2.1"]);
    let of_plant = hub.leaf(&plant, &[PLANT]);
    // At whatever address.
    connect(&of_hub, trust.peer(&Peer::Hub), "198.51.100.9").unwrap();
    connect(&of_plant, trust.peer(&Peer::Site(client("plant"))), "198.51.100.9").unwrap();
    // A browser or curl goes by the address.
    connect(&of_hub, trust.hosts(), "192.0.2.1").unwrap();
    assert!(connect(&of_hub, trust.hosts(), "192.0.2.2").is_err());
    // Nobody is anybody else.
    for (file, peer) in
        [(&of_plant, Peer::Hub), (&of_plant, Peer::Site(client("depot"))), (&of_hub, Peer::Site(client("plant")))]
    {
        let refused = connect(file, trust.peer(&peer), "198.51.100.9").unwrap_err();
        assert!(refused.contains("not valid for name"), "{refused}");
    }
    let refused = connect(&of_hub, Hub::new().trust().peer(&Peer::Hub), "192.0.2.1").unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
}

#[test]
fn a_stolen_intermediate_stands_in_for_its_own_site_only() {
    let hub = Hub::new();
    let (trust, plant) = (hub.trust(), hub.site("plant"));
    for names in [&[HUB][..], &[DEPOT], &[PLANT, HUB], &["192.0.2.1"], &["2001:db8::1"], &["hub.example"]] {
        let forged = hub.leaf(&plant, names);
        let peers = [Peer::Hub, Peer::Site(client("depot")), Peer::Site(client("plant"))];
        for config in peers.iter().map(|peer| trust.peer(peer)).chain([trust.hosts()]) {
            let refused = connect(&forged, config, names.last().unwrap()).unwrap_err();
            assert!(refused.contains("NameConstraintViolation"), "{names:?}: {refused}");
        }
    }
    // Nor does it hand on what it may do.
    let mut params = params("an authority below").unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &plant.signer).unwrap();
    let mut below = Issuer::parse(&certificate.pem(), &key.serialize_pem(), "a forgery").unwrap();
    below.chain.push_str(plant.certificate());
    let refused = connect(&hub.leaf(&below, &[PLANT]), trust.peer(&Peer::Site(client("plant"))), PLANT).unwrap_err();
    assert!(refused.contains("PathLenConstraintViolated"), "{refused}");
}

/// A clock that stands.
#[derive(Debug)]
struct Clock(UnixTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

#[test]
fn a_clock_that_is_behind_is_no_obstacle_and_one_beyond_the_end_is() {
    let hub = Hub::new();
    let plant = hub.site("plant");
    let at = |seconds: Duration| {
        let mut config = (*hub.trust().peer(&Peer::Site(client("plant")))).clone();
        config.time_provider = Arc::new(Clock(UnixTime::since_unix_epoch(seconds)));
        connect(&hub.leaf(&plant, &[PLANT]), Arc::new(config), "198.51.100.9")
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    at(Duration::ZERO).unwrap();
    at(now).unwrap();
    at(now + LEAF_LIFE - DAY).unwrap();
    let refused = at(now + LEAF_LIFE + DAY).unwrap_err();
    assert!(refused.contains("certificate expired"), "{refused}");
}

#[test]
fn a_leaf_stays_for_a_third_of_its_life_and_as_long_as_it_has_every_name() {
    let hub = Hub::new();
    let path = hub.path("leaf");
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let first = names(&[HUB, "192.0.2.1"]);
    assert!(hub.root.keep_leaf(&path, &first).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let held = fs::read(&path).unwrap();
    assert!(!hub.root.keep_leaf(&path, &first).unwrap());
    assert_eq!(fs::read(&path).unwrap(), held);
    assert!(hub.root.still_serves(&held, &first, now() + LEAF_LIFE / 3 - DAY));
    assert!(!hub.root.still_serves(&held, &first, now() + LEAF_LIFE / 3 + DAY));
    assert!(!Hub::new().root.still_serves(&held, &first, now()), "another root");
    for others in [&[HUB, "192.0.2.2"][..], &[HUB, "hub.example"], &[HUB, "2001:db8::1"]] {
        assert!(hub.root.keep_leaf(&path, &names(others)).unwrap(), "{others:?}");
    }
    fs::write(&path, "half a fi").unwrap();
    assert!(hub.root.keep_leaf(&path, &first).unwrap());
}

#[test]
fn a_root_is_made_once() {
    let hub = Hub::new();
    let (certificate, key) = (hub.path("root.pem"), hub.path("root.key"));
    let held = fs::read(&certificate).unwrap();
    keep_root(&certificate, &key).unwrap();
    assert_eq!(fs::read(&certificate).unwrap(), held);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    // Killed between the two files.
    fs::remove_file(&certificate).unwrap();
    keep_root(&certificate, &key).unwrap();
    Issuer::load_root(&certificate, &key).unwrap();
}

#[test]
fn only_a_request_for_a_key_that_is_held_is_signed() {
    let hub = Hub::new();
    let request = SiteRequest::generate().unwrap();
    let again = SiteRequest::for_key(&request.key).unwrap();
    for request in [&request.request, &again.request] {
        let signed = hub.root.sign_site(&client("plant"), request).unwrap();
        Issuer::parse(&signed, &again.key, "the answer").unwrap();
    }
    // One bit of the signature is another.
    let mut der = pem_body(&request.request);
    *der.last_mut().unwrap() ^= 1;
    let forged = rcgen::CertificateSigningRequestParams::from_der(&der.as_slice().into());
    assert!(forged.is_err());
    let long = request.request.repeat(100);
    for bad in ["", "no request", hub.root.certificate(), &long] {
        assert!(hub.root.sign_site(&client("plant"), bad).is_err(), "{bad}");
    }
}

fn pem_body(pem: &str) -> Vec<u8> {
    rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_file_and_rule() {
    let hub = Hub::new();
    let good = hub.leaf(&hub.root, &[HUB]);
    let other = hub.leaf(&hub.root, &["hub.example"]);
    let file = |name: &str, content: &[u8]| {
        let path = hub.path(name);
        disk::write_private(&path, content).unwrap();
        path
    };
    let open = file("open", &fs::read(&good).unwrap());
    fs::set_permissions(&open, Permissions::from_mode(0o644)).unwrap();
    let (none, broken) = (file("none", b""), file("broken", b"-----BEGIN CERTIFICATE-----\n!\n"));
    let keyless = file("keyless", hub.root.certificate().as_bytes());
    for (certificate, key, blamed, rule) in [
        (&none, &good, "none", "at least one certificate"),
        (&broken, &good, "broken", "not in PEM form"),
        (&hub.path("missing"), &good, "missing", "certificate file"),
        (&good, &keyless, "keyless", "a private key"),
        (&good, &open, "open", "chmod 600"),
        (&good, &other, "hub.example", "does not serve the certificate"),
    ] {
        let files = CertificateFiles { certificate: certificate.clone(), key: key.clone() };
        let told = files.server().unwrap_err().to_string();
        assert!(told.contains(blamed) && told.contains(rule), "{told}");
    }
    for bad in [&none, &broken] {
        assert!(Trust::load(bad).is_err());
    }
    let leaf = fs::read_to_string(&good).unwrap();
    let told = Issuer::parse(&leaf, &leaf, "the credentials").err().unwrap().to_string();
    assert!(told.contains("the credentials") && told.contains("CA: true"), "{told}");
    let root = Issuer::load_root(&hub.path("root.pem"), &good).err().unwrap().to_string();
    assert!(root.contains("root.pem") && root.contains("that of the certificate"), "{root}");
}

#[test]
fn an_older_version_of_tls_is_not_spoken() {
    let hub = Hub::new();
    let file = hub.leaf(&hub.root, &[HUB]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(hub.root.certificate().as_bytes()).unwrap()).unwrap();
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let refused = connect(&file, Arc::new(old), HUB).unwrap_err();
    assert!(refused.contains("Tls12NotOffered"), "{refused}");
}
