//! What shall run, and the content that it is made of.

use std::{collections::BTreeMap, fmt};

use margo::{ComponentName, DeploymentId, Digest, LockedImages, ParameterValue};
use oci::{ArtifactManifest, ContentStore, Descriptor, RepositoryName};

/// One component of one deployment on this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct WorkloadId {
    /// The deployment that the component belongs to.
    pub deployment: DeploymentId,
    /// The component, whose name is unique in the deployment.
    pub component: ComponentName,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.deployment, self.component)
    }
}

/// A component's artifact: the manifest, read and verified, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The repository in which the site's store holds the manifest.
    pub repository: RepositoryName,
    /// The sha256 of the manifest, from the deployment's lock.
    pub digest: Digest,
    /// The manifest, whose bytes have that digest.
    pub manifest: ArtifactManifest,
}

impl Artifact {
    /// Returns every layer of the artifact as content that is needed.
    pub fn layers(&self) -> impl Iterator<Item = Need> {
        self.manifest.layers.iter().map(|layer| self.blob(layer))
    }

    /// Returns one blob of the artifact as content that is needed.
    pub fn blob(&self, descriptor: &Descriptor) -> Need {
        Need {
            repository: self.repository.clone(),
            kind: ContentKind::Blob,
            digest: descriptor.digest,
            size: descriptor.size,
        }
    }
}

/// How the site's store gives a piece of content out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContentKind {
    /// A manifest, which names further content.
    Manifest,
    /// A layer or a config.
    Blob,
}

/// A piece of content that a workload needs on the node's disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    /// The repository in which the site's store holds the content.
    pub repository: RepositoryName,
    /// Whether it is asked for as a manifest or as a blob.
    pub kind: ContentKind,
    /// The sha256 of the content.
    pub digest: Digest,
    /// The length of the content in bytes. No more than this is fetched.
    pub size: u64,
}

/// What shall run: everything that a runtime has to know of one component.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The component and its deployment.
    pub id: WorkloadId,
    /// The digest of all that the component is made of: artifact, values, settings. A workload that runs with another digest
    /// is replaced. It is the agent's name for this revision of the component, and a runtime compares it and nothing more.
    pub digest: Digest,
    /// What the component is made of.
    pub artifact: Artifact,
    /// The parameters that target this component, by pointer. Their types are those of the document, because Helm's values
    /// tell the number 1 from the text "1"; a runtime that wants variables takes [`Workload::environment`].
    pub values: BTreeMap<String, ParameterValue>,
    /// The container images that the deployment's lock names for this component; none where the artifact is all there is.
    pub images: LockedImages,
    /// `x-edgewright-extensions` of the component, as the document has it; `null` when there is none.
    pub settings: serde_json::Value,
    /// The store that holds the artifact and everything that [`crate::Runtime::needs`] named, verified.
    pub content: ContentStore,
}

impl Workload {
    /// Returns the values as a process receives them: as texts, by the name of a variable.
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.values.iter().map(|(pointer, value)| (pointer.clone(), value.to_env())).collect()
    }
}
