//! From an archive, parameters and the lock to what `docker compose` is given.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::IpAddr,
};

use compose::{Archive, ArchiveError, ComposeFile, Ours, Project};
use margo::LockedImage;
use oci::{Descriptor, media};
use runtime::{Artifact, CERTIFICATE_FOLDER, Collector, ReservedPorts, RuntimeError, Workload};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{AGENT, COMPONENT, DEPLOYMENT, REVISION},
    images::{local_name, platforms},
};

/// What becomes of volumes when the workload is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Volumes {
    /// They stay, and the same deployment finds them again.
    #[default]
    Keep,
    /// They go with it.
    Delete,
}

/// What a component's `x-edgewright-extensions` may set.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    pub volumes: Volumes,
}

impl Settings {
    /// Reads the extension as the document has it.
    pub fn parse(value: &serde_json::Value) -> Result<Self, RuntimeError> {
        if value.is_null() {
            return Ok(Self::default());
        }
        let invalid = |error| RuntimeError::Invalid(format!("x-edgewright-extensions of the component: {error}"));
        Self::deserialize(value).map_err(invalid)
    }
}

/// A workload whose archive was read and checked, and whose images are known.
pub struct Checked {
    pub project: Project,
    /// The images by the names in the file.
    pub images: BTreeMap<String, LockedImage>,
}

/// Returns the one layer of a Compose Archive's artifact.
pub fn archive(artifact: &Artifact) -> Result<&Descriptor, RuntimeError> {
    let invalid = |rule: String| Err(RuntimeError::Invalid(rule));
    if artifact.manifest.artifact_type.as_deref() != Some(media::COMPOSE_ARTIFACT) {
        return invalid(format!(
            "the artifact of a compose component must have artifactType {}",
            media::COMPOSE_ARTIFACT
        ));
    }
    match artifact.manifest.layers.as_slice() {
        [layer] if layer.media_type == media::COMPOSE => Ok(layer),
        _ => invalid(format!("the artifact of a compose component must have one layer, of type {}", media::COMPOSE)),
    }
}

/// Reads and checks the archive of a workload, which is on the disk. Blocks.
pub fn check(workload: &Workload, address: IpAddr, reserved: &ReservedPorts) -> Result<Checked, RuntimeError> {
    Settings::parse(&workload.settings)?;
    let layer = archive(&workload.artifact)?;
    let path = workload.content.path(&layer.digest);
    let opened = File::open(&path);
    let opened =
        opened.map_err(|source| RuntimeError::Io { attempt: format!("opening {}", path.display()), source })?;
    let archive = Archive::read(opened).map_err(invalid)?;
    let file = ComposeFile::parse(&archive.compose).map_err(invalid)?;
    let project = file.resolve(&workload.environment(), &archive.files).map_err(invalid)?;
    if let Some(port) = project.ports().into_iter().find(|port| reserved.contains(*port)) {
        let rule = format!("port {port} is reserved for the platform's own servers; choose another one");
        return Err(RuntimeError::Invalid(rule));
    }
    if let Some(port) = project.port_elsewhere(address) {
        let asked = port.address.map(|address| address.to_string()).unwrap_or_default();
        let rule = format!("a port on {asked}: workloads of this node listen on {address}; leave the address out");
        return Err(RuntimeError::Invalid(rule));
    }
    let image = |name: &String| {
        let locked = workload.images.get(name);
        let locked = locked.ok_or_else(|| RuntimeError::Invalid(format!("the lock does not name image {name:?}")))?;
        let here = platforms().iter().find_map(|platform| locked.get(*platform));
        let here =
            here.ok_or_else(|| RuntimeError::Invalid(format!("image {name:?} is not there for this platform")))?;
        Ok((name.clone(), here.clone()))
    };
    let names: BTreeSet<_> = project.services.values().map(|service| &service.image).collect();
    let images = names.into_iter().map(image).collect::<Result<_, RuntimeError>>()?;
    Ok(Checked { project, images })
}

fn invalid(error: impl std::error::Error) -> RuntimeError {
    match process::chain(&error) {
        text if text.is_empty() => RuntimeError::Invalid("the Compose Archive is not valid".to_owned()),
        text => RuntimeError::Invalid(text),
    }
}

/// A disk that fails says nothing about the archive.
pub fn extracting(error: ArchiveError) -> RuntimeError {
    match error {
        ArchiveError::Disk { source, .. } => {
            RuntimeError::Io { attempt: "writing the files of a Compose Archive".to_owned(), source }
        }
        other => invalid(other),
    }
}

impl Checked {
    /// Writes the file for `docker compose`, and returns it with the revision of each service.
    pub fn render(
        &self,
        workload: &Workload,
        agent: &str,
        address: IpAddr,
        collector: &Collector,
    ) -> (String, BTreeMap<String, String>) {
        let images = self.images.iter().map(|(name, image)| (name.clone(), local_name(&image.id))).collect();
        let labels = [
            (AGENT, agent.to_owned()),
            (DEPLOYMENT, workload.id.deployment.to_string()),
            (COMPONENT, workload.id.component.to_string()),
        ];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let (archive, environment) = (workload.artifact.digest, collector.variables());
        let (images, labels, environment) = (&images, &labels, &environment);
        let folder = collector.certificate.as_deref().map(|folder| (folder, CERTIFICATE_FOLDER));
        self.project.render(&Ours { images, labels, revision: REVISION, address, environment, folder, archive })
    }
}
