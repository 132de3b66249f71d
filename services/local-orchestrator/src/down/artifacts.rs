//! Which artifacts the deployments in force are made of.

use std::{collections::BTreeSet, error::Error, io};

use api::{WantedArtifact, WantedArtifacts};
use bus::proto;
use margo::ApplicationDeployment;
use tracing::warn;

use super::InForce;

/// The platform's own store, resolved at every tier.
const STORE: &str = "oci://edgewright.local/";

/// What the set in force wants, sorted, each once. Blocks.
pub fn wanted(in_force: &InForce) -> io::Result<WantedArtifacts> {
    let mut artifacts = BTreeSet::new();
    for node in in_force.set.nodes.keys() {
        let Some(served) = in_force.node(node)? else { continue };
        let message: proto::DesiredNode = bus::decode(&served.payload).map_err(io::Error::other)?;
        for deployment in &message.deployments {
            match ApplicationDeployment::parse(&deployment.document, &deployment.id) {
                Ok(document) => artifacts.extend(of(&document)),
                // The node will say so as well: it is the one that has to run it.
                Err(error) => warn!(%node, error = &error as &dyn Error, "no artifacts of a deployment"),
            }
        }
    }
    Ok(WantedArtifacts { artifacts: artifacts.into_iter().collect() })
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
