//! Image manifests and indexes: what we write, and what we read of them.

use std::collections::BTreeMap;

use margo::Digest;
use serde::{Deserialize, Serialize};

use crate::MAX_ARTIFACT;

/// Media types, artifact types and annotation keys.
pub mod media {
    /// A manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A list of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// The config of an artifact that has none: [`EMPTY_CONFIG`].
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// The content of an empty config.
    pub const EMPTY_CONFIG: &[u8] = b"{}";

    /// Artifact type of a Margo application package (APP-02).
    pub const APP: &str = "application/vnd.margo.app.v1+json";
    /// Layer with `margo.yaml`.
    pub const DESCRIPTION: &str = "application/vnd.margo.app.description.v1+yaml";
    /// Artifact type of a WebAssembly component.
    pub const WASM_ARTIFACT: &str = "application/vnd.wasm.config.v0+json";
    /// Layer with a WebAssembly component.
    pub const WASM: &str = "application/wasm";

    /// In an index: `name:tag` of a manifest.
    pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
    /// On a layer: the name of the file.
    pub const TITLE: &str = "org.opencontainers.image.title";
    /// On a layer of a package: which resource it is.
    pub const RESOURCE: &str = "org.margo.app.resource";
}

/// More blobs than any artifact of ours has; each costs a file, two markers and a request.
const MAX_BLOBS: usize = 1_000;

/// Bytes that are no manifest we can serve.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or a field is missing or wrong.
    #[error("the JSON is not that of an image manifest")]
    Json(#[from] serde_json::Error),
    /// Another kind or version.
    #[error("it must have schemaVersion 2 and mediaType {MANIFEST}, not {0} and {1:?}", MANIFEST = media::MANIFEST)]
    Kind(u32, String),
    /// Too many blobs, or too large ones.
    #[error("it must name at most {MAX_BLOBS} blobs of {MAX_ARTIFACT} bytes together")]
    TooLarge,
}

/// One blob or manifest by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: the artifact type of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Sorted, so that the bytes are the same every time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Describes these bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Describes content that was digested before.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, artifact_type: None, annotations: BTreeMap::new() }
    }

    /// The same with one more annotation.
    pub fn annotated(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }
}

/// An OCI image manifest: one artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`media::MANIFEST`]; absent means the same.
    #[serde(default = "manifest_media_type")]
    pub media_type: String,
    /// What the artifact is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Its configuration.
    pub config: Descriptor,
    /// Its files.
    pub layers: Vec<Descriptor>,
    /// Sorted, so that the bytes are the same every time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn manifest_media_type() -> String {
    media::MANIFEST.to_owned()
}

impl Manifest {
    /// An artifact of these layers with an empty config.
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

    /// Reads and checks a manifest.
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

    /// The bytes of a manifest that we made.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers, lists and maps always have a JSON form")
    }

    /// Everything that it is made of.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// Whether its config is the empty one.
    pub fn has_empty_config(&self) -> bool {
        self.config.media_type == media::EMPTY && self.config.digest == Digest::of(media::EMPTY_CONFIG)
    }
}

/// An OCI image index: the manifests of an image layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// [`media::INDEX`]; absent means the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_manifest_never_change_by_themselves() {
        let layer = Descriptor::of(media::WASM, b"wasm").annotated(media::TITLE, "hello.wasm").annotated("a", "b");
        let manifest = Manifest::artifact(media::WASM_ARTIFACT, vec![layer]);
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
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
        assert!(manifest.has_empty_config());
    }

    #[test]
    fn what_is_no_image_manifest_is_refused() {
        let manifest = Manifest::artifact(media::APP, vec![]);
        let index = Manifest { media_type: media::INDEX.to_owned(), ..manifest.clone() };
        assert!(matches!(Manifest::parse(&index.to_json()), Err(ManifestError::Kind(2, _))));
        let old = Manifest { schema_version: 1, ..manifest.clone() };
        assert!(matches!(Manifest::parse(&old.to_json()), Err(ManifestError::Kind(1, _))));
        let layer = Descriptor::new(media::WASM, Digest::of(b""), u64::MAX);
        let huge = Manifest { layers: vec![layer.clone(), layer], ..manifest };
        assert!(matches!(Manifest::parse(&huge.to_json()), Err(ManifestError::TooLarge)));
        assert!(matches!(Manifest::parse(b"{}"), Err(ManifestError::Json(_))));
    }
}
