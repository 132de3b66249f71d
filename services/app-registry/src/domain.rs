//! What makes an upload an application: which parts it has to have, and how they have to fit together. No disk, no bus,
//! no clock.

use std::collections::{BTreeMap, BTreeSet};

use api::{App, AppProfile, FieldError};
use compose::ComposeFile;
use margo::{ApplicationDescription, ComponentName, Digest, LockedImage, LockedImages, ProfileType};
use oci::{
    ArtifactManifest, Descriptor, Reference, RepositoryName,
    layout::{assumed_values, is_wasm},
    media,
};
use outbox::OrderHeader;

use crate::error::UploadError;

/// A manifest that the index of an upload lists: the package or one of its components.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name and tag that the index gives it.
    pub reference: Reference,
    pub digest: Digest,
    pub manifest: ArtifactManifest,
}

/// A container image that the index of an upload lists, for one platform.
#[derive(Clone, Debug)]
pub struct ListedImage {
    /// The name that Compose files give it.
    pub name: String,
    /// The platform that its config names, such as `linux/amd64`.
    pub platform: String,
    /// Its manifest and its config.
    pub locked: LockedImage,
}

/// A Compose Archive that was read.
#[derive(Clone, Debug)]
pub struct ListedArchive {
    /// Its `compose.yaml`.
    pub file: ComposeFile,
    /// The paths of the regular files in it.
    pub files: BTreeSet<String>,
}

/// All that the index of an upload lists.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The package and its components.
    pub listed: Vec<Listed>,
    /// Container images.
    pub images: Vec<ListedImage>,
    /// The Compose Archives among the components, by the digest of the component's manifest.
    pub archives: BTreeMap<Digest, ListedArchive>,
}

impl Listed {
    fn is_package(&self) -> bool {
        self.manifest.artifact_type.as_deref() == Some(media::APP)
    }

    fn layers<'a>(&'a self, media_type: &'a str) -> impl Iterator<Item = &'a Descriptor> {
        self.manifest.layers.iter().filter(move |layer| layer.media_type == media_type)
    }
}

/// An upload whose parts make an application.
#[derive(Clone, Debug)]
pub struct Upload {
    pub description: ApplicationDescription,
    /// The exact text of the description, as it goes into Git.
    pub text: String,
    /// Digest of the package's manifest, which is the digest of the application.
    pub digest: Digest,
    /// The digest of each component's manifest. A deployment names it, so nobody can exchange a component later.
    pub lock: BTreeMap<ComponentName, Digest>,
    /// The container images of each component that has some.
    pub images: BTreeMap<ComponentName, LockedImages>,
    /// The manifests that the store is to keep, each under the name that the index gives it.
    pub manifests: Vec<(RepositoryName, Digest)>,
}

/// Reads the name and tag of a manifest from its annotation in the index.
pub fn reference(descriptor: &Descriptor) -> Result<Reference, UploadError> {
    let field = || format!("index.json: manifest {}", descriptor.digest);
    if descriptor.media_type != media::MANIFEST {
        return Err(UploadError::rule(field(), format!("mediaType must be {}", media::MANIFEST)));
    }
    let name = descriptor.annotations.get(media::REF_NAME);
    let name =
        name.ok_or_else(|| UploadError::rule(field(), format!("must have the annotation {}", media::REF_NAME)))?;
    name.parse().map_err(|error: oci::InvalidReference| UploadError::rule(field(), error.to_string()))
}

/// Finds the one package of an upload, and its one layer with the description (APP-02).
pub fn package(listed: &[Listed]) -> Result<(&Listed, &Descriptor), UploadError> {
    let packages: Vec<_> = listed.iter().filter(|listed| listed.is_package()).collect();
    let [package] = packages[..] else {
        let rule = format!("exactly one manifest must have artifactType {}, not {}", media::APP, packages.len());
        return Err(UploadError::rule("index.json", rule));
    };
    if !package.manifest.has_empty_config() {
        let rule = format!("config must be the empty one: {} with the content {{}}", media::EMPTY);
        return Err(UploadError::rule(format!("package {}", package.reference), rule));
    }
    let descriptions: Vec<_> = package.layers(media::DESCRIPTION).collect();
    let [description] = descriptions[..] else {
        let rule = format!("exactly one layer must be {}, not {}", media::DESCRIPTION, descriptions.len());
        return Err(UploadError::rule(format!("package {}", package.reference), rule));
    };
    Ok((package, description))
}

/// Checks an upload whole. `text` is the content of the package's description layer, and `file` is what errors call it.
/// All rules that are broken between the description and the manifests are told at once.
pub fn check(contents: &Contents, package: &Listed, file: &str, text: Vec<u8>) -> Result<Upload, UploadError> {
    let Contents { listed, images: offered, archives } = contents;
    let description = ApplicationDescription::parse(&text, file)?;
    let text = String::from_utf8(text).map_err(|_| UploadError::rule(file, "must be UTF-8"))?;
    let mut errors = Vec::new();
    let mut broken = |field: String, message: String| errors.push(FieldError { field, message });

    // APP-02
    let wanted = format!("{}:{}", description.id, description.metadata.version);
    if package.reference.to_string() != wanted {
        let rule = format!("id and metadata.version of {file} make it {wanted}");
        broken(format!("package {}", package.reference), rule);
    }
    let mut components = BTreeMap::new();
    for listed in listed.iter().filter(|listed| !listed.is_package()) {
        if components.insert(&listed.reference, listed).is_some() {
            broken("index.json".to_owned(), format!("{} is listed twice", listed.reference));
        }
    }
    let mut lock: BTreeMap<ComponentName, Digest> = BTreeMap::new();
    let mut images: BTreeMap<ComponentName, LockedImages> = BTreeMap::new();
    let mut manifests: BTreeSet<(RepositoryName, Digest)> =
        listed.iter().map(|listed| (listed.reference.name.clone(), listed.digest)).collect();
    let mut used = BTreeSet::new();
    let mut used_images = BTreeSet::new();
    for (profile_index, profile) in description.profiles.iter().enumerate() {
        for (component_index, component) in profile.components.iter().enumerate() {
            let field = format!("deploymentProfiles[{profile_index}].components[{component_index}]");
            let reference = match Reference::of_component(&component.properties) {
                Ok(reference) => reference,
                Err(error) => {
                    broken(format!("{field}.properties.repository"), error.to_string());
                    continue;
                }
            };
            let Some(artifact) = components.get(&reference) else {
                broken(format!("{field}.properties"), format!("{reference} is not in the upload"));
                continue;
            };
            if is_wasm(profile)
                && let Err(rule) = check_wasm(artifact)
            {
                broken(format!("{field}.properties"), format!("{reference} {rule}"));
            }
            if profile.kind == ProfileType::Compose {
                let values = assumed_values(&description, &component.name);
                match check_compose(artifact, archives, offered, &values) {
                    Ok(locked) => {
                        used_images.extend(locked.keys().cloned());
                        let all = locked.values().flat_map(BTreeMap::values);
                        manifests.extend(all.map(|image| (reference.name.clone(), image.manifest)));
                        images.insert(component.name.clone(), locked);
                    }
                    Err(rule) => broken(format!("{field}.properties"), format!("{reference} {rule}")),
                }
            }
            used.insert(reference);
            // The lock knows components by their names alone, so a name has to mean the same artifact in all profiles.
            if lock.insert(component.name.clone(), artifact.digest).is_some_and(|other| other != artifact.digest) {
                let rule = format!("{:?} is another artifact in another profile", component.name.as_str());
                broken(format!("{field}.name"), rule);
            }
        }
    }
    for unused in components.keys().filter(|reference| !used.contains(**reference)) {
        broken("index.json".to_owned(), format!("no component of {file} is {unused}"));
    }
    let unused: BTreeSet<_> =
        offered.iter().map(|image| &image.name).filter(|name| !used_images.contains(*name)).collect();
    for name in unused {
        broken("index.json".to_owned(), format!("no component of {file} runs image {name:?}"));
    }
    if !errors.is_empty() {
        return Err(UploadError::Rules(errors));
    }
    let manifests = manifests.into_iter().collect();
    Ok(Upload { description, text, digest: package.digest, lock, images, manifests })
}

/// Checks a Compose Archive with the values that are known before anybody has chosen any, and finds its images (WFM-33).
/// Returns the broken rule.
fn check_compose(
    artifact: &Listed,
    archives: &BTreeMap<Digest, ListedArchive>,
    offered: &[ListedImage],
    values: &BTreeMap<String, String>,
) -> Result<LockedImages, String> {
    if artifact.manifest.artifact_type.as_deref() != Some(media::COMPOSE_ARTIFACT) {
        return Err(format!("must have artifactType {}", media::COMPOSE_ARTIFACT));
    }
    if (artifact.layers(media::COMPOSE).count(), artifact.manifest.layers.len()) != (1, 1) {
        return Err(format!("must have exactly one layer, of type {}", media::COMPOSE));
    }
    let ListedArchive { file, files } = archives.get(&artifact.digest).ok_or("must be a Compose Archive")?;
    let named = |error: compose::ComposeError| format!("has a compose.yaml that is not taken: {error}");
    file.resolve(values, files).map_err(named)?;
    let mut images = LockedImages::new();
    for name in file.images().map_err(named)? {
        let mut platforms: BTreeMap<String, LockedImage> = BTreeMap::new();
        for image in offered.iter().filter(|image| image.name == name) {
            let other = platforms.insert(image.platform.clone(), image.locked.clone());
            if other.is_some_and(|other| other != image.locked) {
                return Err(format!("runs image {name:?}, which is there twice for {}", image.platform));
            }
        }
        if platforms.is_empty() {
            return Err(format!("runs image {name:?}, which is not in the upload"));
        }
        images.insert(name, platforms);
    }
    Ok(images)
}

/// Checks the form of a Wasm artifact. Returns the broken rule.
fn check_wasm(artifact: &Listed) -> Result<(), String> {
    if artifact.manifest.artifact_type.as_deref() != Some(media::WASM_ARTIFACT) {
        return Err(format!("must have artifactType {}", media::WASM_ARTIFACT));
    }
    match (artifact.layers(media::WASM).count(), artifact.manifest.layers.len()) {
        (1, 1) => Ok(()),
        _ => Err(format!("must have exactly one layer, of type {}", media::WASM)),
    }
}

impl Upload {
    /// What the catalogue shows of this upload, when this order adds it.
    pub fn app(&self, order: &OrderHeader) -> App {
        let profile = |profile: &margo::DeploymentProfile| AppProfile { id: profile.id.clone(), kind: profile.kind };
        App {
            id: self.description.id.clone(),
            version: self.description.metadata.version.clone(),
            name: self.description.metadata.name.clone(),
            profiles: self.description.profiles.iter().map(profile).collect(),
            digest: self.digest,
            added_by: order.requested_by.to_string(),
            added_at: order.requested_at.clone(),
        }
    }
}

#[cfg(test)]
#[path = "domain/tests.rs"]
mod tests;
