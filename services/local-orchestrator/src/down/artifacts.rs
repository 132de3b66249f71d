//! Which artifacts the deployments in force are made of.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io, mem,
    sync::{Arc, Weak},
};

use api::WantedArtifact;
use bus::proto;
use margo::{ApplicationDeployment, NodeName};
use oci::Location;
use tracing::warn;

use super::{InForce, domain::NodeDesired};

/// What is wanted, as far as it was asked for: of a set that comes into force, only the nodes that changed are read, and that
/// once.
#[derive(Default)]
pub struct Artifacts {
    nodes: BTreeMap<NodeName, (NodeDesired, BTreeSet<WantedArtifact>)>,
    /// The set that was asked about last, with what it wants.
    last: Option<(Weak<InForce>, Arc<BTreeSet<WantedArtifact>>)>,
}

impl Artifacts {
    /// What the set in force wants. Blocks when it is another one than the last time.
    pub fn wanted(&mut self, in_force: &Arc<InForce>) -> io::Result<Arc<BTreeSet<WantedArtifact>>> {
        if let Some((last, wanted)) = &self.last
            && Weak::ptr_eq(last, &Arc::downgrade(in_force))
        {
            return Ok(wanted.clone());
        }
        let wanted = Arc::new(self.of_nodes(in_force.set.list.nodes(), |node| read(in_force, node))?);
        self.last = Some((Arc::downgrade(in_force), wanted.clone()));
        Ok(wanted)
    }

    fn of_nodes<'a>(
        &mut self,
        nodes: impl Iterator<Item = (&'a NodeName, &'a NodeDesired)>,
        mut read: impl FnMut(&NodeName) -> io::Result<BTreeSet<WantedArtifact>>,
    ) -> io::Result<BTreeSet<WantedArtifact>> {
        // Those that have left are forgotten, and after an error those that were not looked at.
        let mut known = mem::take(&mut self.nodes);
        for (node, desired) in nodes {
            let wanted = match known.remove(node) {
                Some(held) if held.0 == *desired => held,
                _ => (desired.clone(), read(node)?),
            };
            self.nodes.insert(node.clone(), wanted);
        }
        Ok(self.nodes.values().flat_map(|(_, artifacts)| artifacts).cloned().collect())
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
    let lock = document.lock().unwrap_or_default();
    let components = document.spec.profile.components.iter();
    let wanted = components.filter_map(|component| {
        let location: Location = component.properties.repository.parse().ok()?;
        let name = location.name_at_site().ok()?.to_string();
        let registry = location.registry.map(String::from);
        let own = *lock.components.get(&component.name)?;
        // Images stand in the repository of the component. Which platform a node has, the site need not know.
        let images =
            lock.images.get(&component.name).into_iter().flatten().flat_map(|(_, platforms)| platforms.values());
        let digests = std::iter::once(own).chain(images.map(|image| image.manifest));
        let wanted = |digest| WantedArtifact { name: name.clone(), digest, registry: registry.clone() };
        Some(digests.map(wanted).collect::<Vec<_>>())
    });
    wanted.flatten().collect()
}

#[cfg(test)]
mod tests {
    use margo::{Digest, NodeEntry};

    use super::*;

    /// Nodes of these names, each changed at the version beside it.
    fn nodes(nodes: &[(&str, u64)]) -> BTreeMap<NodeName, NodeDesired> {
        let desired = |version: u64| -> NodeDesired {
            let id = "00000000-0000-4000-8000-000000000001".parse().unwrap();
            let deployments = [(id, Digest::of(&version.to_be_bytes()))].into();
            NodeEntry { identity: None, version: version.try_into().unwrap(), deployments }.into()
        };
        nodes.iter().map(|(name, version)| (name.parse().unwrap(), desired(*version))).collect()
    }

    fn artifact(name: &str) -> WantedArtifact {
        WantedArtifact { name: name.to_owned(), digest: Digest::of(b"manifest"), registry: None }
    }

    #[test]
    fn only_nodes_that_changed_are_read_and_nodes_that_left_want_nothing() {
        let mut artifacts = Artifacts::default();
        for (set, contents, read, wanted) in [
            (nodes(&[("lathe", 1), ("press", 1)]), "a", vec!["lathe", "press"], vec!["a"]),
            (nodes(&[("lathe", 1), ("press", 2)]), "b", vec!["press"], vec!["a", "b"]),
            (nodes(&[("lathe", 1), ("press", 2)]), "c", vec![], vec!["a", "b"]),
            (nodes(&[("press", 2), ("saw", 3)]), "c", vec!["saw"], vec!["b", "c"]),
            (nodes(&[("lathe", 1)]), "d", vec!["lathe"], vec!["d"]),
        ] {
            let mut were_read = Vec::new();
            let found = artifacts.of_nodes(set.iter(), |node| {
                were_read.push(node.to_string());
                Ok(BTreeSet::from([artifact(contents)]))
            });
            let names: Vec<_> = found.unwrap().into_iter().map(|artifact| artifact.name).collect();
            assert_eq!(
                (were_read, names),
                (read.into_iter().map(str::to_owned).collect(), wanted.into_iter().map(str::to_owned).collect())
            );
        }
    }

    #[test]
    fn what_could_not_be_read_is_read_again() {
        let (mut artifacts, set) = (Artifacts::default(), nodes(&[("press", 1)]));
        artifacts.of_nodes(set.iter(), |_| Err(io::ErrorKind::Other.into())).unwrap_err();
        let found = artifacts.of_nodes(set.iter(), |_| Ok(BTreeSet::from([artifact("a")]))).unwrap();
        assert_eq!(found, BTreeSet::from([artifact("a")]));
    }
}
