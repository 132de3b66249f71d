//! What this node shall run: verified whole before any of it counts, kept on disk, loaded before any network is there.
//!
//! **The way back.** When a deployment is to change, the revision that was installed last is kept beside the wanted one until
//! that one is installed. A wanted revision that fails before is refused: the kept one is in force again. The refusal stands in
//! the file, so that neither a restart nor an order for something else tries the refused revision again; another revision of
//! this deployment does, or an operator.
//!
//! **Layout.** One file holds the version and every document with its digest, and the documents of ways back.
//!
//! **Updates.** The file is replaced whole and synced before anything is started, stopped or reported because of it;
//! only the preparation of new revisions, which nobody sees, may begin earlier.
//!
//! **After a crash.** The old file or the new one is there. Either is verified again, document by document, before it
//! counts.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::Arc,
};

use bus::{DecodeError, Subject, proto};
use margo::{
    ApplicationDeployment, ComponentName, DeployedComponent, DeploymentId, DeviceId, Digest, ManifestVersion, NodeId,
};
use serde::{Deserialize, Serialize};

use crate::status::Failure;

/// The desired state in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The manifest version at which this node last changed.
    pub version: ManifestVersion,
    /// Every deployment that shall run.
    pub deployments: BTreeMap<DeploymentId, Deployment>,
}

/// One deployment as it was adopted.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// The revision that the site wants.
    pub wanted: Arc<Revision>,
    /// The version with which the wanted revision was adopted (DEV-21).
    pub adopted: ManifestVersion,
    /// Where to go back to when the wanted revision fails. There is none once it is installed, nor when nothing was
    /// installed before it, nor when its package says that a failed update shall be left as it is.
    pub way_back: Option<WayBack>,
}

/// One revision of a deployment. It never changes, so all desired states that have it share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// The sha256 of the document.
    pub digest: Digest,
    /// The exact text, whose digest was verified.
    pub document: String,
    /// What the document says, as far as every look needs it, or why this version of the agent cannot read it. That fails the
    /// deployment and nothing else.
    pub content: Result<Content, String>,
}

/// What has to be known of a document all the time. The whole of it takes several times as much memory, so whoever needs more has it
/// read again ([`Revision::read`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The name by which people know the deployment.
    pub name: String,
    /// The components in their order.
    pub components: Vec<Place>,
    /// Whether an update to this revision that fails is left as it is.
    pub leaves_failed_update: bool,
}

/// The place of a component in the order of its deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The component.
    pub name: ComponentName,
    /// Whether those behind it wait until it is up.
    pub is_awaited: bool,
}

impl Content {
    /// Takes from a document what has to be known.
    pub fn of(document: &ApplicationDeployment) -> Self {
        let profile = &document.spec.profile;
        Self {
            name: document.metadata.name.clone(),
            components: profile.components.iter().map(Place::of).collect(),
            leaves_failed_update: profile.leaves_failed_update(),
        }
    }
}

impl Place {
    /// Takes from a component what has to be known. It is awaited unless the document says otherwise.
    pub fn of(component: &DeployedComponent) -> Self {
        Self { name: component.name.clone(), is_awaited: component.properties.wait != Some(false) }
    }
}

impl Revision {
    /// Reads the whole document; `None` when this version of the agent cannot.
    pub fn read(&self) -> Option<ApplicationDeployment> {
        self.content.as_ref().ok()?;
        ApplicationDeployment::parse(self.document.as_bytes(), "the document").ok()
    }
}

/// The way back from an update that is not installed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct WayBack {
    /// The revision that was installed last.
    pub installed: Arc<Revision>,
    /// Why the wanted revision was refused after it had failed. While it is, the installed one is in force.
    pub refused: Option<Failure>,
}

impl Deployment {
    /// Returns the revision that shall run.
    pub fn in_force(&self) -> &Revision {
        match &self.way_back {
            Some(WayBack { installed, refused: Some(_) }) => installed,
            _ => &self.wanted,
        }
    }

    /// Returns why the wanted revision was refused, if it was.
    pub fn refused(&self) -> Option<&Failure> {
        self.way_back.as_ref()?.refused.as_ref()
    }

    /// Whether the wanted revision has yet to prove itself, and there is a way back if it does not.
    pub fn is_on_trial(&self) -> bool {
        self.way_back.as_ref().is_some_and(|way_back| way_back.refused.is_none())
    }

    /// Returns the revision that has this digest and this text, if it is at hand. It was verified when it came.
    fn revision(&self, digest: Digest, document: &[u8]) -> Option<&Arc<Revision>> {
        let way_back = self.way_back.as_ref().map(|way_back| &way_back.installed);
        let is_same = |revision: &&Arc<Revision>| revision.digest == digest && revision.document.as_bytes() == document;
        [Some(&self.wanted), way_back].into_iter().flatten().find(is_same)
    }

    /// Returns the way back for a revision that shall take the place of the wanted one. `is_installed` says whether the
    /// wanted one was.
    fn way_back_from(&self, next: &Arc<Revision>, is_installed: bool) -> Option<WayBack> {
        if next.digest == self.wanted.digest {
            return self.way_back.clone();
        }
        let before = match &self.way_back {
            _ if is_installed => &self.wanted,
            Some(way_back) => &way_back.installed,
            None => return None,
        };
        let leaves = next.content.as_ref().is_ok_and(|content| content.leaves_failed_update);
        if before.digest == next.digest || before.content.is_err() || leaves {
            return None;
        }
        Some(WayBack { installed: before.clone(), refused: None })
    }
}

/// What a desired state that arrived means for the one in force.
#[derive(Debug, PartialEq)]
pub enum Decision {
    /// What arrived is newer and verified.
    Adopt(Desired),
    /// What arrived is the one in force.
    Keep,
}

/// Why a desired state is refused whole. The last good one stays in force.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    /// The payload is not a message of this kind.
    #[error("the message does not decode: {0}")]
    Malformed(#[from] DecodeError),
    /// The version is zero or too large.
    #[error(transparent)]
    Version(#[from] margo::InvalidId),
    /// The message is about another node.
    #[error("the message is for node {found}, not for {wanted}")]
    OtherNode {
        /// The node that the message names, cut to 130 characters.
        found: String,
        wanted: NodeId,
    },
    /// Somebody tries to bring back an older state, or a road lags behind (DEV-14).
    #[error("version {offered} is older than version {held} in force")]
    Older { held: ManifestVersion, offered: ManifestVersion },
    /// The version is in force with another content, and one version has one content.
    #[error("version {0} is in force with another content")]
    Conflict(ManifestVersion),
    /// The same deployment is there more than once.
    #[error("deployment {0} is there twice")]
    Twice(DeploymentId),
    /// An entry has a name that is no deployment id, or a digest of an unknown form (DEV-15).
    #[error("deployment {id:?}: {reason}")]
    Entry {
        /// The name as the message has it.
        id: String,
        /// The rule that the entry breaks.
        reason: String,
    },
    /// The bytes are not those that were signed for (DEV-15).
    #[error("deployment {id}: the document has the digest {found}, not {wanted}")]
    Digest {
        id: DeploymentId,
        /// The digest that the message says.
        wanted: Digest,
        /// The digest that the bytes have.
        found: Digest,
    },
    /// The document's own id is another one.
    #[error("deployment {id}: the document is that of deployment {found}")]
    OtherDeployment {
        /// The deployment under whose id the document stands.
        id: DeploymentId,
        /// The deployment that the document names.
        found: DeploymentId,
    },
    /// A deployment is for another node.
    #[error("deployment {id} is for device {device}")]
    OtherDevice {
        id: DeploymentId,
        /// The device that it is for.
        device: DeviceId,
    },
}

impl DesiredError {
    /// Whether somebody may be trying to have this node run what it should not (DEV-14, DEV-15).
    pub fn is_security_event(&self) -> bool {
        match self {
            Self::OtherNode { .. }
            | Self::Older { .. }
            | Self::Conflict(_)
            | Self::Digest { .. }
            | Self::OtherDevice { .. } => true,
            Self::Malformed(_)
            | Self::Version(_)
            | Self::Twice(_)
            | Self::Entry { .. }
            | Self::OtherDeployment { .. } => false,
        }
    }
}

/// Verifies what arrived and compares it with what is in force. `installed` holds the wanted revisions in force that have been
/// installed: those that an update may go back to.
pub fn decide(
    node: &NodeId,
    held: Option<&Desired>,
    installed: &BTreeSet<DeploymentId>,
    offered: &proto::DesiredNode,
) -> Result<Decision, DesiredError> {
    if (offered.client.as_str(), offered.node.as_str()) != (node.client.as_str(), node.node.as_str()) {
        let found = format!("{}/{}", offered.client, offered.node).chars().take(130).collect();
        return Err(DesiredError::OtherNode { found, wanted: node.clone() });
    }
    let version = ManifestVersion::try_from(offered.version)?;
    if let Some(held) = held.filter(|held| held.version > version) {
        return Err(DesiredError::Older { held: held.version, offered: version });
    }
    let mut deployments = BTreeMap::new();
    for entry in &offered.deployments {
        let wrong = |reason: String| DesiredError::Entry { id: entry.id.chars().take(64).collect(), reason };
        let id = entry.id.parse().map_err(|error: margo::InvalidId| wrong(error.to_string()))?;
        let digest = entry.digest.parse().map_err(|error: margo::InvalidDigest| wrong(error.to_string()))?;
        let before = held.and_then(|held| held.deployments.get(&id));
        let wanted = match before.and_then(|before| before.revision(digest, &entry.document)) {
            Some(at_hand) => at_hand.clone(),
            None => {
                let content = verify(node, id, digest, &entry.document)?;
                let document = String::from_utf8(entry.document.to_vec()).map_err(|error| wrong(error.to_string()))?;
                Arc::new(Revision { digest, document, content })
            }
        };
        let same = before.filter(|before| before.wanted.digest == digest);
        let adopted = same.map_or(version, |before| before.adopted);
        let way_back = before.and_then(|before| before.way_back_from(&wanted, installed.contains(&id)));
        if deployments.insert(id, Deployment { wanted, adopted, way_back }).is_some() {
            return Err(DesiredError::Twice(id));
        }
    }
    let next = Desired { version, deployments };
    match held {
        Some(held) if held.version == version && *held == next => Ok(Decision::Keep),
        Some(held) if held.version == version => Err(DesiredError::Conflict(version)),
        _ => Ok(Decision::Adopt(next)),
    }
}

/// Verifies that a document is the one that was signed for, and that it is about this deployment and this node. Returns what
/// it says, or why it cannot be read.
fn verify(
    node: &NodeId,
    id: DeploymentId,
    digest: Digest,
    document: &[u8],
) -> Result<Result<Content, String>, DesiredError> {
    let found = Digest::of(document);
    if found != digest {
        return Err(DesiredError::Digest { id, wanted: digest, found });
    }
    let file = format!("{}/{id}.yaml", Subject::DesiredNode(node.clone()));
    let content = match ApplicationDeployment::parse(document, &file) {
        Ok(content) => content,
        Err(unreadable) => return Ok(Err(unreadable.to_string())),
    };
    if content.id != id {
        return Err(DesiredError::OtherDeployment { id, found: content.id });
    }
    if content.metadata.device_id != DeviceId::from(node) {
        return Err(DesiredError::OtherDevice { id, device: content.metadata.device_id });
    }
    Ok(Ok(Content::of(&content)))
}

#[derive(Serialize, Deserialize)]
struct OnDisk<'a> {
    version: ManifestVersion,
    deployments: Vec<DeploymentOnDisk<'a>>,
}

#[derive(Serialize, Deserialize)]
struct DeploymentOnDisk<'a> {
    id: DeploymentId,
    digest: Digest,
    adopted: ManifestVersion,
    document: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    way_back: Option<WayBackOnDisk<'a>>,
}

#[derive(Serialize, Deserialize)]
struct WayBackOnDisk<'a> {
    digest: Digest,
    document: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Failure>,
}

/// Writes the desired state so that it survives a power cut. From then on it is in force. Blocks.
pub fn save(path: &Path, desired: &Desired) -> io::Result<()> {
    let deployments = desired.deployments.iter().map(|(id, deployment)| DeploymentOnDisk {
        id: *id,
        digest: deployment.wanted.digest,
        adopted: deployment.adopted,
        document: Cow::Borrowed(&deployment.wanted.document),
        way_back: deployment.way_back.as_ref().map(|WayBack { installed, refused }| WayBackOnDisk {
            digest: installed.digest,
            document: Cow::Borrowed(&installed.document),
            refused: refused.clone(),
        }),
    });
    let file = OnDisk { version: desired.version, deployments: deployments.collect() };
    // The values of parameters in it are nobody else's business.
    disk::write_private(path, &serde_json::to_vec(&file)?)
}

/// Why the desired state on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("reading {path}")]
    Read { path: String, source: io::Error },
    /// The file is not what [`save`] wrote.
    #[error("{path} is damaged: {reason}")]
    Damaged { path: String, reason: String },
}

/// Reads what [`save`] wrote and verifies it again; `None` when nothing was ever adopted.
pub fn load(path: &Path, node: &NodeId) -> Result<Option<Desired>, LoadError> {
    let read = |source| LoadError::Read { path: path.display().to_string(), source };
    let Some(bytes) = disk::read_optional(path).map_err(read)? else { return Ok(None) };
    let damaged = |reason: String| LoadError::Damaged { path: path.display().to_string(), reason };
    let file: OnDisk<'_> = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let revision = |id: DeploymentId, digest: Digest, document: Cow<'_, str>| {
        let content = verify(node, id, digest, document.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        Ok(Arc::new(Revision { digest, document: document.into_owned(), content }))
    };
    let mut deployments = BTreeMap::new();
    for DeploymentOnDisk { id, digest, adopted, document, way_back } in file.deployments {
        let wanted = revision(id, digest, document)?;
        let way_back = match way_back {
            None => None,
            Some(WayBackOnDisk { digest, document, refused }) => {
                let installed = revision(id, digest, document)?;
                // A newer agent kept it, and this one cannot read it: there is nothing to go back to.
                installed.content.is_ok().then_some(WayBack { installed, refused })
            }
        };
        deployments.insert(id, Deployment { wanted, adopted, way_back });
    }
    Ok(Some(Desired { version: file.version, deployments }))
}

#[cfg(test)]
#[path = "desired/tests.rs"]
mod tests;
