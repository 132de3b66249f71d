//! What this node shall run: verified whole before any of it counts, kept on disk, loaded before any network is there.
//!
//! **Layout.** One file holds the version and every document with its digest.
//!
//! **Updates.** The file is replaced whole and synced before anything is started, stopped or reported because of it;
//! only the preparation of new revisions, which nobody sees, may begin earlier.
//!
//! **After a crash.** The old file or the new one is there. Either is verified again, document by document, before it
//! counts.

use std::{collections::BTreeMap, io, path::Path};

use bus::{DecodeError, Subject, proto};
use margo::{ApplicationDeployment, DeploymentId, DeviceId, Digest, DocumentError, ManifestVersion, NodeId};
use serde::{Deserialize, Serialize};

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
    /// The sha256 of the document.
    pub digest: Digest,
    /// The version with which this digest was adopted (DEV-21).
    pub adopted: ManifestVersion,
    /// The exact text, whose digest was verified.
    pub document: String,
    pub content: ApplicationDeployment,
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
    /// A document is no ApplicationDeployment.
    #[error(transparent)]
    Document(#[from] DocumentError),
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
            | Self::Document(_)
            | Self::OtherDeployment { .. } => false,
        }
    }
}

/// Verifies what arrived and compares it with what is in force.
pub fn decide(node: &NodeId, held: Option<&Desired>, offered: &proto::DesiredNode) -> Result<Decision, DesiredError> {
    if (offered.client.as_str(), offered.node.as_str()) != (node.client.as_str(), node.node.as_str()) {
        let found = format!("{}/{}", offered.client, offered.node).chars().take(130).collect();
        return Err(DesiredError::OtherNode { found, wanted: node.clone() });
    }
    let version = ManifestVersion::try_from(offered.version)?;
    if let Some(held) = held.filter(|held| held.version > version) {
        return Err(DesiredError::Older { held: held.version, offered: version });
    }
    let adopted_before = |id: &DeploymentId, digest: &Digest| {
        let before = held?.deployments.get(id)?;
        (before.digest == *digest).then_some(before.adopted)
    };
    let mut deployments = BTreeMap::new();
    for entry in &offered.deployments {
        let wrong = |reason: String| DesiredError::Entry { id: entry.id.chars().take(64).collect(), reason };
        let id = entry.id.parse().map_err(|error: margo::InvalidId| wrong(error.to_string()))?;
        let digest = entry.digest.parse().map_err(|error: margo::InvalidDigest| wrong(error.to_string()))?;
        let content = verify(node, id, digest, &entry.document)?;
        let document = String::from_utf8(entry.document.to_vec()).map_err(|error| wrong(error.to_string()))?;
        let adopted = adopted_before(&id, &digest).unwrap_or(version);
        if deployments.insert(id, Deployment { digest, adopted, document, content }).is_some() {
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

fn verify(
    node: &NodeId,
    id: DeploymentId,
    digest: Digest,
    document: &[u8],
) -> Result<ApplicationDeployment, DesiredError> {
    let found = Digest::of(document);
    if found != digest {
        return Err(DesiredError::Digest { id, wanted: digest, found });
    }
    let content = ApplicationDeployment::parse(document, &format!("{}/{id}.yaml", Subject::DesiredNode(node.clone())))?;
    if content.id != id {
        return Err(DesiredError::OtherDeployment { id, found: content.id });
    }
    if content.metadata.device_id != DeviceId::from(node) {
        return Err(DesiredError::OtherDevice { id, device: content.metadata.device_id });
    }
    Ok(content)
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: ManifestVersion,
    deployments: Vec<DeploymentOnDisk>,
}

#[derive(Serialize, Deserialize)]
struct DeploymentOnDisk {
    id: DeploymentId,
    digest: Digest,
    adopted: ManifestVersion,
    document: String,
}

/// Writes the desired state so that it survives a power cut. From then on it is in force. Blocks.
pub fn save(path: &Path, desired: &Desired) -> io::Result<()> {
    let deployments = desired.deployments.iter().map(|(id, deployment)| DeploymentOnDisk {
        id: *id,
        digest: deployment.digest,
        adopted: deployment.adopted,
        document: deployment.document.clone(),
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
    let file: OnDisk = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut deployments = BTreeMap::new();
    for DeploymentOnDisk { id, digest, adopted, document } in file.deployments {
        let content = verify(node, id, digest, document.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        deployments.insert(id, Deployment { digest, adopted, document, content });
    }
    Ok(Some(Desired { version: file.version, deployments }))
}

#[cfg(test)]
#[path = "desired/tests.rs"]
mod tests;
