//! The manifest that the files of a client's repository are: who writes a commit and who reads it must find the same
//! list, because the head is signed for it.

use std::collections::BTreeMap;

use margo::{
    DeploymentId, Digest, InvalidId, ManifestList, ManifestVersion, NodeEntry, NodeFolder, NodeIdentity, NodeName,
};

use crate::layout;

/// The desired state of one client, as one commit has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The version of the manifest.
    pub version: ManifestVersion,
    /// Every node that was ever admitted or given a deployment.
    pub nodes: BTreeMap<NodeName, NodeManifest>,
}

/// One node: who it is, and its deployments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeManifest {
    /// The bytes of the file NODE; `None` while nobody was admitted under this name.
    pub identity: Option<Vec<u8>>,
    /// The version of the manifest at which this node last changed.
    pub version: ManifestVersion,
    /// The exact bytes of each deployment's document.
    pub documents: BTreeMap<DeploymentId, Vec<u8>>,
}

impl NodeManifest {
    /// Returns the node's entry in the list: the same by digest.
    pub fn entry(&self) -> NodeEntry {
        NodeEntry {
            identity: self.identity.as_deref().map(Digest::of),
            version: self.version,
            deployments: self.documents.iter().map(|(id, document)| (*id, Digest::of(document))).collect(),
        }
    }
}

/// The files are no manifest. The message names the first file that is wrong, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("file {path} of the client's repository is not valid: {rule}")]
pub struct InvalidManifest {
    path: String,
    rule: String,
}

impl InvalidManifest {
    pub(crate) fn new(path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into() }
    }
}

impl Manifest {
    /// Reads the files of a commit, by path. It fails when a version is missing, when a document's name is no deployment, or
    /// when a NODE file is none.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, InvalidManifest> {
        let version = version(files, layout::VERSION)?;
        let mut nodes: BTreeMap<NodeName, NodeManifest> = BTreeMap::new();
        for (path, content) in files.range("nodes/".to_owned()..).take_while(|(path, _)| path.starts_with("nodes/")) {
            let invalid = |rule: String| InvalidManifest { path: path.clone(), rule };
            let names: Vec<&str> = path.split('/').collect();
            let [_, folder, node, file] = names[..] else {
                return Err(invalid("must stand in a node's folder".to_owned()));
            };
            let node: NodeName = node.parse().map_err(|error: margo::InvalidName| invalid(error.to_string()))?;
            if NodeFolder::of(&node).to_string() != folder {
                return Err(invalid(format!("must stand in the folder nodes/{}", NodeFolder::of(&node))));
            }
            if !nodes.contains_key(&node) {
                let changed = self::version(files, &layout::node_version(&node))?;
                if changed > version {
                    return Err(invalid(format!("the node has version {changed}, the manifest {version}")));
                }
                let identity = files.get(&layout::node_identity(&node)).cloned();
                nodes.insert(node.clone(), NodeManifest { identity, version: changed, documents: BTreeMap::new() });
            }
            if file == "NODE" {
                NodeIdentity::parse(content).map_err(|error| invalid(error.to_string()))?;
            }
            let Some(id) = file.strip_suffix(".yaml") else { continue };
            let id: DeploymentId = id.parse().map_err(|error: InvalidId| invalid(error.to_string()))?;
            if let Some(node) = nodes.get_mut(&node) {
                node.documents.insert(id, content.clone());
            }
        }
        Ok(Self { version, nodes })
    }

    /// Returns the list that a head summarises.
    pub fn list(&self) -> ManifestList {
        self.nodes.iter().map(|(name, node)| (name.clone(), node.entry())).collect()
    }
}

fn version(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Result<ManifestVersion, InvalidManifest> {
    parse_version(path, files.get(path).map(Vec::as_slice))
}

/// Reads the content of a file `VERSION`, which stands at this path.
pub(crate) fn parse_version(path: &str, content: Option<&[u8]>) -> Result<ManifestVersion, InvalidManifest> {
    let number = |content| std::str::from_utf8(content).ok()?.strip_suffix('\n')?.parse::<u64>().ok();
    let version = content.and_then(number).and_then(|number| ManifestVersion::try_from(number).ok());
    version.ok_or_else(|| InvalidManifest::new(path, "must hold a manifest version and a line end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf %s idle | sha256sum
    const IDLE: &str = "nodes/4f/idle/VERSION";
    const ID: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";

    fn files() -> BTreeMap<String, Vec<u8>> {
        let document = format!("nodes/84/press/{ID}.yaml");
        let summary = format!("nodes/84/press/{ID}.json");
        let node = NodeIdentity { device: "plant/press".parse().unwrap(), identity: None, former: Vec::new() };
        let node = String::from_utf8(node.to_bytes()).unwrap();
        let files = [
            ("VERSION", "7\n"),
            ("head", "h"),
            (IDLE, "5\n"),
            ("nodes/84/press/VERSION", "7\n"),
            ("nodes/84/press/NODE", &node),
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
        assert_eq!((idle.version.get(), idle.documents.len(), &idle.identity), (5, 0, &None));
        assert_eq!((press.version.get(), &press.documents[&ID.parse().unwrap()][..]), (7, b"id: x".as_slice()));
        let list = manifest.list();
        assert_eq!(list.len(), 2);
        let entry = list.get(&"press".parse().unwrap()).unwrap();
        assert_eq!(entry.identity, Some(Digest::of(&files()["nodes/84/press/NODE"])));
        assert_eq!(entry.deployments, [(ID.parse().unwrap(), Digest::of(b"id: x"))].into());
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_its_file() {
        let without = |path: &str| {
            let mut files = files();
            files.remove(path);
            Manifest::read(&files).unwrap_err().to_string()
        };
        assert!(without("VERSION").contains("file VERSION"));
        assert!(without("nodes/84/press/VERSION").contains("file nodes/84/press/VERSION"));
        for (path, content) in [
            ("VERSION", "x\n"),
            ("VERSION", "0\n"),
            ("VERSION", "7"),
            ("VERSION", "6\n"),
            ("nodes/x", ""),
            ("nodes/84/press/no-uuid.yaml", ""),
            ("nodes/84/press/NODE", "x"),
            ("nodes/84/Press/VERSION", "1\n"),
            ("nodes/press/VERSION", "1\n"),
            ("nodes/85/press/VERSION", "1\n"),
        ] {
            let mut files = files();
            files.insert(path.to_owned(), content.as_bytes().to_vec());
            assert!(Manifest::read(&files).is_err(), "{path} {content:?}");
        }
    }
}
