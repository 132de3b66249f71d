//! Which artifacts the deployments in force are made of.

use std::{collections::BTreeSet, error::Error, io};

use api::{WantedArtifact, WantedArtifacts};
use bus::{Subject, proto};
use margo::ApplicationDeployment;
use tracing::warn;

use super::staging::Adopted;

/// The platform's own store, resolved at every tier.
const STORE: &str = "oci://edgewright.local/";

/// What the set in force wants, sorted, each once.
pub fn wanted(adopted: &Adopted) -> io::Result<WantedArtifacts> {
    let Some((_, parcels)) = adopted.load()? else { return Ok(WantedArtifacts::default()) };
    let mut artifacts = BTreeSet::new();
    for (subject, parcel) in parcels.iter().filter(|(subject, _)| matches!(subject, Subject::DesiredNode(_))) {
        // Verified when it was adopted; what cannot be read now is read again when the disk is well.
        let Ok(node) = bus::decode::<proto::DesiredNode>(&parcel.payload) else { continue };
        for deployment in &node.deployments {
            match ApplicationDeployment::parse(&deployment.document, &deployment.id) {
                Ok(document) => artifacts.extend(of(&document)),
                // The node will say so as well: it is the one that has to run it.
                Err(error) => warn!(%subject, error = &error as &dyn Error, "no artifacts of a deployment"),
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
