//! The desired state of one client in short: the head that is signed for its list, and the keys that sign it.

use std::{fmt::Write, str::FromStr};

use crate::{ClientName, Digest, ManifestVersion, TenantName};

/// The text is not a head, a set of keys, a text of a list or a NODE file. The message names the line and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{document} is not valid: line {line}: {rule}")]
pub struct ManifestError {
    document: &'static str,
    line: usize,
    rule: String,
}

/// Reads lines of the form `key value` in a fixed order. What is signed has only one form, so that nobody can vary
/// it.
pub(crate) struct Lines<'a> {
    document: &'static str,
    lines: std::str::Lines<'a>,
    at: usize,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(document: &'static str, bytes: &'a [u8], longest: usize) -> Result<Self, ManifestError> {
        let error = |rule: String| ManifestError { document, line: 0, rule };
        if bytes.len() > longest {
            return Err(error(format!("larger than {} KiB", longest >> 10)));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| error("not UTF-8".to_owned()))?;
        Ok(Self { document, lines: text.lines(), at: 0 })
    }

    pub(crate) fn error(&self, rule: impl Into<String>) -> ManifestError {
        ManifestError { document: self.document, line: self.at, rule: rule.into() }
    }

    pub(crate) fn next(&mut self, key: &str) -> Result<&'a str, ManifestError> {
        self.at += 1;
        let found = self.lines.next().and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.ok_or_else(|| self.error(format!("must be {key:?} and a value")))
    }

    pub(crate) fn parse<T: FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Result<T, ManifestError> {
        let value = self.next(key)?;
        value.parse().map_err(|error: T::Err| self.error(error.to_string()))
    }

    /// Tells whether the next line begins so.
    pub(crate) fn next_is(&self, beginning: &str) -> bool {
        self.lines.clone().next().is_some_and(|line| line.starts_with(beginning))
    }

    /// Reads a line of a name and a digest; `None` after the last line.
    pub(crate) fn pair<T: FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<(T, Digest)>, ManifestError> {
        let Some(line) = self.lines.next() else { return Ok(None) };
        self.at += 1;
        let (name, digest) = line.split_once(' ').ok_or_else(|| self.error("must be a name and a digest"))?;
        let name = name.parse().map_err(|error: T::Err| self.error(error.to_string()))?;
        let digest = digest.parse().map_err(|error: crate::InvalidDigest| self.error(error.to_string()))?;
        Ok(Some((name, digest)))
    }
}

/// The signed summary of a client's manifest. It names tenant and client, so that it cannot be replayed to another
/// client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The tenant that the client belongs to.
    pub tenant: TenantName,
    /// The client that has to carry out the manifest.
    pub client: ClientName,
    /// The manifest's version; a client refuses one that is lower than the version it holds.
    pub version: ManifestVersion,
    /// The digest of the whole list, as [`crate::ManifestList::digest`] computes it.
    pub list: Digest,
}

impl Head {
    /// Returns the bytes that are signed (SSH signature namespace `edgewright-head`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { tenant, client, version, list } = self;
        format!("edgewright-head v2\ntenant {tenant}\nclient {client}\nversion {version}\nlist {list}\n").into_bytes()
    }

    /// Reads what [`Head::to_bytes`] wrote. It fails on any other spelling of the same content.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = Lines::new("head", bytes, 64 << 10)?;
        if lines.next("edgewright-head")? != "v2" {
            return Err(lines.error("must be v2"));
        }
        let (tenant, client) = (lines.parse("tenant")?, lines.parse("client")?);
        let version: u64 = lines.parse("version")?;
        let version = version.try_into().map_err(|error: crate::InvalidId| lines.error(error.to_string()))?;
        let head = Self { tenant, client, version, list: lines.parse("list")? };
        if head.to_bytes() != bytes { Err(lines.error("must have no further text")) } else { Ok(head) }
    }
}

/// The public keys of git-writer that are in force, under a rising number. The set is signed by the tenant's root
/// key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// The tenant whose heads the keys sign.
    pub tenant: TenantName,
    /// The number of the set; a lower number than the one held is refused.
    pub number: u64,
    /// The keys, 1 to 16, each as OpenSSH writes it (`ssh-ed25519 AAAA…`) without a comment.
    pub keys: Vec<String>,
}

impl KeySet {
    /// Returns the bytes that are signed (SSH signature namespace `edgewright-keys`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("edgewright-keys v1\ntenant {}\nnumber {}\n", self.tenant, self.number);
        for key in &self.keys {
            writeln!(text, "key {key}").expect("writing to a String cannot fail");
        }
        text.into_bytes()
    }

    /// Reads what [`KeySet::to_bytes`] wrote. It fails on any other spelling of the same content.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = Lines::new("KEYS", bytes, 64 << 10)?;
        if lines.next("edgewright-keys")? != "v1" {
            return Err(lines.error("must be v1"));
        }
        let (tenant, number) = (lines.parse("tenant")?, lines.parse("number")?);
        let mut keys = Vec::new();
        while lines.lines.clone().next().is_some() {
            keys.push(lines.next("key")?.to_owned());
        }
        if keys.is_empty() || keys.len() > 16 {
            return Err(lines.error("must name 1 to 16 keys"));
        }
        let set = Self { tenant, number, keys };
        if set.to_bytes() != bytes { Err(lines.error("must have no further text")) } else { Ok(set) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            tenant: TenantName::default(),
            client: "plant".parse().unwrap(),
            version: ManifestVersion::FIRST,
            list: Digest::of(b""),
        }
    }

    #[test]
    fn a_head_has_exactly_one_form() {
        let bytes = head().to_bytes();
        assert_eq!(Head::parse(&bytes).unwrap(), head());
        let text = String::from_utf8(bytes).unwrap();
        for changed in [
            text.replace("v2", "v1"),
            text.replace("client plant\n", ""),
            text.replace("version 1", "version 01"),
            text.replace("version 1", "version 0"),
            format!("{text}more\n"),
            text.trim_end().to_owned(),
            text.replace('\n', "\r\n"),
        ] {
            assert!(Head::parse(changed.as_bytes()).is_err(), "{changed}");
        }
    }

    #[test]
    fn a_key_set_has_exactly_one_form() {
        let set = KeySet { tenant: TenantName::default(), number: 7, keys: vec!["ssh-ed25519 AAAA".into()] };
        assert_eq!(KeySet::parse(&set.to_bytes()).unwrap(), set);
        assert!(KeySet::parse(&KeySet { keys: vec![], ..set }.to_bytes()).is_err());
    }
}
