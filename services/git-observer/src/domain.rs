//! What may be published, and what of it has to be. No git, no bus, no clock.

use std::{cmp::Ordering, collections::BTreeMap};

use bus::proto;
use git_state::{InvalidManifest, Manifest, NodeManifest, VerifyError, layout};
use identity::{
    PublicKey,
    trust::{Untrusted, verify_head, verify_keys},
};
use margo::{ClientName, Digest, Head, KeySet, NodeName, TenantName};

/// Why a tip is not published. What was published before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Head or KEYS is missing.
    #[error("the file {0} is missing")]
    Missing(&'static str),
    /// Head or KEYS is not believed.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// The commit is not believed.
    #[error(transparent)]
    Commit(VerifyError),
    /// The files are no manifest.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// The head is about another version than the files.
    #[error("the head is of version {head}, the files are of version {files}")]
    Version {
        /// In the head.
        head: u64,
        /// In the file `VERSION`.
        files: u64,
    },
    /// The head is about other documents.
    #[error("the head names the list {head}, the files make {files}")]
    List {
        /// In the head.
        head: Digest,
        /// Computed.
        files: Digest,
    },
    /// The repository went back.
    #[error("the repository is at version {found}, version {published} is published")]
    Older {
        /// In the repository.
        found: u64,
        /// On the bus.
        published: u64,
    },
    /// The repository tells two stories under one version.
    #[error("version {0} is published with another list")]
    Conflict(u64),
}

/// Whose tip is looked at, and by which key it is believed.
pub struct Trust<'a> {
    /// The tenant's root key.
    pub root: &'a PublicKey,
    /// Whose.
    pub tenant: &'a TenantName,
    /// Which client's.
    pub client: &'a ClientName,
}

/// A head that is believed, with the messages that carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct Believed {
    /// What it says.
    pub head: Head,
    /// Number of its KEYS.
    pub keys: u64,
    /// As it travels.
    pub message: proto::DesiredHead,
}

/// A tip that may be published.
#[derive(Clone, Debug, PartialEq)]
pub struct Tip {
    /// Its head.
    pub head: Believed,
    /// What each node shall run.
    pub nodes: BTreeMap<NodeName, NodeManifest>,
}

impl Trust<'_> {
    /// Believes a head as it travels. `held` is the highest number of KEYS seen.
    pub fn believe(&self, message: proto::DesiredHead, held: u64) -> Result<(Believed, KeySet), Untrusted> {
        let keys = verify_keys(self.root, self.tenant, held, &message.keys, &message.keys_signature)?;
        let head = verify_head(&keys, self.client, &message.head, &message.head_signature)?;
        Ok((Believed { head, keys: keys.number, message }, keys))
    }

    /// Checks everything that one commit says: its signature (`signed_by`), its keys, its head, and that the head is
    /// about these files.
    pub fn check(
        &self,
        commit: &str,
        files: &BTreeMap<String, Vec<u8>>,
        held: u64,
        signed_by: impl FnOnce(&KeySet) -> Result<(), VerifyError>,
    ) -> Result<Tip, Refusal> {
        let file = |path| files.get(path).cloned().map(Into::into).ok_or(Refusal::Missing(path));
        let message = proto::DesiredHead {
            head: file(layout::HEAD)?,
            head_signature: file(layout::HEAD_SIGNATURE)?,
            keys: file(layout::KEYS)?,
            keys_signature: file(layout::KEYS_SIGNATURE)?,
            commit: commit.to_owned(),
        };
        let (head, keys) = self.believe(message, held)?;
        signed_by(&keys).map_err(Refusal::Commit)?;
        let manifest = Manifest::read(files)?;
        if manifest.version != head.head.version {
            return Err(Refusal::Version { head: head.head.version.get(), files: manifest.version.get() });
        }
        let list = manifest.list().digest();
        if list != head.head.list {
            return Err(Refusal::List { head: head.head.list, files: list });
        }
        Ok(Tip { head, nodes: manifest.nodes })
    }
}

impl Tip {
    /// The version from which on nodes have changed since `published`; nothing when all is published. Whoever holds a
    /// version never sees another story under it, nor an older one after it.
    pub fn since(&self, published: Option<&Believed>) -> Result<Option<u64>, Refusal> {
        let Some(published) = published else { return Ok(Some(0)) };
        let (ours, theirs) = (&self.head.head, &published.head);
        let (found, published_version) = (ours.version.get(), theirs.version.get());
        match found.cmp(&published_version) {
            Ordering::Less => Err(Refusal::Older { found, published: published_version }),
            Ordering::Equal if ours.list != theirs.list => Err(Refusal::Conflict(found)),
            Ordering::Equal if self.head.message == published.message => Ok(None),
            Ordering::Equal | Ordering::Greater => Ok(Some(published_version)),
        }
    }

    /// Nodes that have changed since a version.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(move |(_, node)| node.version.get() > version).map(|(name, _)| name)
    }

    /// A node's message. One that the repository does not know, because it has left, shall run nothing.
    pub fn message(&self, node: &NodeName) -> proto::DesiredNode {
        let Some(node) = self.nodes.get(node) else {
            return proto::DesiredNode { version: self.head.head.version.get(), deployments: Vec::new() };
        };
        let deployment = |(id, document): (&margo::DeploymentId, &Vec<u8>)| proto::DesiredDeployment {
            id: id.to_string(),
            digest: Digest::of(document).to_string(),
            document: document.clone().into(),
        };
        proto::DesiredNode { version: node.version.get(), deployments: node.documents.iter().map(deployment).collect() }
    }

    /// Whether a node's message on the bus has to be replaced.
    pub fn differs(&self, node: &NodeName, published: Option<&proto::DesiredNode>) -> bool {
        match published {
            None => self.nodes.contains_key(node),
            // Which version a node that has left got its nothing at does not matter.
            Some(published) if !self.nodes.contains_key(node) => !published.deployments.is_empty(),
            Some(published) => *published != self.message(node),
        }
    }
}

#[cfg(test)]
mod tests;
