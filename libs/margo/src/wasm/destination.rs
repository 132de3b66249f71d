//! Where a component may connect to: a host and a port.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The longest name of a host that DNS has, in characters.
const MAX_NAME: usize = 253;
/// The longest part of such a name between two dots.
const MAX_LABEL: usize = 63;

/// A host and a port, written `db.example.com:5432`, `192.0.2.7:80` or `[2001:db8::7]:80`. There is no wildcard: who reads the
/// package shall see where it connects to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port, of TCP.
    pub port: NonZeroU16,
}

/// A host, by its name or by its address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A name that DNS resolves, in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// A text that is no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be a host and a port, such as db.example.com:5432, 192.0.2.7:80 or [2001:db8::7]:80")]
pub struct InvalidDestination(String);

impl Host {
    /// Reads a name in any case, an IPv4 address, or an IPv6 address in brackets. Returns `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            return Some(Self::Address(inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into()));
        }
        if let Ok(address) = text.parse() {
            // Without brackets nobody knows where an IPv6 address ends and the port begins.
            return Some(Self::Address(address)).filter(|_| !text.contains(':'));
        }
        let label = |label: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(allowed) && !label.starts_with('-')
        };
        // A last part of digits would be taken for an address by some resolvers.
        let last_is_number = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        (text.len() <= MAX_NAME && text.split('.').all(label) && !last_is_number)
            .then(|| Self::Name(text.to_ascii_lowercase()))
    }
}

impl FromStr for Destination {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let read = || {
            let (host, port) = text.rsplit_once(':')?;
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            Some(Self { host: Host::parse(host)?, port: port.parse().ok().filter(|_| digits)? })
        };
        read().ok_or_else(|| InvalidDestination(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Destination {
    type Error = InvalidDestination;

    fn try_from(text: String) -> Result<Self, InvalidDestination> {
        text.parse()
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_written_as_it_was_read() {
        for text in ["db.example.com:5432", "192.0.2.7:80", "[2001:db8::7]:443", "localhost:1", "a_b-c.d1:65535"] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        assert_eq!("DB.Example.com:1".parse::<Destination>().unwrap().host, Host::Name("db.example.com".to_owned()));
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        let long = format!("{}:80", "a.".repeat(150));
        for text in [
            "",
            "a",
            "a:",
            ":80",
            "a:0",
            "a:65536",
            "a:+80",
            "*:80",
            "*.example.com:80",
            "a b:80",
            "a/b:80",
            "u@a:80",
            "2001:db8::7:80",
            "[192.0.2.7]:80",
            "1.2.3:80",
            "0x7f.1:80",
            "-a:80",
            "a..b:80",
            "http://a:80",
            &long,
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
        }
    }
}
