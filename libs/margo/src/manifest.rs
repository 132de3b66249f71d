//! The desired state of one client in short: the list of its documents, the head that is signed, and the keys that
//! sign it.

use std::{collections::BTreeMap, fmt::Write};

use crate::{ClientName, DeploymentId, Digest, ManifestVersion, NodeName, TenantName};

/// The digest of every document that one client has to carry out, by node and deployment. It is always sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestList(BTreeMap<(NodeName, DeploymentId), Digest>);

impl ManifestList {
    /// Adds one entry. A second one for the same deployment of a node replaces the first, whose digest is returned.
    pub fn insert(&mut self, node: NodeName, deployment: DeploymentId, digest: Digest) -> Option<Digest> {
        self.0.insert((node, deployment), digest)
    }

    /// Takes the entry of a node's deployment out and returns its digest; `None` when there is no such entry.
    pub fn remove(&mut self, node: &NodeName, deployment: DeploymentId) -> Option<Digest> {
        self.0.remove(&(node.clone(), deployment))
    }

    /// Computes the sha256 that a head names. It covers one line `node deployment digest` for each entry, in sorted
    /// order.
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for ((node, deployment), digest) in &self.0 {
            writeln!(text, "{node} {deployment} {digest}").expect("writing to a String cannot fail");
        }
        Digest::of(text.as_bytes())
    }

    /// Returns the entries, sorted by node and then by deployment.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, DeploymentId, Digest)> {
        self.0.iter().map(|((node, deployment), digest)| (node, *deployment, *digest))
    }

    /// Returns how many deployments are desired.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether no deployment is desired.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(NodeName, DeploymentId, Digest)> for ManifestList {
    fn from_iter<T: IntoIterator<Item = (NodeName, DeploymentId, Digest)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(node, id, digest)| ((node, id), digest)).collect())
    }
}

/// The text is not a head or not a set of keys. The message names the line and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{document} is not valid: line {line}: {rule}")]
pub struct ManifestError {
    document: &'static str,
    line: usize,
    rule: String,
}

/// Reads lines of the form `key value` in a fixed order. What is signed has only one form, so that nobody can vary
/// it.
struct Lines<'a> {
    document: &'static str,
    lines: std::str::Lines<'a>,
    at: usize,
}

impl<'a> Lines<'a> {
    fn new(document: &'static str, bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let error = |rule: &str| ManifestError { document, line: 0, rule: rule.into() };
        if bytes.len() > 64 << 10 {
            return Err(error("larger than 64 KiB"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| error("not UTF-8"))?;
        Ok(Self { document, lines: text.lines(), at: 0 })
    }

    fn error(&self, rule: impl Into<String>) -> ManifestError {
        ManifestError { document: self.document, line: self.at, rule: rule.into() }
    }

    fn next(&mut self, key: &str) -> Result<&'a str, ManifestError> {
        self.at += 1;
        let found = self.lines.next().and_then(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.ok_or_else(|| self.error(format!("must be {key:?} and a value")))
    }

    fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self, key: &str) -> Result<T, ManifestError> {
        let value = self.next(key)?;
        value.parse().map_err(|error: T::Err| self.error(error.to_string()))
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
    /// The digest of the whole list, as [`ManifestList::digest`] computes it.
    pub list: Digest,
}

impl Head {
    /// Returns the bytes that are signed (SSH signature namespace `edgewright-head`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { tenant, client, version, list } = self;
        format!("edgewright-head v1\ntenant {tenant}\nclient {client}\nversion {version}\nlist {list}\n").into_bytes()
    }

    /// Reads what [`Head::to_bytes`] wrote. It fails on any other spelling of the same content.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = Lines::new("head", bytes)?;
        if lines.next("edgewright-head")? != "v1" {
            return Err(lines.error("must be v1"));
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
        let mut lines = Lines::new("KEYS", bytes)?;
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
            list: ManifestList::default().digest(),
        }
    }

    #[test]
    fn a_head_has_exactly_one_form() {
        let bytes = head().to_bytes();
        assert_eq!(Head::parse(&bytes).unwrap(), head());
        let text = String::from_utf8(bytes).unwrap();
        for changed in [
            text.replace("v1", "v2"),
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

    #[test]
    fn the_list_s_digest_depends_on_every_entry_and_not_on_the_order_of_arrival() {
        let entry = |node: &str, seed: &[u8]| {
            let node: NodeName = node.parse().unwrap();
            let id = "00000000-0000-4000-8000-000000000001".parse().unwrap();
            (node, id, Digest::of(seed))
        };
        let one: ManifestList = [entry("a", b"1"), entry("b", b"2")].into_iter().collect();
        let other: ManifestList = [entry("b", b"2"), entry("a", b"1")].into_iter().collect();
        let changed: ManifestList = [entry("a", b"1"), entry("b", b"3")].into_iter().collect();
        assert_eq!(one.digest(), other.digest());
        assert_ne!(one.digest(), changed.digest());
    }
}
