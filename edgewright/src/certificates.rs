//! The certificates of a data folder's servers: those that the platform makes for itself, and those of the operator.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::ensure;
use identity::{
    plaintext::{Plaintext, host, speaks_tls},
    tls::{CertificateFiles, ServerConfig, TlsError},
};
use serde::{Deserialize, Serialize};

/// The file of the certificate that the platform makes for the servers of a folder, with its key and its chain.
pub const OWN: &str = "tls/server.pem";

/// The certificate of one server, in `hub.toml` or `site.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TlsSettings {
    /// A PEM file with the certificate and its chain, in the data folder unless the path is absolute.
    pub certificate: PathBuf,
    /// A PEM file with the key, which may be the same file.
    pub key: PathBuf,
}

impl TlsSettings {
    /// The certificate that the platform makes.
    pub fn own() -> Self {
        Self { certificate: OWN.into(), key: OWN.into() }
    }

    /// The files with their whole paths, in this data folder.
    pub fn files(&self, folder: &Path) -> CertificateFiles {
        CertificateFiles { certificate: folder.join(&self.certificate), key: folder.join(&self.key) }
    }
}

/// Reads the certificate of a server that has one.
pub fn server(tls: Option<&TlsSettings>, folder: &Path) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    tls.map(|tls| tls.files(folder).server()).transpose()
}

/// One server of a folder as the settings describe it.
pub struct Listener<'a> {
    /// What people call it, such as `the hub's NATS server`.
    pub what: &'a str,
    /// The address on which it listens.
    pub listen: SocketAddr,
    /// The name of the setting of its certificate.
    pub setting: &'a str,
    /// Its certificate.
    pub tls: Option<&'a TlsSettings>,
    /// The URL at which others reach it, where the settings name one.
    pub url: Option<&'a str>,
}

impl Listener<'_> {
    /// Fails when others could listen in, and when URL and certificate contradict each other. `file` holds the settings.
    pub fn check(&self, file: &str, plaintext: Plaintext) -> anyhow::Result<()> {
        let what = format!("{} ({} in {file})", self.what, self.setting);
        plaintext.check_listener(&what, self.listen, self.tls.is_some())?;
        if let Some(url) = self.url {
            let (has, demands) =
                if self.tls.is_some() { ("has", "tls:// or https://") } else { ("lacks", "nats:// or http://") };
            ensure!(
                speaks_tls(url) == self.tls.is_some(),
                "{file}: {} {has} a certificate ({}), so its URL has to begin with {demands}, and is {url}",
                self.what,
                self.setting,
            );
        }
        Ok(())
    }
}

/// The scheme of a NATS server's URL.
pub fn nats_scheme(tls: bool) -> &'static str {
    if tls { "tls" } else { "nats" }
}

/// The scheme of an HTTP server's URL.
pub fn http_scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// Whether an interface for people and programs on this address has a certificate when nobody says otherwise: not on
/// loopback, so that `curl` reaches it without being told whom to believe.
pub fn for_people(host: IpAddr) -> Option<TlsSettings> {
    (!host.is_loopback()).then(TlsSettings::own)
}

/// The names in URLs and addresses under which a server may be reached, each once. An address that means all addresses
/// is no name.
pub fn names<'a>(own: String, urls: impl IntoIterator<Item = &'a str>, addresses: &[SocketAddr]) -> Vec<String> {
    let mut names = vec![own];
    let addresses = addresses.iter().map(|address| address.ip()).filter(|address| !address.is_unspecified());
    let found = urls.into_iter().map(|url| host(url).to_owned()).chain(addresses.map(|address| address.to_string()));
    for name in found {
        let unspecified = name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        if !unspecified && !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_every_name_once() {
        let urls = ["tls://hub.example:4222", "https://192.0.2.1:8082", "tls://0.0.0.0:1", "tls://[2001:db8::1]:1"];
        let listen = ["0.0.0.0:4222".parse().unwrap(), "192.0.2.1:8080".parse().unwrap()];
        let names = names("hub".to_owned(), urls, &listen);
        assert_eq!(names, ["hub", "hub.example", "192.0.2.1", "2001:db8::1"]);
    }

    #[test]
    fn a_server_that_others_reach_has_a_certificate_and_a_url_that_says_so() {
        let own = TlsSettings::own();
        let listener = |listen: &str, tls: bool, url| Listener {
            what: "the store",
            listen: listen.parse().unwrap(),
            setting: "store-tls",
            tls: tls.then_some(&own),
            url,
        };
        let check = |listener: Listener<'_>| listener.check("hub.toml", Plaintext::OnLoopback);
        check(listener("127.0.0.1:1", false, Some("http://127.0.0.1:1"))).unwrap();
        check(listener("192.0.2.1:1", true, Some("https://192.0.2.1:1"))).unwrap();
        let open = check(listener("192.0.2.1:1", false, None)).unwrap_err().to_string();
        for told in ["the store (store-tls in hub.toml)", "192.0.2.1:1", "--allow-plaintext"] {
            assert!(open.contains(told), "{open}");
        }
        listener("192.0.2.1:1", false, None).check("hub.toml", Plaintext::Anywhere).unwrap();
        let contradiction = check(listener("192.0.2.1:1", true, Some("http://192.0.2.1:1"))).unwrap_err().to_string();
        assert!(contradiction.contains("https://") && contradiction.contains("store-tls"), "{contradiction}");
    }
}
