//! Which tip may be published, and which messages then have to be. No git, no bus, no clock.

use std::{cmp::Ordering, collections::BTreeMap};

use bus::proto;
use git_state::{InvalidManifest, Manifest, NodeManifest, VerifyError, layout};
use identity::{
    PublicKey,
    trust::{Untrusted, verify_head, verify_keys},
};
use margo::{ClientName, Digest, Head, KeySet, ManifestList, NodeName, TenantName};

/// Why a tip is not published. What was published before stays in force until a later tip is good.
#[derive(Debug, thiserror::Error)]
pub enum UntrustedTip {
    /// The head, the key set or one of their signatures is not in the commit.
    #[error("the file {0} is missing")]
    Missing(&'static str),
    /// The key set or the head is malformed, about somebody else, not signed as it has to be, or the key set is older
    /// than one that was seen.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// No key in force signed the commit.
    #[error(transparent)]
    Commit(VerifyError),
    /// The files of the commit make no manifest.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// The signed head names another version than the file `VERSION`.
    #[error("the head is of version {head}, the files are of version {files}")]
    Version { head: u64, files: u64 },
    /// The signed head names another list than the documents of the commit make.
    #[error("the head names the list {head}, the files make {files}")]
    List { head: Digest, files: Digest },
    /// The repository is at a lower version than the one on the bus, as after a restored backup.
    #[error("the repository is at version {found}, version {published} is published")]
    Older { found: u64, published: u64 },
    /// The version is on the bus with another list. A client that holds it would never see the difference.
    #[error("version {0} is published with another list")]
    Conflict(u64),
}

/// What a tip is held against: it has to be of this client, and to lead back to this root key.
pub struct Trust<'a> {
    pub root: &'a PublicKey,
    pub tenant: &'a TenantName,
    pub client: &'a ClientName,
}

/// A head whose signatures lead back to the root key.
#[derive(Clone, Debug, PartialEq)]
pub struct Believed {
    pub head: Head,
    /// Number of the key set that signed the head.
    pub keys: u64,
    /// The message that carries the head with its signature and its key set.
    pub message: proto::DesiredHead,
}

/// A tip that may be published, because everything in it is what its believed head is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Tip {
    pub head: Believed,
    /// Who each node is, and what it shall run.
    pub nodes: BTreeMap<NodeName, NodeManifest>,
    /// The same by digest: what the head was signed for.
    pub list: ManifestList,
}

impl Trust<'_> {
    /// Checks the signatures of a head from a message. Fails also when the number of its key set is lower than `held`,
    /// the highest one that was seen: an old key set may name a key that was stolen since.
    pub fn believe(&self, message: proto::DesiredHead, held: u64) -> Result<(Believed, KeySet), Untrusted> {
        let keys = verify_keys(self.root, self.tenant, held, &message.keys, &message.keys_signature)?;
        let head = verify_head(&keys, self.client, &message.head, &message.head_signature)?;
        Ok((Believed { head, keys: keys.number, message }, keys))
    }

    /// Checks all that one commit says: its key set, its head, its own signature (which `signed_by` verifies), and that
    /// the head is about exactly these files. `held` is the highest number of a key set that was seen.
    pub fn check(
        &self,
        commit: &str,
        files: &BTreeMap<String, Vec<u8>>,
        held: u64,
        signed_by: impl FnOnce(&KeySet) -> Result<(), VerifyError>,
    ) -> Result<Tip, UntrustedTip> {
        let file = |path| files.get(path).cloned().map(Into::into).ok_or(UntrustedTip::Missing(path));
        let message = proto::DesiredHead {
            head: file(layout::HEAD)?,
            head_signature: file(layout::HEAD_SIGNATURE)?,
            keys: file(layout::KEYS)?,
            keys_signature: file(layout::KEYS_SIGNATURE)?,
            commit: commit.to_owned(),
            list: Default::default(),
        };
        let (mut head, keys) = self.believe(message, held)?;
        signed_by(&keys).map_err(UntrustedTip::Commit)?;
        let manifest = Manifest::read(files)?;
        if manifest.version != head.head.version {
            return Err(UntrustedTip::Version { head: head.head.version.get(), files: manifest.version.get() });
        }
        let list = manifest.list();
        if list.digest() != head.head.list {
            return Err(UntrustedTip::List { head: head.head.list, files: list.digest() });
        }
        head.message.list = list.top_text().into_bytes().into();
        Ok(Tip { head, nodes: manifest.nodes, list })
    }
}

impl Tip {
    /// Returns the version that is published, after which nodes may have changed (0 when nothing is published), or
    /// `None` when this tip is published already. Fails when the tip would take clients back to an older version, or
    /// give them another list under the same version (WFM-17).
    pub fn since(&self, published: Option<&Believed>) -> Result<Option<u64>, UntrustedTip> {
        let Some(published) = published else { return Ok(Some(0)) };
        let (ours, theirs) = (&self.head.head, &published.head);
        let (found, published_version) = (ours.version.get(), theirs.version.get());
        match found.cmp(&published_version) {
            Ordering::Less => Err(UntrustedTip::Older { found, published: published_version }),
            Ordering::Equal if ours.list != theirs.list => Err(UntrustedTip::Conflict(found)),
            Ordering::Equal if self.head.message == published.message => Ok(None),
            Ordering::Equal | Ordering::Greater => Ok(Some(published_version)),
        }
    }

    /// The nodes whose documents changed after this version.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = &NodeName> {
        self.nodes.iter().filter(move |(_, node)| node.version.get() > version).map(|(name, _)| name)
    }

    /// The message that tells a node what to run. A node that the repository does not know has left, and shall run
    /// nothing.
    pub fn message(&self, name: &NodeName) -> proto::DesiredNode {
        let (client, node) = (self.head.head.client.to_string(), name.to_string());
        let nothing = proto::DesiredNode { client, node, ..proto::DesiredNode::default() };
        let Some(node) = self.nodes.get(name) else {
            return proto::DesiredNode { version: self.head.head.version.get(), ..nothing };
        };
        let deployment = |(id, document): (&margo::DeploymentId, &Vec<u8>)| proto::DesiredDeployment {
            id: id.to_string(),
            digest: Digest::of(document).to_string(),
            document: document.clone().into(),
        };
        proto::DesiredNode {
            version: node.version.get(),
            deployments: node.documents.iter().map(deployment).collect(),
            identity: node.identity.clone().unwrap_or_default().into(),
            ..nothing
        }
    }

    /// Whether a node's message on the bus has to be replaced.
    pub fn differs(&self, node: &NodeName, published: Option<&proto::DesiredNode>) -> bool {
        match published {
            None => self.nodes.contains_key(node),
            // A node that has left may hold its empty message under any version.
            Some(published) if !self.nodes.contains_key(node) => !published.deployments.is_empty(),
            Some(published) => *published != self.message(node),
        }
    }
}

#[cfg(test)]
mod tests;
