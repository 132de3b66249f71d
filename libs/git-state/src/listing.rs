//! What a client shall run, by digest, found by comparing a commit with one that was read before.
//!
//! Folders that have the same id in both are not read: what stands in them is the same. So a commit costs what changed in
//! it, however much the client has; and without a commit before it, it costs everything. The result is that of
//! [`Manifest::read`](crate::Manifest::read), and no other, whatever it was compared with.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use gix::ObjectId;
use margo::{
    DeploymentId, Digest, InvalidId, InvalidName, ManifestList, ManifestVersion, NodeEntry, NodeFolder, NodeIdentity,
    NodeName,
};

use crate::{
    GitError, InvalidManifest, layout,
    manifest::parse_version,
    reader::{Child, Children, Commit, Reader},
};

/// Where the nodes stand.
const NODES: &str = "nodes";

/// Which rule a file breaks that is not where files of nodes are.
const PLACE: &str = "must stand in a node's folder";

/// The id of all files of a commit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeId(ObjectId);

impl TreeId {
    /// Returns the id of no files.
    pub fn empty() -> Self {
        Self(ObjectId::empty_tree(gix::hash::Kind::Sha1))
    }
}

/// What one commit says, by digest.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The id of all files together.
    pub tree: TreeId,
    /// The version of the manifest.
    pub version: ManifestVersion,
    /// The list that the head has to name.
    pub list: ManifestList,
}

/// What is different from the commit that was read before.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// The nodes that are new or have another entry.
    pub nodes: Vec<NodeName>,
    /// NODE files and documents that had to be read, as many as there was room for.
    pub contents: HashMap<Digest, Vec<u8>>,
}

/// Why there is no listing of a commit.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// The repository cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The files of the commit are no manifest.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
}

impl Reader {
    /// Reads what a commit says. `before` is the list of any other files of the same repository, the more like these the
    /// better. Of what had to be read, at most `room` bytes are kept.
    pub fn listing(
        &self,
        commit: &Commit,
        before: Option<(TreeId, &ManifestList)>,
        room: usize,
    ) -> Result<(Listing, Changes), ListingError> {
        let tree = TreeId(commit.tree());
        let files = self.on_the_way(0, commit.tree())?;
        let version = self.version(layout::VERSION, files.get(layout::VERSION))?;
        let mut list = before.map(|(_, list)| list.clone()).unwrap_or_default();
        let nodes_before = match before {
            Some((before, _)) if before == tree => files.get(NODES).copied(),
            Some((before, _)) => self.children(before.0)?.get(NODES).copied(),
            None => None,
        };
        let mut walk = Walk { reader: self, held: &list, found: Vec::new(), contents: HashMap::new(), room };
        walk.nodes(files.get(NODES).copied(), nodes_before)?;
        let Walk { found, contents, .. } = walk;
        let nodes = found.iter().filter(|(_, entry)| entry.is_some()).map(|(node, _)| node.clone()).collect();
        list.change(found);
        // Nodes that were not read are held against the version, too.
        if let Some((node, entry)) = list.changed_since(version.get()).next() {
            let rule = format!("the node has version {}, the manifest {version}", entry.version);
            return Err(InvalidManifest::new(layout::node_version(node), rule).into());
        }
        Ok((Listing { tree, version, list }, Changes { nodes, contents }))
    }

    fn version(&self, path: &str, file: Option<&Child>) -> Result<ManifestVersion, ListingError> {
        let content = match file {
            Some(Child::File(id)) => Some(self.content(*id)?),
            Some(Child::Folder(_)) | None => None,
        };
        Ok(parse_version(path, content.as_deref())?)
    }

    /// The children of a folder; none of what is no folder.
    fn children_of(&self, folder: Option<Child>) -> Result<Children, GitError> {
        match folder {
            Some(Child::Folder(id)) => self.children(id),
            Some(Child::File(_)) | None => Ok(Children::new()),
        }
    }

    /// The children of two folders that are not the same in both, by name, each as it is now and as it was before.
    fn differing(&self, now: Option<Child>, before: Option<Child>) -> Result<Vec<Difference>, GitError> {
        let (now, before) = (self.children_of(now)?, self.children_of(before)?);
        let names: BTreeSet<&String> = now.keys().chain(before.keys()).collect();
        let both = names.into_iter().map(|name| (name, now.get(name).copied(), before.get(name).copied()));
        let differing = both.filter(|(_, now, before)| now != before);
        Ok(differing.map(|(name, now, before)| Difference { name: name.clone(), now, before }).collect())
    }
}

struct Difference {
    name: String,
    now: Option<Child>,
    before: Option<Child>,
}

/// One walk through two trees at the same time.
struct Walk<'a> {
    reader: &'a Reader,
    /// The list of the tree before.
    held: &'a ManifestList,
    /// Nodes with another entry than before; without one, those that are gone.
    found: Vec<(NodeName, Option<Arc<NodeEntry>>)>,
    contents: HashMap<Digest, Vec<u8>>,
    room: usize,
}

impl Walk<'_> {
    fn nodes(&mut self, now: Option<Child>, before: Option<Child>) -> Result<(), ListingError> {
        if now == before {
            return Ok(());
        }
        for folder in self.reader.differing(now, before)? {
            let path = format!("{NODES}/{}", folder.name);
            if let Some(Child::File(_)) = folder.now {
                return Err(InvalidManifest::new(path, PLACE).into());
            }
            for node in self.reader.differing(folder.now, folder.before)? {
                self.node(&format!("{path}/{}", node.name), &folder.name, &node)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, path: &str, folder: &str, node: &Difference) -> Result<(), ListingError> {
        if let Some(Child::File(_)) = node.now {
            return Err(InvalidManifest::new(path, PLACE).into());
        }
        let files = self.reader.children_of(node.now)?;
        let name = node.name.parse::<NodeName>();
        if files.is_empty() {
            // A name that says nothing was in no list.
            self.found.extend(name.ok().filter(|name| self.held.get(name).is_some()).map(|name| (name, None)));
            return Ok(());
        }
        let name = name.map_err(|error: InvalidName| InvalidManifest::new(path, error.to_string()))?;
        let own = NodeFolder::of(&name);
        if own.to_string() != folder {
            return Err(InvalidManifest::new(path, format!("must stand in the folder {NODES}/{own}")).into());
        }
        let files_before = self.reader.children_of(node.before)?;
        let held = self.held.get(&name);
        let entry = self.entry(path, &files, &files_before, held)?;
        if held.is_none_or(|held| **held != entry) {
            self.found.push((name, Some(Arc::new(entry))));
        }
        Ok(())
    }

    /// The entry of a node, of whose files only those are read that are not the same as before.
    fn entry(
        &mut self,
        path: &str,
        files: &Children,
        before: &Children,
        held: Option<&Arc<NodeEntry>>,
    ) -> Result<NodeEntry, ListingError> {
        let same = |file: &str| held.filter(|_| files.get(file) == before.get(file));
        let version = match same("VERSION") {
            Some(held) => held.version,
            None => self.reader.version(&format!("{path}/VERSION"), files.get("VERSION"))?,
        };
        let (mut identity, mut deployments) = (None, BTreeMap::new());
        for (file, child) in files {
            let invalid = |rule: String| InvalidManifest::new(format!("{path}/{file}"), rule);
            let Child::File(id) = child else { return Err(invalid(PLACE.to_owned()).into()) };
            if file == "NODE" {
                identity = match same(file).and_then(|held| held.identity) {
                    Some(digest) => Some(digest),
                    None => {
                        let content = self.reader.content(*id)?;
                        NodeIdentity::parse(&content).map_err(|error| invalid(error.to_string()))?;
                        Some(self.keep(content))
                    }
                };
            } else if let Some(id_text) = file.strip_suffix(".yaml") {
                let deployment: DeploymentId =
                    id_text.parse().map_err(|error: InvalidId| invalid(error.to_string()))?;
                // In another spelling of the same id, it may be another file whose digest is held.
                let own = same(file).filter(|_| deployment.to_string() == id_text);
                let digest = match own.and_then(|held| held.deployments.get(&deployment)) {
                    Some(digest) => *digest,
                    None => {
                        let content = self.reader.content(*id)?;
                        self.keep(content)
                    }
                };
                deployments.insert(deployment, digest);
            }
        }
        Ok(NodeEntry { identity, version, deployments: deployments.into() })
    }

    fn keep(&mut self, content: Vec<u8>) -> Digest {
        let digest = Digest::of(&content);
        if content.len() <= self.room && !self.contents.contains_key(&digest) {
            self.room -= content.len();
            self.contents.insert(digest, content);
        }
        digest
    }
}
