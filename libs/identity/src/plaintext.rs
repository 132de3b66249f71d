//! The rule that nothing crosses a network in clear: an address without TLS has to be one of this machine's own.

use std::net::{IpAddr, SocketAddr};

/// Whether addresses of other machines may be used without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// Only addresses that no network leads to.
    OnLoopback,
    /// All addresses: an operator has said so, with `--allow-plaintext`.
    Anywhere,
}

/// Tokens, keys and documents would cross a network in clear.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} is at {address}, which is no address of this machine alone, and without TLS everything there could be read \
     and changed on the way: {remedy}, or allow it with --allow-plaintext"
)]
pub struct PlaintextRefused {
    what: String,
    address: String,
    remedy: &'static str,
}

impl Plaintext {
    /// The policy that follows from the flag `--allow-plaintext`.
    pub fn allowed(flag: bool) -> Self {
        if flag { Self::Anywhere } else { Self::OnLoopback }
    }

    /// Fails when a listener at this address would have to speak TLS and does not.
    pub fn check_listener(self, what: &str, address: SocketAddr, tls: bool) -> Result<(), PlaintextRefused> {
        if tls || self == Self::Anywhere || address.ip().is_loopback() {
            return Ok(());
        }
        let remedy = "give it a certificate and a key";
        Err(PlaintextRefused { what: what.to_owned(), address: address.to_string(), remedy })
    }

    /// Fails when the URL leads to another machine without TLS.
    pub fn check_url(self, what: &str, url: &str) -> Result<(), PlaintextRefused> {
        if speaks_tls(url) || self == Self::Anywhere || is_loopback(host(url)) {
            return Ok(());
        }
        let remedy = if url.starts_with("http") { "give a URL with https://" } else { "give a URL with tls://" };
        Err(PlaintextRefused { what: what.to_owned(), address: url.to_owned(), remedy })
    }
}

/// Tells whether a URL demands TLS, by its scheme.
pub fn speaks_tls(url: &str) -> bool {
    url.starts_with("tls://") || url.starts_with("https://")
}

/// The host in a URL, without port and without brackets.
pub fn host(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    if let Some(bracketed) = authority.strip_prefix('[') {
        return bracketed.split(']').next().unwrap_or_default();
    }
    authority.split(':').next().unwrap_or_default()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_clear_unless_somebody_says_so() {
        for url in ["nats://127.0.0.1:4222", "http://localhost:8080", "http://[::1]:1/v2", "tls://192.0.2.1:4222"] {
            Plaintext::OnLoopback.check_url("the hub", url).unwrap();
        }
        for url in ["nats://192.0.2.1:4222", "http://127.0.0.1.example:80", "http://127.0.0.1@192.0.2.1", "192.0.2.1"] {
            let refused = Plaintext::OnLoopback.check_url("the hub", url).unwrap_err().to_string();
            assert!(refused.contains(url) && refused.contains("--allow-plaintext"), "{refused}");
            Plaintext::Anywhere.check_url("the hub", url).unwrap();
        }
    }

    #[test]
    fn a_listener_for_others_has_certificates_or_a_flag() {
        let (here, all) = ("127.1.0.1:80".parse().unwrap(), "0.0.0.0:80".parse().unwrap());
        Plaintext::OnLoopback.check_listener("REST", here, false).unwrap();
        Plaintext::OnLoopback.check_listener("REST", all, true).unwrap();
        Plaintext::allowed(true).check_listener("REST", all, false).unwrap();
        let refused = Plaintext::allowed(false).check_listener("REST", all, false).unwrap_err().to_string();
        assert!(refused.contains("REST is at 0.0.0.0:80") && refused.contains("--allow-plaintext"), "{refused}");
    }
}
