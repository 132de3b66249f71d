//! OCI image manifests and indexes: what the platform writes, and what it reads of those that others wrote.

use std::collections::BTreeMap;

use margo::Digest;
use serde::{Deserialize, Serialize};

use crate::MAX_ARTIFACT;

/// Media types, artifact types and the keys of annotations.
pub mod media {
    /// The media type of an image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// The media type of an image index, which is a list of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// The media type of the config of an artifact that has none; its content is [`EMPTY_CONFIG`].
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// The content of an empty config.
    pub const EMPTY_CONFIG: &[u8] = b"{}";

    /// The artifact type of a Margo application package (APP-02).
    pub const APP: &str = "application/vnd.margo.app.v1+json";
    /// The media type of the layer with `margo.yaml`.
    pub const DESCRIPTION: &str = "application/vnd.margo.app.description.v1+yaml";
    /// The artifact type of a WebAssembly component.
    pub const WASM_ARTIFACT: &str = "application/vnd.wasm.config.v0+json";
    /// The media type of the layer with a WebAssembly component.
    pub const WASM: &str = "application/wasm";

    /// The artifact type of a Compose Archive.
    pub const COMPOSE_ARTIFACT: &str = "application/vnd.org.margo.component.compose+json";
    /// The media type of the one layer of a Compose Archive.
    pub const COMPOSE: &str = "application/vnd.org.margo.component.compose.tar+gzip";

    /// The annotation on the layer of a Compose Archive that says that it is one.
    pub const COMPONENT_TYPE: &str = "org.margo.component.type";
    /// The annotation on the layer of a Compose Archive with the revision of the component.
    pub const COMPONENT_VERSION: &str = "org.margo.component.version";

    /// The annotation in the index of an upload that holds the name which Compose files give a container image.
    pub const IMAGE: &str = "dev.edgewright.image";
    /// The annotation in an index that holds a manifest's `name:tag`.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// The annotation on a layer that holds the name of the file.
    pub const TITLE: &str = "org.opencontainers.image.title";
    /// The annotation on a layer of a package that tells which resource it is.
    pub const RESOURCE: &str = "org.margo.app.resource";
}

/// More blobs than any artifact of the platform has. Each costs a file, two markers and a request.
const MAX_BLOBS: usize = 1_000;

/// The bytes are no manifest that can be served.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not JSON, or a field is missing or wrong.
    #[error("the JSON is not that of an image manifest")]
    Json(#[from] serde_json::Error),
    /// The manifest has another schema version or another media type.
    #[error("it must have schemaVersion 2 and mediaType {MANIFEST}, not {0} and {1:?}", MANIFEST = media::MANIFEST)]
    Kind(u32, String),
    /// The manifest names too many blobs, or blobs that are too large together.
    #[error("it must name at most {MAX_BLOBS} blobs of {MAX_ARTIFACT} bytes together")]
    TooLarge,
}

/// The description of one blob or manifest, with its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content.
    pub media_type: String,
    /// The digest of the content, which is its address.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
    /// In an index, the artifact type of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free data by key. It is sorted, so that the bytes are the same every time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes these bytes, which are digested and counted.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Describes content that was digested before.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, artifact_type: None, annotations: BTreeMap::new() }
    }

    /// Adds one annotation, or replaces the one with the same key.
    pub fn annotated(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }
}

/// An OCI image manifest: one artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactManifest {
    /// The version of the form, which is always 2.
    pub schema_version: u32,
    /// Always [`media::MANIFEST`]; a manifest without a media type is read as if it said so.
    #[serde(default = "manifest_media_type")]
    pub media_type: String,
    /// The kind of artifact, such as [`media::APP`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration, which is empty for the artifacts of the platform.
    pub config: Descriptor,
    /// The files of the artifact.
    pub layers: Vec<Descriptor>,
    /// Free data by key. It is sorted, so that the bytes are the same every time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn manifest_media_type() -> String {
    media::MANIFEST.to_owned()
}

impl ArtifactManifest {
    /// Makes the manifest of an artifact with these layers and an empty config.
    pub fn artifact(artifact_type: &str, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: manifest_media_type(),
            artifact_type: Some(artifact_type.to_owned()),
            config: Descriptor::of(media::EMPTY, media::EMPTY_CONFIG),
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// Reads and checks a manifest. It fails when it is of another kind, or names too much.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.schema_version != 2 || manifest.media_type != media::MANIFEST {
            return Err(ManifestError::Kind(manifest.schema_version, manifest.media_type));
        }
        let size = manifest.blobs().try_fold(0u64, |sum, blob| sum.checked_add(blob.size));
        if manifest.layers.len() >= MAX_BLOBS || size.is_none_or(|size| size > MAX_ARTIFACT) {
            return Err(ManifestError::TooLarge);
        }
        Ok(manifest)
    }

    /// Returns the bytes of a manifest that the platform made; of a foreign one they may differ from those that were
    /// read.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers, lists and maps always have a JSON form")
    }

    /// Returns everything that the artifact consists of: the config and the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Tells whether the config is the empty one.
    pub fn has_empty_config(&self) -> bool {
        self.config.media_type == media::EMPTY && self.config.digest == Digest::of(media::EMPTY_CONFIG)
    }
}

/// An OCI image index: the manifests of an image layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// The version of the form, which is always 2.
    pub schema_version: u32,
    /// The media type [`media::INDEX`]. An absent one means the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests. An image layout names each by the annotation [`media::REF_NAME`].
    pub manifests: Vec<Descriptor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_manifest_never_change_by_themselves() {
        let layer = Descriptor::of(media::WASM, b"wasm").annotated(media::TITLE, "hello.wasm").annotated("a", "b");
        let manifest = ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![layer]);
        // Golden: other bytes would give every artifact in the field a new digest.
        assert_eq!(
            String::from_utf8(manifest.to_json()).unwrap(),
            concat!(
                r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
                r#""artifactType":"application/vnd.wasm.config.v0+json","#,
                r#""config":{"mediaType":"application/vnd.oci.empty.v1+json","#,
                r#""digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"#,
                r#""layers":[{"mediaType":"application/wasm","#,
                r#""digest":"sha256:336154bf67f765f8f75d16a0accee61b5ee5f6a75b2a2905703df913bd550f3e","size":4,"#,
                r#""annotations":{"a":"b","org.opencontainers.image.title":"hello.wasm"}}]}"#
            )
        );
        assert_eq!(ArtifactManifest::parse(&manifest.to_json()).unwrap(), manifest);
        assert!(manifest.has_empty_config());
    }

    #[test]
    fn what_is_no_image_manifest_is_refused() {
        let manifest = ArtifactManifest::artifact(media::APP, vec![]);
        let index = ArtifactManifest { media_type: media::INDEX.to_owned(), ..manifest.clone() };
        assert!(matches!(ArtifactManifest::parse(&index.to_json()), Err(ManifestError::Kind(2, _))));
        let old = ArtifactManifest { schema_version: 1, ..manifest.clone() };
        assert!(matches!(ArtifactManifest::parse(&old.to_json()), Err(ManifestError::Kind(1, _))));
        let layer = Descriptor::new(media::WASM, Digest::of(b""), u64::MAX);
        let huge = ArtifactManifest { layers: vec![layer.clone(), layer], ..manifest };
        assert!(matches!(ArtifactManifest::parse(&huge.to_json()), Err(ManifestError::TooLarge)));
        assert!(matches!(ArtifactManifest::parse(b"{}"), Err(ManifestError::Json(_))));
    }
}
