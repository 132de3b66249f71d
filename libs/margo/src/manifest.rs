//! The desired state of one client in short: the list, the head that is signed, the keys that sign it.

use std::{collections::BTreeMap, fmt::Write};

use crate::{ClientName, DeploymentId, Digest, ManifestVersion, NodeName, TenantName};

/// What is desired of one client: (node, deployment) → digest, always in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestList(BTreeMap<(NodeName, DeploymentId), Digest>);

impl ManifestList {
    /// Adds one entry. A second one for the same deployment of a node replaces the first.
    pub fn insert(&mut self, node: NodeName, deployment: DeploymentId, digest: Digest) {
        self.0.insert((node, deployment), digest);
    }

    /// The sha256 that a head names: over one line `node deployment digest` for each entry, sorted.
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for ((node, deployment), digest) in &self.0 {
            writeln!(text, "{node} {deployment} {digest}").expect("writing to a String cannot fail");
        }
        Digest::of(text.as_bytes())
    }

    /// The entries, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, DeploymentId, Digest)> {
        self.0.iter().map(|((node, deployment), digest)| (node, *deployment, *digest))
    }

    /// How many deployments are desired.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is desired.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(NodeName, DeploymentId, Digest)> for ManifestList {
    fn from_iter<T: IntoIterator<Item = (NodeName, DeploymentId, Digest)>>(entries: T) -> Self {
        Self(entries.into_iter().map(|(node, id, digest)| ((node, id), digest)).collect())
    }
}

/// A text that is no head or no key set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{document} is not valid: line {line}: {rule}")]
pub struct ManifestError {
    document: &'static str,
    line: usize,
    rule: String,
}

/// Reads `key value` lines in a fixed order: what is signed has one form only.
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

/// The signed summary of a manifest. It names tenant and client, so none can be replayed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose.
    pub tenant: TenantName,
    /// Of which client.
    pub client: ClientName,
    /// Which version.
    pub version: ManifestVersion,
    /// [`ManifestList::digest`].
    pub list: Digest,
}

impl Head {
    /// The bytes that are signed (namespace `edgewright-head`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { tenant, client, version, list } = self;
        format!("edgewright-head v1\ntenant {tenant}\nclient {client}\nversion {version}\nlist {list}\n").into_bytes()
    }

    /// Reads what [`Head::to_bytes`] wrote, and nothing else.
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

/// The public keys of git-writer that are in force, under a rising number; signed by the tenant's root key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    /// Whose.
    pub tenant: TenantName,
    /// A lower number than the one held is refused.
    pub number: u64,
    /// OpenSSH public keys, `ssh-ed25519 AAAA…`, without comment.
    pub keys: Vec<String>,
}

impl KeySet {
    /// The bytes that are signed (namespace `edgewright-keys`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("edgewright-keys v1\ntenant {}\nnumber {}\n", self.tenant, self.number);
        for key in &self.keys {
            writeln!(text, "key {key}").expect("writing to a String cannot fail");
        }
        text.into_bytes()
    }

    /// Reads what [`KeySet::to_bytes`] wrote, and nothing else.
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
