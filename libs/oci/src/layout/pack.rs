//! Packing the folder of an application as the tar of an image layout. The same folder gives the same bytes every
//! time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufWriter, Read, Write},
    path::{Component, Path, PathBuf},
};

use compose::{Archive, ComposeFile};
use margo::{AppId, AppVersion, ApplicationDescription, DescribedComponent, Digest, MAX_DOCUMENT, ProfileType};
use tar::{Builder, EntryType, Header};

use super::{
    INDEX, MARKER, Marker, VERSION, assumed_values,
    images::{self, LayoutImage},
    is_wasm,
    pack_error::{DESCRIPTION, PackError, document, read, rule},
};
use crate::{ArtifactManifest, Descriptor, ImageName, Index, Reference, RepositoryName, digest::Digester, media};

/// The application and the tar that [`pack`] made from a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The id of the application.
    pub app: AppId,
    /// The version of the application.
    pub version: AppVersion,
    /// The digest of the OCI manifest of the package.
    pub digest: Digest,
    /// The length of the tar in bytes.
    pub size: u64,
}

enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

struct Blob {
    size: u64,
    content: Content,
}

/// Packs `folder` into the file `tar`: `margo.yaml`, the files that it names, and `<component>.wasm` for each
/// component of a Wasm profile. For each component of a Compose profile it packs the folder `<component>`, which holds
/// `compose.yaml`, and the images that this file names, out of the image layouts in the folder `images`. It fails when the folder
/// has a profile of another type. It blocks.
pub fn pack(folder: &Path, tar: &Path) -> Result<Packed, PackError> {
    pack_with(folder, None, tar)
}

/// The same with images out of the image layouts of one more folder.
pub fn pack_with(folder: &Path, more_images: Option<&Path>, tar: &Path) -> Result<Packed, PackError> {
    let (blobs, manifests, images) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut packing = Packing { folder, found: found_images(folder, more_images)?, blobs, manifests, images };
    let (description, digest) = packing.package()?;
    packing.components(&description)?;
    let size = packing.write(tar).inspect_err(|_| {
        // Half a tar is of no use; the error that is returned says why there is none.
        let _ = fs::remove_file(tar);
    })?;
    Ok(Packed { app: description.id, version: description.metadata.version, digest, size })
}

/// Returns the names of the images that Compose files in the folder of an application name and that its image layouts do not have.
/// A component that cannot be packed anyway is passed over: [`pack`] says why. It blocks.
pub fn missing_images(folder: &Path) -> Result<BTreeSet<String>, PackError> {
    let (description, _) = describe(folder)?;
    let found = found_images(folder, None)?;
    let composed = description.profiles.iter().filter(|profile| profile.kind == ProfileType::Compose);
    let mut missing = BTreeSet::new();
    for component in composed.flat_map(|profile| &profile.components) {
        let Ok(archive) = Archive::pack(&folder.join(component.name.as_str()), component.name.as_str()) else {
            continue;
        };
        let images = Archive::read(archive.as_slice())
            .ok()
            .and_then(|archive| ComposeFile::parse(&archive.compose).ok()?.images().ok());
        missing.extend(images.into_iter().flatten());
    }
    missing.retain(|name| !found.iter().any(|image| ImageName::is_same(&image.name, name)));
    Ok(missing)
}

fn found_images(folder: &Path, more: Option<&Path>) -> Result<Vec<LayoutImage>, PackError> {
    let mut found = images::find(&folder.join(images::FOLDER))?;
    if let Some(more) = more {
        found.extend(images::find(more)?);
    }
    Ok(found)
}

/// Reads the description in the folder of an application.
fn describe(folder: &Path) -> Result<(ApplicationDescription, Vec<u8>), PackError> {
    let path = folder.join(DESCRIPTION);
    let mut bytes = Vec::new();
    // One byte more than allowed is enough for the document to be refused for its length.
    File::open(&path)
        .and_then(|file| file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes))
        .map_err(read(&path))?;
    Ok((ApplicationDescription::parse(&bytes, DESCRIPTION)?, bytes))
}

struct Packing<'a> {
    folder: &'a Path,
    /// The images that there are.
    found: Vec<LayoutImage>,
    blobs: BTreeMap<Digest, Blob>,
    /// Manifests by reference, and by whether they are the package, because a component may have the name of its
    /// application.
    manifests: BTreeMap<(Reference, bool), Descriptor>,
    /// Container images by the name that Compose files give them, and by platform.
    images: BTreeMap<(String, String), Descriptor>,
}

impl Packing<'_> {
    fn package(&mut self) -> Result<(ApplicationDescription, Digest), PackError> {
        let (description, bytes) = describe(self.folder)?;
        let name: RepositoryName = description.id.as_str().parse().map_err(|error| rule("id", error))?;
        let layer = self.bytes(media::DESCRIPTION, bytes).annotated(media::TITLE, DESCRIPTION);
        let mut layers = vec![layer];
        if let Some(application) = &description.metadata.catalog.application {
            for (resource, named) in [
                ("descriptionFile", &application.description_file),
                ("icon", &application.icon),
                ("licenseFile", &application.license_file),
                ("releaseNotes", &application.release_notes),
            ] {
                // A link to a place on the Web is no file of the package.
                if let Some(named) = named.as_ref().filter(|named| !named.contains("://")) {
                    layers.push(self.resource(resource, named)?);
                }
            }
        }
        let tag = description.metadata.version.to_string();
        let digest = self.manifest(Reference { name, tag }, &ArtifactManifest::artifact(media::APP, layers), true);
        Ok((description, digest))
    }

    fn resource(&mut self, resource: &str, named: &str) -> Result<Descriptor, PackError> {
        let field = format!("metadata.catalog.application.{resource}");
        let relative = Path::new(named);
        if !relative.components().all(|it| matches!(it, Component::Normal(_) | Component::CurDir)) {
            return Err(rule(field, format!("{named:?} must be a path inside the app's folder")));
        }
        let extension = relative.extension().and_then(|it| it.to_str()).unwrap_or_default().to_ascii_lowercase();
        let format = match extension.as_str() {
            "md" => "markdown",
            "jpg" => "jpeg",
            "txt" => "plain",
            other if !other.is_empty() && other.bytes().all(|b| b.is_ascii_alphanumeric()) => other,
            _ => return Err(rule(field, format!("{named:?} must have an extension that tells its format"))),
        };
        let layer = self.file(&format!("application/vnd.margo.app.{resource}.v1+{format}"), relative, &field)?;
        Ok(layer.annotated(media::TITLE, named).annotated(media::RESOURCE, resource))
    }

    fn components(&mut self, description: &ApplicationDescription) -> Result<(), PackError> {
        for (p, profile) in description.profiles.iter().enumerate() {
            let is_compose = profile.kind == ProfileType::Compose;
            if !is_wasm(profile) && !is_compose {
                let field = format!("deploymentProfiles[{p}].type");
                let wanted = "only profiles of type compose, and custom with x-edgewright-extensions.runtime: wasm, can be packed";
                return Err(rule(field, format!("{:?} has type {}: {wanted}", profile.id, profile.kind)));
            }
            for (c, component) in profile.components.iter().enumerate() {
                let field = format!("deploymentProfiles[{p}].components[{c}]");
                let reference = Reference::of_component(&component.properties);
                let reference = reference.map_err(|error| rule(format!("{field}.properties.repository"), error))?;
                let manifest = if is_compose {
                    self.compose(description, component, &field)?
                } else {
                    let title = format!("{}.wasm", component.name);
                    let layer = self.file(media::WASM, Path::new(&title), &format!("{field}.name"))?;
                    ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![layer.annotated(media::TITLE, title)])
                };
                let other = self.manifests.get(&(reference.clone(), false));
                if other.is_some_and(|other| other.digest != Digest::of(&manifest.to_json())) {
                    let message = format!("{reference} is already another component's artifact");
                    return Err(rule(format!("{field}.properties.repository"), message));
                }
                self.manifest(reference, &manifest, false);
            }
        }
        Ok(())
    }

    /// Packs the Compose Archive of a component (APP-04), and the images that it names.
    fn compose(
        &mut self,
        description: &ApplicationDescription,
        component: &DescribedComponent,
        field: &str,
    ) -> Result<ArtifactManifest, PackError> {
        let name = component.name.as_str();
        let folder = self.folder.join(name);
        if !folder.join(compose::FILE_NAME).is_file() {
            let message = format!("{name}/{} is not in the app's folder", compose::FILE_NAME);
            return Err(rule(format!("{field}.name"), message));
        }
        let failed = |source| PackError::Archive { folder: folder.clone(), source };
        let archive = Archive::pack(&folder, name).map_err(failed)?;
        let Archive { compose, files } = Archive::read(archive.as_slice()).map_err(failed)?;
        let refused =
            |error: compose::ComposeError| document(format!("{name}/{}", compose::FILE_NAME), error.field, error.rule);
        let file = ComposeFile::parse(&compose).map_err(refused)?;
        file.resolve(&assumed_values(description, &component.name), &files).map_err(refused)?;
        for image in file.images().map_err(refused)? {
            self.image(&image)?;
        }
        let layer = self.bytes(media::COMPOSE, archive);
        let layer = layer
            .annotated(media::TITLE, format!("{name}.tar.gz"))
            .annotated(media::COMPONENT_TYPE, "compose")
            .annotated(media::COMPONENT_VERSION, component.properties.revision.clone());
        Ok(ArtifactManifest::artifact(media::COMPOSE_ARTIFACT, vec![layer]))
    }

    /// Takes an image into the upload, for every platform that there is of it.
    fn image(&mut self, name: &str) -> Result<(), PackError> {
        let found: Vec<_> = self.found.iter().filter(|image| ImageName::is_same(&image.name, name)).cloned().collect();
        if found.is_empty() {
            let wanted = format!(
                "an image layout with {name:?} must be in the folder {}, or the Compose file must name the image by a registry and \
                 a digest, such as ghcr.io/acme/web@sha256:…, and then it is pulled",
                images::FOLDER
            );
            return Err(rule(images::FOLDER, wanted));
        }
        for image in found {
            for wanted in image.manifest.blobs() {
                let path = images::blob(&image.layout, &wanted.digest);
                let (digest, size) = digest_of(&path).map_err(read(&path))?;
                if digest != wanted.digest {
                    return Err(rule(images::FOLDER, format!("{}: its content has another digest", path.display())));
                }
                self.blobs.insert(digest, Blob { size, content: Content::File(path) });
            }
            let descriptor = self.bytes(media::MANIFEST, image.bytes).annotated(media::IMAGE, name);
            let key = (name.to_owned(), image.platform);
            let held = self.images.get(&key);
            if held.is_some_and(|held| held.digest != image.digest) {
                let (name, platform) = key;
                return Err(rule(images::FOLDER, format!("{name:?} is there twice for {platform}, and not the same")));
            }
            self.images.insert(key, descriptor);
        }
        Ok(())
    }

    fn manifest(&mut self, reference: Reference, manifest: &ArtifactManifest, package: bool) -> Digest {
        self.bytes(media::EMPTY, media::EMPTY_CONFIG.to_vec());
        let mut descriptor = self.bytes(media::MANIFEST, manifest.to_json());
        descriptor.artifact_type.clone_from(&manifest.artifact_type);
        let digest = descriptor.digest;
        let descriptor = descriptor.annotated(media::REF_NAME, reference.to_string());
        self.manifests.insert((reference, package), descriptor);
        digest
    }

    fn bytes(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.blobs.insert(descriptor.digest, Blob { size: descriptor.size, content: Content::Bytes(bytes) });
        descriptor
    }

    fn file(&mut self, media_type: &str, relative: &Path, field: &str) -> Result<Descriptor, PackError> {
        let path = self.folder.join(relative);
        let kind = fs::symlink_metadata(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => rule(field, format!("{} is not in the app's folder", relative.display())),
            _ => PackError::Read { path: path.clone(), source: error },
        })?;
        if !kind.is_file() {
            return Err(rule(field, format!("{} must be a regular file", relative.display())));
        }
        let (digest, size) = digest_of(&path).map_err(read(&path))?;
        self.blobs.insert(digest, Blob { size, content: Content::File(path) });
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Writes the tar with sorted entries whose times and owners are zero, and returns its length.
    fn write(self, tar: &Path) -> Result<u64, PackError> {
        let written = |source| PackError::Write { path: tar.to_owned(), source };
        #[expect(clippy::disallowed_methods, reason = "the archive is a copy that can be packed again")]
        let mut archive = Builder::new(BufWriter::new(File::create(tar).map_err(written)?));
        let index = Index {
            schema_version: 2,
            media_type: Some(media::INDEX.to_owned()),
            manifests: self.manifests.into_values().chain(self.images.into_values()).collect(),
        };
        let json = "strings, numbers, lists and maps always have a JSON form";
        let marker = serde_json::to_vec(&Marker { version: VERSION.to_owned() }).expect(json);
        let index = serde_json::to_vec(&index).expect(json);
        for (path, bytes) in [(MARKER, marker), (INDEX, index)] {
            archive.append_data(&mut header(bytes.len() as u64), path, bytes.as_slice()).map_err(written)?;
        }
        for (digest, blob) in &self.blobs {
            let (path, mut header) = (format!("blobs/sha256/{}", digest.hex()), header(blob.size));
            match &blob.content {
                Content::Bytes(bytes) => {
                    archive.append_data(&mut header, path, bytes.as_slice()).map_err(written)?;
                }
                Content::File(source) => {
                    let mut file =
                        Digesting { file: File::open(source).map_err(read(source))?, digester: Digester::default() };
                    archive.append_data(&mut header, path, (&mut file).take(blob.size)).map_err(written)?;
                    if file.digester.finish() != *digest {
                        return Err(PackError::Changed(source.clone()));
                    }
                }
            }
        }
        let mut file = archive.into_inner().map_err(written)?;
        file.flush().map_err(written)?;
        Ok(file.get_ref().metadata().map_err(written)?.len())
    }
}

fn header(size: u64) -> Header {
    compose::plain_header(EntryType::Regular, 0o644, size)
}

struct Digesting {
    file: File,
    digester: Digester,
}

impl Read for Digesting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.digester.update(&buffer[..count]);
        Ok(count)
    }
}

fn digest_of(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = Digesting { file: File::open(path)?, digester: Digester::default() };
    let size = io::copy(&mut file, &mut io::sink())?;
    Ok((file.digester.finish(), size))
}
