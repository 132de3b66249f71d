//! Whether what a road brings may come into force. No disk, no bus, no clock.

use std::{cmp::Ordering, collections::BTreeMap};

use margo::{DeploymentId, Digest, Head, ManifestList, ManifestVersion, NodeName};

/// What one node shall run; every digest was computed from the document itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeDesired {
    /// Manifest version at which this node last changed.
    pub version: ManifestVersion,
    pub deployments: BTreeMap<DeploymentId, Digest>,
}

/// A head and what came with it, which may or may not belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its signatures were verified before.
    pub head: Head,
    pub nodes: BTreeMap<NodeName, NodeDesired>,
}

impl Manifest {
    fn list(&self) -> ManifestList {
        let entries = self.nodes.iter().flat_map(|(node, desired)| {
            desired.deployments.iter().map(|(deployment, digest)| (node.clone(), *deployment, *digest))
        });
        entries.collect()
    }

    /// Whether the documents are exactly those that the head was signed for.
    pub fn is_whole(&self) -> bool {
        self.list().digest() == self.head.list
    }
}

/// What becomes of a manifest that a road brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes into force.
    Adopt,
    /// It is in force already.
    InForce,
    /// Something has not arrived yet.
    Incomplete,
    /// It never comes into force.
    Refuse(Refused),
}

/// Why a manifest never comes into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("version {offered} is older than version {held}, which is in force")]
    Older { offered: ManifestVersion, held: ManifestVersion },
    #[error("conflict: version {0} is in force with another list")]
    Conflict(ManifestVersion),
    #[error("node {node} is at version {version}, above the head's version {head}")]
    Ahead { node: NodeName, version: ManifestVersion, head: ManifestVersion },
    #[error("node {node} changed, but its version {version} did not rise above {held}: it would not act on it")]
    NotRisen { node: NodeName, version: ManifestVersion, held: ManifestVersion },
}

/// The one decision. The list binds every document to the signed head; the version of a node is not in the list, so it
/// is checked here.
pub fn judge(held: Option<&Manifest>, offered: &Manifest) -> Verdict {
    if let Some(held) = held {
        match offered.head.version.cmp(&held.head.version) {
            Ordering::Less => {
                let (offered, held) = (offered.head.version, held.head.version);
                return Verdict::Refuse(Refused::Older { offered, held });
            }
            Ordering::Equal if offered.head.list == held.head.list => return Verdict::InForce,
            Ordering::Equal => return Verdict::Refuse(Refused::Conflict(held.head.version)),
            Ordering::Greater => {}
        }
    }
    if !offered.is_whole() {
        return Verdict::Incomplete;
    }
    for (node, desired) in &offered.nodes {
        let (node, version) = (node.clone(), desired.version);
        if version > offered.head.version {
            return Verdict::Refuse(Refused::Ahead { node, version, head: offered.head.version });
        }
        let before = held.and_then(|held| held.nodes.get(&node));
        if let Some(before) = before.filter(|it| it.deployments != desired.deployments && it.version >= version) {
            return Verdict::Refuse(Refused::NotRisen { node, version, held: before.version });
        }
    }
    Verdict::Adopt
}

#[cfg(test)]
mod tests;
