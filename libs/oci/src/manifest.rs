//! OCI image manifests and indexes: what the platform writes, and what it reads of those that others wrote.

use std::collections::BTreeMap;

use margo::Digest;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::Platform;

/// Media types, artifact types and the keys of annotations.
pub mod media {
    /// The media type of an image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// The media type of an image index, which is a list of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// The media type of an image manifest as Docker wrote it before OCI. It has the same fields.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// The media type of an image index as Docker wrote it before OCI. It has the same fields.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
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
    #[error("it must have schemaVersion 2 and a mediaType such as {MANIFEST}, not {0} and {1:?}", MANIFEST = media::MANIFEST)]
    Kind(u32, String),
    /// The manifest names too many blobs or manifests, or sizes that no 64 bits hold together.
    #[error("it must name at most {MAX_BLOBS} blobs or manifests, with sizes that can be added")]
    TooLarge,
    /// The JSON could be read as an image manifest and as an image index, and two readers would take two contents from it.
    #[error("it has fields of an image manifest and of an image index")]
    Ambiguous,
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
    /// In an index, the platform that the manifest is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
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
        let (media_type, annotations) = (media_type.to_owned(), BTreeMap::new());
        Self { media_type, digest, size, platform: None, artifact_type: None, annotations }
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
    /// [`media::MANIFEST`], which is also meant where nothing is said, or [`media::DOCKER_MANIFEST`].
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
        if manifest.schema_version != 2
            || ![media::MANIFEST, media::DOCKER_MANIFEST].contains(&manifest.media_type.as_str())
        {
            return Err(ManifestError::Kind(manifest.schema_version, manifest.media_type));
        }
        let size = manifest.blobs().try_fold(0u64, |sum, blob| sum.checked_add(blob.size));
        if manifest.layers.len() >= MAX_BLOBS || size.is_none() {
            return Err(ManifestError::TooLarge);
        }
        Ok(manifest)
    }

    /// Returns how many bytes everything that the artifact consists of has together.
    pub fn size(&self) -> u64 {
        self.blobs().fold(0, |sum, blob| sum.saturating_add(blob.size))
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

impl Index {
    /// Reads and checks an index. It fails when it is of another kind, or names too much.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let index: Self = serde_json::from_slice(bytes)?;
        let media_type = index.media_type();
        if index.schema_version != 2 || ![media::INDEX, media::DOCKER_INDEX].contains(&media_type) {
            return Err(ManifestError::Kind(index.schema_version, media_type.to_owned()));
        }
        if index.manifests.len() > MAX_BLOBS {
            return Err(ManifestError::TooLarge);
        }
        Ok(index)
    }

    /// Returns the media type, which is [`media::INDEX`] where the index says nothing.
    pub fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or(media::INDEX)
    }

    /// Returns the manifest that fits this platform best: for the same system and architecture, the newest variant
    /// that the platform can still execute.
    pub fn manifest_for(&self, platform: &Platform) -> Option<&Descriptor> {
        let images = self.manifests.iter().filter(|manifest| is_manifest(&manifest.media_type));
        let fitting = images.filter_map(|image| Some((platform.suitability(image.platform.as_ref()?)?, image)));
        // Of two that fit equally the first one, as other clients choose.
        fitting.rev().max_by_key(|(suitability, _)| *suitability).map(|(_, image)| image)
    }
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, media::MANIFEST | media::DOCKER_MANIFEST)
}

/// What a registry gives out under the digest of a manifest: an image manifest, or an index of such.
#[allow(clippy::large_enum_variant, reason = "one is read at a time and dropped again; nothing keeps many of them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyManifest {
    /// One artifact.
    Artifact(ArtifactManifest),
    /// A list of manifests, one for each platform.
    Index(Index),
}

impl AnyManifest {
    /// Reads and checks a manifest or an index, whichever the bytes are. It fails when they could be read as both.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields {
            #[serde(default)]
            media_type: Option<String>,
            #[serde(default)]
            manifests: Option<IgnoredAny>,
            #[serde(default)]
            config: Option<IgnoredAny>,
            #[serde(default)]
            layers: Option<IgnoredAny>,
        }
        let Fields { media_type, manifests, config, layers } = serde_json::from_slice(bytes)?;
        let lists = manifests.is_some();
        if lists && (config.is_some() || layers.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        match media_type.as_deref() {
            Some(media::INDEX | media::DOCKER_INDEX) => Ok(Self::Index(Index::parse(bytes)?)),
            None if lists => Ok(Self::Index(Index::parse(bytes)?)),
            _ => Ok(Self::Artifact(ArtifactManifest::parse(bytes)?)),
        }
    }

    /// Returns the media type under which the bytes are served.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Artifact(manifest) => &manifest.media_type,
            Self::Index(index) => index.media_type(),
        }
    }
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

    fn index(platforms: &[&str]) -> Index {
        let manifests = platforms.iter().enumerate().map(|(number, platform)| {
            let platform = Some(platform.parse().unwrap());
            Descriptor { platform, ..Descriptor::new(media::MANIFEST, Digest::of(&[number as u8]), 1) }
        });
        Index { schema_version: 2, media_type: None, manifests: manifests.collect() }
    }

    #[test]
    fn an_index_gives_each_platform_the_newest_that_it_can_execute() {
        let index =
            index(&["linux/arm/v6", "linux/amd64", "linux/arm/v7", "linux/arm64", "linux/amd64", "windows/amd64"]);
        for (platform, chosen) in [
            ("linux/amd64", Some(1)),
            ("linux/amd64/v3", Some(1)),
            ("linux/arm/v7", Some(2)),
            ("linux/arm", Some(2)),
            ("linux/arm/v6", Some(0)),
            ("linux/arm/v5", None),
            ("linux/arm64/v8", Some(3)),
            ("windows/amd64", Some(5)),
            ("linux/riscv64", None),
        ] {
            let found = index.manifest_for(&platform.parse().unwrap()).map(|manifest| manifest.digest);
            assert_eq!(found, chosen.map(|number| Digest::of(&[number])), "{platform}");
        }
    }

    #[test]
    fn a_manifest_and_an_index_are_told_apart_and_nothing_is_both() {
        let manifest = ArtifactManifest::artifact(media::APP, vec![]);
        assert_eq!(AnyManifest::parse(&manifest.to_json()).unwrap(), AnyManifest::Artifact(manifest.clone()));
        let docker = ArtifactManifest { media_type: media::DOCKER_MANIFEST.to_owned(), ..manifest.clone() };
        assert_eq!(AnyManifest::parse(&docker.to_json()).unwrap().media_type(), media::DOCKER_MANIFEST);
        for media_type in [None, Some(media::INDEX.to_owned()), Some(media::DOCKER_INDEX.to_owned())] {
            let index = Index { media_type, ..index(&["linux/amd64"]) };
            let bytes = serde_json::to_vec(&index).unwrap();
            assert_eq!(AnyManifest::parse(&bytes).unwrap(), AnyManifest::Index(index));
        }
        let mut both = serde_json::to_value(&manifest).unwrap();
        both["manifests"] = serde_json::json!([]);
        let both = serde_json::to_vec(&both).unwrap();
        assert!(matches!(AnyManifest::parse(&both), Err(ManifestError::Ambiguous)));
        let many = Index { manifests: vec![Descriptor::of(media::MANIFEST, b""); MAX_BLOBS + 1], ..index(&[]) };
        let many = serde_json::to_vec(&many).unwrap();
        assert!(matches!(AnyManifest::parse(&many), Err(ManifestError::TooLarge)));
    }
}
