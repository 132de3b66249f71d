//! Which artifacts the deployments in force are made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io, mem,
};

use api::{WantedArtifact, WantedArtifacts};
use bus::proto;
use margo::{ApplicationDeployment, NodeName};
use tracing::warn;

use super::{InForce, domain::NodeDesired};

/// The platform's own store, resolved at every tier.
const STORE: &str = "oci://edgewright.local/";

/// What each node wants, as far as it was asked for: of a set that comes into force, only the nodes that changed are
/// read.
#[derive(Default)]
pub struct Artifacts {
    nodes: BTreeMap<NodeName, (NodeDesired, BTreeSet<WantedArtifact>)>,
}

impl Artifacts {
    /// What the set in force wants, sorted, each once. Blocks.
    pub fn wanted(&mut self, in_force: &InForce) -> io::Result<WantedArtifacts> {
        let mut known = mem::take(&mut self.nodes);
        for (node, desired) in &in_force.set.nodes {
            let artifacts = match known.remove(node) {
                Some((held, artifacts)) if held == *desired => artifacts,
                _ => read(in_force, node)?,
            };
            self.nodes.insert(node.clone(), (desired.clone(), artifacts));
        }
        let wanted: BTreeSet<_> = self.nodes.values().flat_map(|(_, artifacts)| artifacts).collect();
        Ok(WantedArtifacts { artifacts: wanted.into_iter().cloned().collect() })
    }
}

/// What one node wants.
fn read(in_force: &InForce, node: &NodeName) -> io::Result<BTreeSet<WantedArtifact>> {
    let Some(served) = in_force.node(node)? else { return Ok(BTreeSet::new()) };
    let message: proto::DesiredNode = bus::decode(&served.payload).map_err(io::Error::other)?;
    let mut artifacts = BTreeSet::new();
    for deployment in &message.deployments {
        match ApplicationDeployment::parse(&deployment.document, &deployment.id) {
            Ok(document) => artifacts.extend(of(&document)),
            // The node will say so as well: it is the one that has to run it.
            Err(error) => warn!(%node, error = &error as &dyn Error, "no artifacts of a deployment"),
        }
    }
    Ok(artifacts)
}

fn of(document: &ApplicationDeployment) -> Vec<WantedArtifact> {
    let lock = document.lock().unwrap_or_default().components;
    let components = document.spec.profile.components.iter();
    let wanted = components.filter_map(|component| {
        let name = component.properties.repository.strip_prefix(STORE)?.to_owned();
        Some(WantedArtifact { name, digest: *lock.get(&component.name)? })
    });
    wanted.collect()
}
