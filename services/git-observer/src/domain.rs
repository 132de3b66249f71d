//! Which tip may be published, and which messages then have to be. No git, no bus, no clock.

use std::cmp::Ordering;

use bus::proto;
use bytes::Bytes;
use git_state::{InvalidManifest, VerifyError, layout};
use identity::{
    PublicKey,
    trust::{Untrusted, verify_head, verify_keys},
};
use margo::{
    ClientName, DeploymentId, Digest, Head, KeySet, ManifestList, ManifestVersion, NodeEntry, NodeName, TenantName,
};

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
    /// Who each node is and what it shall run, by digest: what the head was signed for.
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

    /// Checks the files at the top of one commit, which `file` reads: its key set and its head; and the commit's own signature,
    /// which `signed_by` verifies. `held` is the highest number of a key set that was seen.
    pub fn check<E: From<UntrustedTip>>(
        &self,
        commit: &str,
        file: impl Fn(&'static str) -> Result<Option<Vec<u8>>, E>,
        held: u64,
        signed_by: impl FnOnce(&KeySet) -> Result<(), VerifyError>,
    ) -> Result<Believed, E> {
        let file = |path| Ok::<Bytes, E>(file(path)?.ok_or(UntrustedTip::Missing(path))?.into());
        let message = proto::DesiredHead {
            head: file(layout::HEAD)?,
            head_signature: file(layout::HEAD_SIGNATURE)?,
            keys: file(layout::KEYS)?,
            keys_signature: file(layout::KEYS_SIGNATURE)?,
            commit: commit.to_owned(),
            list: Default::default(),
        };
        let (head, keys) = self.believe(message, held).map_err(UntrustedTip::from)?;
        signed_by(&keys).map_err(UntrustedTip::Commit)?;
        Ok(head)
    }
}

impl Believed {
    /// Checks that the head is about exactly these files: the version that they have, and the list that they make.
    pub fn with_files(mut self, version: ManifestVersion, list: ManifestList) -> Result<Tip, UntrustedTip> {
        if version != self.head.version {
            return Err(UntrustedTip::Version { head: self.head.version.get(), files: version.get() });
        }
        let text = list.top_text();
        let digest = Digest::of(text.as_bytes());
        if digest != self.head.list {
            return Err(UntrustedTip::List { head: self.head.list, files: digest });
        }
        self.message.list = text.as_bytes().to_vec().into();
        Ok(Tip { head: self, list })
    }
}

impl Tip {
    /// Fails when a newer key set was seen than that of this tip: `held` is the highest number.
    pub fn not_before(&self, held: u64) -> Result<(), UntrustedTip> {
        let found = self.head.keys;
        if found < held { Err(Untrusted::OldKeys { found, held }.into()) } else { Ok(()) }
    }

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

    /// The message that tells a node what to run. A node that the repository does not know has left, and shall run
    /// nothing. `file` reads a deployment's document or, without a deployment, the NODE file.
    pub fn message<E>(
        &self,
        name: &NodeName,
        mut file: impl FnMut(Option<DeploymentId>, Digest) -> Result<Bytes, E>,
    ) -> Result<proto::DesiredNode, E> {
        let (client, node) = (self.head.head.client.to_string(), name.to_string());
        let nothing = proto::DesiredNode { client, node, ..proto::DesiredNode::default() };
        let Some(entry) = self.list.get(name) else {
            return Ok(proto::DesiredNode { version: self.head.head.version.get(), ..nothing });
        };
        let identity = entry.identity.map(|digest| file(None, digest)).transpose()?.unwrap_or_default();
        let mut deployments = Vec::new();
        for (id, digest) in entry.deployments.iter() {
            let document = file(Some(*id), *digest)?;
            let digest = Digest::of(&document).to_string();
            deployments.push(proto::DesiredDeployment { id: id.to_string(), digest, document });
        }
        Ok(proto::DesiredNode { version: entry.version.get(), deployments, identity, ..nothing })
    }

    /// Whether a node's message on the bus has to be replaced. It takes no file to tell: the list has their digests.
    pub fn differs(&self, node: &NodeName, published: Option<&proto::DesiredNode>) -> bool {
        match (self.list.get(node), published) {
            (entry, None) => entry.is_some(),
            // A node that has left may hold its empty message under any version.
            (None, Some(published)) => !published.deployments.is_empty(),
            (Some(entry), Some(published)) => !self.is_said_by(node, entry, published),
        }
    }

    /// Whether a message says of this node what the list says.
    fn is_said_by(&self, node: &NodeName, entry: &NodeEntry, message: &proto::DesiredNode) -> bool {
        let identity = (!message.identity.is_empty()).then(|| Digest::of(&message.identity));
        let deployments = message.deployments.iter().map(|proto::DesiredDeployment { id, digest, document }| {
            let is_of = Digest::of(document);
            (id.clone(), (is_of.to_string() == *digest).then_some(is_of))
        });
        message.client == self.head.head.client.as_str()
            && message.node == node.as_str()
            && message.version == entry.version.get()
            && identity == entry.identity
            && deployments.eq(entry.deployments.iter().map(|(id, digest)| (id.to_string(), Some(*digest))))
    }
}

#[cfg(test)]
mod tests;
