//! Whether what a road offers may come into force. No disk, no bus, no clock.

use std::{cmp::Ordering, sync::Arc};

use margo::{Head, ManifestList, ManifestVersion, NodeEntry, NodeName};

/// Who one node is and what it shall run, by digest.
pub type NodeDesired = Arc<NodeEntry>;

/// A believed head and a list, which may or may not belong together. "The set in force" is one that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredSet {
    /// The head; its signatures were verified before.
    pub head: Head,
    /// Who each node is, and what it shall run.
    pub list: ManifestList,
}

impl DesiredSet {
    /// Whether the list is exactly the one that the head was signed for.
    pub fn is_whole(&self) -> bool {
        self.list.digest() == self.head.list
    }

    /// The nodes that differ from those of another set, with what they shall run.
    pub fn changed_since<'a>(
        &'a self,
        earlier: Option<&'a Self>,
    ) -> impl Iterator<Item = (&'a NodeName, &'a NodeDesired)> {
        let folders = self.list.folders().filter(move |folder| {
            let before = earlier.and_then(|earlier| earlier.list.folder_digest(*folder));
            before != self.list.folder_digest(*folder)
        });
        folders.flat_map(|folder| self.list.folder(folder)).filter_map(move |(node, desired, _)| {
            let before = earlier.and_then(|earlier| earlier.list.get(node));
            (before != Some(desired)).then_some((node, desired))
        })
    }
}

/// What the site holds when something is offered to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held<'a> {
    /// The newest head that was ever in force here. It may outlive its set: the site's stream holds a copy.
    pub floor: Option<&'a Head>,
    /// The set in force; `None` before the first one, and after the file of it was lost.
    pub set: Option<&'a DesiredSet>,
}

/// What becomes of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It comes into force; when a road hears this, it is in force and durable.
    Adopt,
    /// The set in force is this one already; nothing is to be done.
    InForce,
    /// A part of it has not arrived yet; the road brings it with a later offer.
    Incomplete,
    /// It never comes into force, for this reason.
    Refuse(Objection),
}

/// Why an offer never comes into force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// A signature, KEYS or the head itself is not believed; the text says which and why.
    #[error("{0}")]
    Untrusted(String),
    /// A newer version is, or was, in force.
    #[error("version {offered} is older than version {held}, which is in force")]
    Older {
        /// The version of the offer.
        offered: ManifestVersion,
        /// The newest version that was ever in force.
        held: ManifestVersion,
    },
    /// The hub tells two stories under one version.
    #[error("conflict: version {0} is in force with another list")]
    Conflict(ManifestVersion),
    /// The road brought all it has, and it is not what the head was signed for.
    #[error("version {0} is not whole: a document is missing or changed")]
    NotWhole(ManifestVersion),
    /// A node's version lies beyond the head's.
    #[error("node {node} is at version {version}, above the head's version {head}")]
    Ahead {
        /// The node that would be beyond the head.
        node: NodeName,
        /// The version that the offer gives this node.
        version: ManifestVersion,
        /// The version of the head, which no node may be beyond.
        head: ManifestVersion,
    },
    /// A node would take the change for something that it has already.
    #[error("node {node} changed, but its version {version} did not rise above {held}: it would not act on it")]
    NotRisen {
        /// The node whose deployments changed.
        node: NodeName,
        /// The version that the offer gives this node.
        version: ManifestVersion,
        /// The version of this node in the set in force.
        held: ManifestVersion,
    },
    /// The NODE file of a node says nothing.
    #[error("node {node}: {reason}")]
    Identity {
        /// The node that nobody can tell who it is.
        node: NodeName,
        /// What is wrong with the file.
        reason: String,
    },
    /// A node's documents are more than one message can carry.
    #[error("the documents of node {0} are larger than {max} bytes", max = bus::MAX_PLAIN)]
    TooLarge(NodeName),
}

/// The one decision. The list binds every document, every identity and every node's version to the signed head; that versions
/// rise is checked here, for the nodes that changed. `complete`: the road has nothing more to bring for this head.
pub fn judge(held: Held<'_>, offered: &DesiredSet, complete: bool) -> Verdict {
    let version = offered.head.version;
    if let Some(floor) = held.floor {
        match version.cmp(&floor.version) {
            Ordering::Less => {
                return Verdict::Refuse(Objection::Older { offered: version, held: floor.version });
            }
            Ordering::Equal if offered.head.list != floor.list => {
                return Verdict::Refuse(Objection::Conflict(version));
            }
            Ordering::Equal if held.set.is_some_and(|set| set.head.version == version) => return Verdict::InForce,
            Ordering::Equal | Ordering::Greater => {}
        }
    }
    if !offered.is_whole() {
        return if complete { Verdict::Refuse(Objection::NotWhole(version)) } else { Verdict::Incomplete };
    }
    for (node, desired) in offered.changed_since(held.set) {
        let (node, node_version) = (node.clone(), desired.version);
        if node_version > version {
            return Verdict::Refuse(Objection::Ahead { node, version: node_version, head: version });
        }
        if let Some(before) = held.set.and_then(|set| set.list.get(&node))
            && (&before.deployments, &before.identity) != (&desired.deployments, &desired.identity)
            && before.version >= node_version
        {
            return Verdict::Refuse(Objection::NotRisen { node, version: node_version, held: before.version });
        }
    }
    Verdict::Adopt
}

#[cfg(test)]
mod tests;
