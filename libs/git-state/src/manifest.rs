//! The manifest that the files of a client's repository are: who writes a commit and who reads it must find the same
//! list, because the head is signed for it.

use std::collections::BTreeMap;

use margo::{DeploymentId, Digest, InvalidId, ManifestList, ManifestVersion, NodeName};

use crate::layout;

/// The desired state of one client, as one commit has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The version of the manifest.
    pub version: ManifestVersion,
    /// Every node that was ever given a deployment and has not left.
    pub nodes: BTreeMap<NodeName, NodeManifest>,
}

/// The deployments of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeManifest {
    /// The version of the manifest at which this node last changed.
    pub version: ManifestVersion,
    /// The exact bytes of each deployment's document.
    pub documents: BTreeMap<DeploymentId, Vec<u8>>,
}

/// The files are no manifest. The message names the first file that is wrong, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("file {path} of the client's repository is not valid: {rule}")]
pub struct InvalidManifest {
    path: String,
    rule: String,
}

impl Manifest {
    /// Reads the files of a commit, by path. It fails when a version is missing or a document's name is no deployment.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, InvalidManifest> {
        let version = version(files, layout::VERSION)?;
        let mut nodes: BTreeMap<NodeName, NodeManifest> = BTreeMap::new();
        for (path, content) in files.range("nodes/".to_owned()..).take_while(|(path, _)| path.starts_with("nodes/")) {
            let invalid = |rule: String| InvalidManifest { path: path.clone(), rule };
            let names = path.strip_prefix("nodes/").and_then(|rest| rest.split_once('/'));
            let (node, file) = names.ok_or_else(|| invalid("must stand in a node's folder".to_owned()))?;
            let node: NodeName = node.parse().map_err(|error: margo::InvalidName| invalid(error.to_string()))?;
            if !nodes.contains_key(&node) {
                let changed = self::version(files, &layout::node_version(&node))?;
                if changed > version {
                    return Err(invalid(format!("the node has version {changed}, the manifest {version}")));
                }
                nodes.insert(node.clone(), NodeManifest { version: changed, documents: BTreeMap::new() });
            }
            let Some(id) = file.strip_suffix(".yaml") else { continue };
            let id: DeploymentId = id.parse().map_err(|error: InvalidId| invalid(error.to_string()))?;
            if let Some(node) = nodes.get_mut(&node) {
                node.documents.insert(id, content.clone());
            }
        }
        Ok(Self { version, nodes })
    }

    /// Returns the list that a head summarises: the digest of each document.
    pub fn list(&self) -> ManifestList {
        let entries = self.nodes.iter().flat_map(|(name, node)| {
            node.documents.iter().map(move |(id, document)| (name.clone(), *id, Digest::of(document)))
        });
        entries.collect()
    }
}

fn version(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Result<ManifestVersion, InvalidManifest> {
    let number = |content: &Vec<u8>| std::str::from_utf8(content).ok()?.strip_suffix('\n')?.parse::<u64>().ok();
    let version = files.get(path).and_then(number).and_then(|number| ManifestVersion::try_from(number).ok());
    let rule = "must hold a manifest version and a line end".to_owned();
    version.ok_or_else(|| InvalidManifest { path: path.to_owned(), rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";

    fn files() -> BTreeMap<String, Vec<u8>> {
        let document = format!("nodes/press/{ID}.yaml");
        let summary = format!("nodes/press/{ID}.json");
        let files = [
            ("VERSION", "7\n"),
            ("head", "h"),
            ("nodes/idle/VERSION", "5\n"),
            ("nodes/press/VERSION", "7\n"),
            (&document, "id: x"),
            (&summary, "{}"),
        ];
        files.iter().map(|(path, content)| ((*path).to_owned(), content.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_manifest_is_a_function_of_the_files() {
        let manifest = Manifest::read(&files()).unwrap();
        assert_eq!(manifest.version.get(), 7);
        let [idle, press] = ["idle", "press"].map(|node| &manifest.nodes[&node.parse().unwrap()]);
        assert_eq!((idle.version.get(), idle.documents.len()), (5, 0));
        assert_eq!((press.version.get(), &press.documents[&ID.parse().unwrap()][..]), (7, b"id: x".as_slice()));
        let list = manifest.list();
        let entries: Vec<_> =
            list.iter().map(|(node, id, digest)| (node.to_string(), id.to_string(), digest)).collect();
        assert_eq!(entries, [("press".to_owned(), ID.to_owned(), Digest::of(b"id: x"))]);
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_its_file() {
        let without = |path: &str| {
            let mut files = files();
            files.remove(path);
            Manifest::read(&files).unwrap_err().to_string()
        };
        assert!(without("VERSION").contains("file VERSION"));
        assert!(without("nodes/press/VERSION").contains("file nodes/press/VERSION"));
        for (path, content) in [
            ("VERSION", "x\n"),
            ("VERSION", "0\n"),
            ("VERSION", "7"),
            ("VERSION", "6\n"),
            ("nodes/x", ""),
            ("nodes/press/no-uuid.yaml", ""),
            ("nodes/Press/VERSION", "1\n"),
        ] {
            let mut files = files();
            files.insert(path.to_owned(), content.as_bytes().to_vec());
            assert!(Manifest::read(&files).is_err(), "{path} {content:?}");
        }
    }
}
