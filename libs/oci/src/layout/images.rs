//! Container images beside an application: image layouts in the folder `images`.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use margo::Digest;
use serde::{Deserialize, Serialize};

use super::{
    INDEX, MARKER, Marker, VERSION,
    pack_error::{PackError, read, rule},
};
use crate::{ArtifactManifest, ContentStore, Descriptor, Index, MAX_MANIFEST, media};

/// The folder in that of an application which holds image layouts, or is one.
pub(super) const FOLDER: &str = "images";

/// The annotation in which Docker and containerd write the whole name of an image.
const WHOLE_NAME: &str = "io.containerd.image.name";

/// One image for one platform, in an image layout.
#[derive(Clone)]
pub(super) struct LayoutImage {
    /// The name of the image, as its layout has it.
    pub name: String,
    /// The image layout that holds it.
    pub layout: PathBuf,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The bytes of its manifest.
    pub bytes: Vec<u8>,
    /// Its manifest.
    pub manifest: ArtifactManifest,
    /// The platform that its config names.
    pub platform: String,
}

#[derive(Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// Returns the platform that the config of an image names, such as `linux/amd64` or `linux/arm/v7`; `None` when it names
/// none, as that of an attestation.
pub fn platform_of(config: &[u8]) -> Option<String> {
    let Config { os, architecture, variant } = serde_json::from_slice(config).ok()?;
    let (os, architecture) = (os?, architecture?);
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_word(&os) || !is_word(&architecture) || os == "unknown" {
        return None;
    }
    // Of arm64 there is one variant, which some tools write and others do not.
    match variant.filter(|variant| is_word(variant) && architecture != "arm64") {
        Some(variant) => Some(format!("{os}/{architecture}/{variant}")),
        None => Some(format!("{os}/{architecture}")),
    }
}

/// Finds every image in the image layouts that this folder holds, or is.
pub(super) fn find(root: &Path) -> Result<Vec<LayoutImage>, PackError> {
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    let mut layouts = vec![root.to_owned()];
    for entry in fs::read_dir(root).map_err(read(root))? {
        layouts.push(entry.map_err(read(root))?.path());
    }
    layouts.sort();
    let mut found = Vec::new();
    for layout in layouts.into_iter().filter(|layout| layout.join(MARKER).is_file()) {
        let path = layout.join(INDEX);
        for descriptor in index(&path, &small(&path)?)?.manifests {
            let name = descriptor.annotations.get(WHOLE_NAME).or_else(|| descriptor.annotations.get(media::REF_NAME));
            let Some(name) = name.cloned() else {
                return Err(wrong(&path, format!("{} has no name: tag the image", descriptor.digest)));
            };
            if descriptor.media_type == media::INDEX {
                let path = blob(&layout, &descriptor.digest);
                for descriptor in index(&path, &small(&path)?)?.manifests {
                    found.extend(image(&layout, &name, &descriptor)?);
                }
            } else {
                found.extend(image(&layout, &name, &descriptor)?);
            }
        }
    }
    Ok(found)
}

/// Writes an image layout with one image, for each platform that these manifests are for. All content is in the store. Blocks.
pub fn write_layout(layout: &Path, store: &ContentStore, name: &str, manifests: &[Descriptor]) -> io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let take = |digest: &Digest| match fs::hard_link(store.path(digest), blobs.join(digest.hex())) {
        // Images share layers.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    let mut named = Vec::new();
    for descriptor in manifests {
        let manifest = ArtifactManifest::parse(&fs::read(store.path(&descriptor.digest))?).map_err(io::Error::other)?;
        take(&descriptor.digest)?;
        manifest.blobs().try_for_each(|blob| take(&blob.digest))?;
        let Descriptor { digest, size, .. } = *descriptor;
        named.push(Descriptor::new(media::MANIFEST, digest, size).annotated(media::REF_NAME, name));
    }
    let index = Index { schema_version: 2, media_type: Some(media::INDEX.to_owned()), manifests: named };
    write(layout, INDEX, &index)?;
    write(layout, MARKER, &Marker { version: VERSION.to_owned() })
}

#[expect(clippy::disallowed_methods, reason = "the layout is a copy that can be pulled again")]
fn write(layout: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    fs::write(layout.join(name), serde_json::to_vec(value)?)
}

fn index(path: &Path, bytes: &[u8]) -> Result<Index, PackError> {
    serde_json::from_slice(bytes).map_err(|error| wrong(path, error.to_string()))
}

/// Reads one image; what is no image for a platform is passed over.
fn image(layout: &Path, name: &str, descriptor: &Descriptor) -> Result<Option<LayoutImage>, PackError> {
    let path = blob(layout, &descriptor.digest);
    let bytes = small(&path)?;
    if Digest::of(&bytes) != descriptor.digest {
        return Err(wrong(&path, "its content has another digest".to_owned()));
    }
    let manifest = ArtifactManifest::parse(&bytes).map_err(|error| wrong(&path, error.to_string()))?;
    let Some(platform) = platform_of(&small(&blob(layout, &manifest.config.digest))?) else { return Ok(None) };
    let (name, layout) = (name.to_owned(), layout.to_owned());
    Ok(Some(LayoutImage { name, layout, digest: descriptor.digest, bytes, manifest, platform }))
}

/// Returns the path of a blob in an image layout.
pub(super) fn blob(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn small(path: &Path) -> Result<Vec<u8>, PackError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(read(path))?;
    file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).map_err(read(path))?;
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(read(path)(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

fn wrong(path: &Path, message: String) -> PackError {
    rule(FOLDER, format!("{}: {message}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_that_of_the_config() {
        for (config, platform) in [
            (r#"{"os":"linux","architecture":"amd64"}"#, Some("linux/amd64")),
            (r#"{"os":"linux","architecture":"arm","variant":"v7"}"#, Some("linux/arm/v7")),
            (r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#, Some("linux/arm64")),
            (r#"{"os":"unknown","architecture":"unknown"}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(platform_of(config.as_bytes()).as_deref(), platform, "{config}");
        }
    }
}
