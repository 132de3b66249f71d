//! Ids that the system makes from names, and the version of a client's manifest.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{AssignmentName, ClientName, InvalidName, NodeName, TenantName};

/// An id that breaks its rule. The message repeats the id and says what the rule is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text has no slash, so it is not the `client/node` of a node.
    #[error("node {0:?} is not valid: SITE/NODE, two names with one slash between them")]
    Node(String),
    /// One of the two names of a node breaks the rule for names.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The text is not a UUID in the hyphenated form of 36 characters. It holds the first 100 characters of the text.
    #[error("deployment id {0:?} is not valid: a UUID")]
    Deployment(String),
    /// The text is not a DeviceId. It holds the first 255 characters of the text.
    #[error(
        "device id {0:?} is not valid: segments of letters, digits, . _ ~ and - with / between them, none of them . or .."
    )]
    Device(String),
    /// The number is 0, or too large to be exact as a number in JSON.
    #[error("manifest version {0} is not valid: 1 to 2^53 - 1")]
    Version(u64),
}

/// One node of one client, written `client/node`. It names the same node for ever, because neither name is reused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId {
    /// The client that the node belongs to; the names of nodes are unique within it.
    pub client: ClientName,
    /// The node's name within its client.
    pub node: NodeName,
}

impl NodeId {
    /// Puts the two checked names together.
    pub fn new(client: ClientName, node: NodeName) -> Self {
        Self { client, node }
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(raw: &str) -> Result<Self, InvalidId> {
        let (client, node) = raw.split_once('/').ok_or_else(|| InvalidId::Node(raw.to_owned()))?;
        Ok(Self { client: client.parse()?, node: node.parse()? })
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;

    fn try_from(raw: String) -> Result<Self, InvalidId> {
        raw.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.to_string()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.client, self.node))
    }
}

/// The id of one assignment on one node. It stays the same through updates, rollbacks and a rebuild (WFM-26),
/// because it is computed from their names and from nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId(Uuid);

impl DeploymentId {
    /// The namespace of the UUIDs (version 5). It must never change: another namespace would give every deployment in
    /// the field a new identity.
    const NAMESPACE: Uuid = Uuid::from_u128(0x6f0f_3d0a_5b8e_5c55_9d0e_3c1f_8a27_e419);

    /// Computes the id of the deployment of this assignment on this node.
    pub fn new(tenant: &TenantName, assignment: &AssignmentName, node: &NodeId) -> Self {
        let name = format!("{tenant}/{assignment}/{}/{}", node.client, node.node);
        Self(Uuid::new_v5(&Self::NAMESPACE, name.as_bytes()))
    }
}

impl FromStr for DeploymentId {
    type Err = InvalidId;

    fn from_str(raw: &str) -> Result<Self, InvalidId> {
        // Only the hyphenated form of 36 characters: the id is a file name and a URL segment (WFM-26).
        let invalid = || InvalidId::Deployment(raw.chars().take(100).collect());
        if raw.len() != 36 {
            return Err(invalid());
        }
        Uuid::try_parse(raw).map(Self).map_err(|_| invalid())
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = InvalidId;

    fn try_from(raw: String) -> Result<Self, InvalidId> {
        raw.parse()
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> String {
        id.to_string()
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Margo DeviceId: at most 255 bytes, one or more segments of letters, digits, `.`, `_`, `~` and `-` with slashes
/// between them. Foreign ids may have capitals and any number of segments; a node that was given no DeviceId has its
/// `client/node`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&NodeId> for DeviceId {
    fn from(id: &NodeId) -> Self {
        Self(id.to_string())
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidId;

    fn try_from(raw: String) -> Result<Self, InvalidId> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-');
        // `.` and `..` match the specification's pattern, but HTTP stacks normalise them away (T05).
        let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(allowed);
        if raw.len() > 255 || !raw.split('/').all(segment) {
            return Err(InvalidId::Device(raw.chars().take(255).collect()));
        }
        Ok(Self(raw))
    }
}

impl FromStr for DeviceId {
    type Err = InvalidId;

    fn from_str(raw: &str) -> Result<Self, InvalidId> {
        raw.to_owned().try_into()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> String {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The version of a client's manifest: epoch × 2³² + counter. It starts at 1 and stays below 2⁵³, so that it is
/// exact as a JSON number (WFM-17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct ManifestVersion(u64);

impl ManifestVersion {
    /// The version of every new client's first manifest: epoch 0, counter 1.
    pub const FIRST: Self = Self(1);
    const LIMIT: u64 = 1 << 53;

    /// Returns the version as the number that documents hold.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Returns the version of the next commit. It fails when the numbers below 2⁵³ are used up.
    pub fn next(self) -> Result<Self, InvalidId> {
        Self::try_from(self.0 + 1)
    }

    /// Returns how often a restore or a conflict made the counter start again.
    pub fn epoch(self) -> u64 {
        self.0 >> 32
    }

    /// Returns the number of the commit within its epoch.
    pub fn counter(self) -> u64 {
        self.0 & 0xffff_ffff
    }
}

impl TryFrom<u64> for ManifestVersion {
    type Error = InvalidId;

    fn try_from(raw: u64) -> Result<Self, InvalidId> {
        if raw == 0 || raw >= Self::LIMIT { Err(InvalidId::Version(raw)) } else { Ok(Self(raw)) }
    }
}

impl From<ManifestVersion> for u64 {
    fn from(version: ManifestVersion) -> u64 {
        version.0
    }
}

impl fmt::Display for ManifestVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wfm_26_a_deployment_keeps_its_id_for_ever() {
        let id = DeploymentId::new(&TenantName::default(), &"hello".parse().unwrap(), &"plant/press".parse().unwrap());
        // Golden: a change here would give every deployment in the field a new identity.
        assert_eq!(id.to_string(), "9db79949-86fb-5e45-910d-8a83dd7391cc");
        assert_eq!(id.to_string().parse::<DeploymentId>().unwrap(), id);
    }

    #[test]
    fn t05_dots_as_segments_are_no_device_id() {
        for good in ["gateway1/deviceA", "a.b_c~d-e", "plant/press"] {
            assert!(good.parse::<DeviceId>().is_ok(), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", ".", "a/..", "a b"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn wfm_17_a_version_starts_at_one_and_stays_exact_in_json() {
        assert!(ManifestVersion::try_from(0).is_err());
        assert!(ManifestVersion::try_from(1 << 53).is_err());
        assert_eq!(ManifestVersion::FIRST.next().unwrap().get(), 2);
        let restored = ManifestVersion::try_from((3 << 32) + 7).unwrap();
        assert_eq!((restored.epoch(), restored.counter()), (3, 7));
    }
}
