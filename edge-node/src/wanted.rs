//! From documents to orders: which runtime, which artifact, which environment. Pure.

use std::{collections::BTreeMap, time::Duration};

use margo::{ApplicationDeployment, DeployedComponent, DeploymentId, Digest, ProfileType};
use oci::RepositoryName;
use runtime::WorkloadId;
use serde_json::Value;

use crate::{
    desired::{Deployment, Desired},
    plan::{Placed, Workloads},
    status::Obstacle,
};

/// A manifest at the site's store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArtifactId {
    /// The repository.
    pub name: RepositoryName,
    /// Digest of the manifest, from the lock.
    pub manifest: Digest,
}

/// How a component is to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Name of the runtime.
    pub runtime: &'static str,
    /// What to run.
    pub artifact: ArtifactId,
    /// Parameters that target it.
    pub environment: BTreeMap<String, String>,
    /// Its `x-edgewright-extensions`.
    pub settings: Value,
    /// How long it may take to run (DEV-26).
    pub timeout: Option<Duration>,
}

/// One component that shall run, or why it cannot run here.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Which one.
    pub id: WorkloadId,
    /// sha256 of its deployment's document.
    pub digest: Digest,
    /// How.
    pub order: Result<Order, Obstacle>,
}

/// The components of every deployment, in the order of its document.
pub type Orders = BTreeMap<DeploymentId, Vec<Wanted>>;

/// A runtime by name, and the profile type that it serves.
pub type Offered = (&'static str, ProfileType);

/// Resolves every component of the desired state against the runtimes of this node.
pub fn orders(desired: &Desired, offered: &[Offered]) -> Orders {
    let wanted = |id: &DeploymentId, deployment: &Deployment| {
        let components = deployment.content.spec.profile.components.iter();
        let wanted = components.map(|component| Wanted {
            id: WorkloadId { deployment: *id, component: component.name.clone() },
            digest: deployment.digest,
            order: order(&deployment.content, component, offered),
        });
        (*id, wanted.collect())
    };
    desired.deployments.iter().map(|(id, deployment)| wanted(id, deployment)).collect()
}

fn order(
    document: &ApplicationDeployment,
    component: &DeployedComponent,
    offered: &[Offered],
) -> Result<Order, Obstacle> {
    let lasting = |code, message| Obstacle { code, message, lasting: true };
    let runtime = runtime(document, offered).map_err(|message| lasting("unsupported", message))?;
    let name = RepositoryName::of_platform(&component.properties.repository)
        .map_err(|error| lasting("unsupported", error.to_string()))?;
    let lock = document.lock().unwrap_or_default();
    let manifest = lock.components.get(&component.name);
    let manifest = *manifest.ok_or_else(|| lasting("invalid", "the lock does not name this component".to_owned()))?;
    Ok(Order {
        runtime,
        artifact: ArtifactId { name, manifest },
        environment: document.environment(&component.name),
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

/// Where each workload shall be; those that cannot run here are nowhere.
pub fn workloads(orders: &Orders) -> Workloads {
    let placed = |wanted: &Wanted| {
        let order = wanted.order.as_ref().ok()?;
        Some((wanted.id.clone(), Placed { runtime: order.runtime.to_owned(), digest: wanted.digest }))
    };
    orders.values().flatten().filter_map(placed).collect()
}
