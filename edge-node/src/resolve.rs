//! From documents to launches: which runtime, which artifact, which values. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use margo::{
    ApplicationDeployment, DeployedComponent, DeploymentId, Digest, LockedImages, ParameterValue, ProfileType,
};
use oci::RepositoryName;
use runtime::WorkloadId;
use serde_json::Value;

use crate::{
    component_digest,
    desired::{Deployment, Desired, Revision},
    status::Obstacle,
};

/// A manifest in the site's store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArtifactId {
    pub name: RepositoryName,
    /// The digest of the manifest, from the lock.
    pub manifest: Digest,
}

/// How a component is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The name of the runtime.
    pub runtime: &'static str,
    pub artifact: ArtifactId,
    /// The parameters that target the component, by pointer.
    pub values: BTreeMap<String, ParameterValue>,
    /// The container images that the lock names for the component.
    pub images: LockedImages,
    /// `x-edgewright-extensions` of the component; `null` when there is none.
    pub settings: Value,
    /// How long the component may take until it runs (DEV-26).
    pub timeout: Option<Duration>,
}

/// One component of a deployment, and how it is run or why it cannot run on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    pub id: WorkloadId,
    /// The digest of all that the component is made of. While it stays the same, the component is not started anew.
    pub digest: Digest,
    /// How it is run. What runs of a component that cannot be resolved is left alone: only its deployment's removal or a
    /// revision that can run may end it.
    pub launch: Result<Launch, Obstacle>,
}

/// The components of every deployment, in the order of the document in force. There are none where that cannot be read.
pub type Resolution = BTreeMap<DeploymentId, Arc<[Resolved]>>;

/// The name of a runtime, and the deployment type that it serves.
pub type Offered = (&'static str, ProfileType);

/// Resolves every component of a desired state against the runtimes of this node, and against what the node is, as soon as that
/// is known (DEV-24). `before` is a desired state that was resolved against the same: what both have is not resolved again.
pub fn resolve(
    desired: &Desired,
    offered: &[Offered],
    device: Option<&Value>,
    before: Option<(&Desired, &Resolution)>,
) -> Resolution {
    let at_hand = |id: &DeploymentId, revision: &Revision| {
        let (before, resolution) = before?;
        let is_same = std::ptr::eq(before.deployments.get(id)?.in_force(), revision);
        resolution.get(id).filter(|_| is_same).cloned()
    };
    let resolved = |(id, deployment): (&DeploymentId, &Deployment)| {
        let revision = deployment.in_force();
        (*id, at_hand(id, revision).unwrap_or_else(|| components(*id, revision, offered, device)))
    };
    desired.deployments.iter().map(resolved).collect()
}

fn components(
    deployment: DeploymentId,
    revision: &Revision,
    offered: &[Offered],
    device: Option<&Value>,
) -> Arc<[Resolved]> {
    let document = revision.read();
    let components = document.iter().flat_map(|document| {
        document.spec.profile.components.iter().map(move |component| Resolved {
            id: WorkloadId { deployment, component: component.name.clone() },
            digest: component_digest::of(document, component),
            launch: eligible(document, device).and_then(|()| launch(document, component, offered)),
        })
    });
    components.collect()
}

/// Returns the components of all deployments.
pub fn each(resolution: &Resolution) -> impl Iterator<Item = &Resolved> {
    resolution.values().flat_map(|components| components.iter())
}

/// Finds one component in a resolution.
pub fn find<'a>(resolution: &'a Resolution, id: &WorkloadId) -> Option<&'a Resolved> {
    resolution.get(&id.deployment)?.iter().find(|resolved| resolved.id == *id)
}

/// Whether this node, by its DeviceCapabilitiesManifest, is one of those that the document is for.
fn eligible(document: &ApplicationDeployment, device: Option<&Value>) -> Result<(), Obstacle> {
    let Some(constraints) = document.spec.profile.device_constraints.as_ref().filter(|it| it.has_rules()) else {
        return Ok(());
    };
    match device {
        None => Err(Obstacle::passing("not-described", "the node is still looking what it can do")),
        Some(device) if constraints.admits(device) => Ok(()),
        Some(_) => {
            let rule = "this node satisfies none of the document's eligibility rules";
            Err(Obstacle::lasting("not-eligible", rule))
        }
    }
}

fn launch(
    document: &ApplicationDeployment,
    component: &DeployedComponent,
    offered: &[Offered],
) -> Result<Launch, Obstacle> {
    let runtime = runtime(document, offered).map_err(|message| Obstacle::lasting("unsupported", message))?;
    let name = RepositoryName::of_platform(&component.properties.repository)
        .map_err(|error| Obstacle::lasting("unsupported", error))?;
    let mut lock = document.lock().unwrap_or_default();
    let manifest = lock.components.get(&component.name);
    let manifest = *manifest.ok_or_else(|| Obstacle::lasting("invalid", "the lock does not name this component"))?;
    Ok(Launch {
        runtime,
        artifact: ArtifactId { name, manifest },
        values: document.values(&component.name),
        images: lock.images.remove(&component.name).unwrap_or_default(),
        settings: component.edgewright().cloned().unwrap_or_default(),
        timeout: component.properties.timeout(),
    })
}

/// A type other than `custom` says by itself what is needed; `custom` names its runtime in an extension.
fn runtime(document: &ApplicationDeployment, offered: &[Offered]) -> Result<&'static str, String> {
    let profile = &document.spec.profile;
    let named = profile.edgewright().and_then(|ours| ours.get("runtime")).and_then(Value::as_str);
    if profile.kind == ProfileType::Custom && named.is_none() {
        return Err("the profile does not name its runtime (x-edgewright-extensions: { runtime: … })".to_owned());
    }
    let serves = |(name, kind): &&Offered| *kind == profile.kind && named.is_none_or(|named| named == *name);
    let runtime = offered.iter().find(serves).map(|(name, _)| *name);
    runtime.ok_or_else(|| format!("this node has no runtime {} for type {}", named.unwrap_or("at all"), profile.kind))
}
