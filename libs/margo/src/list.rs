//! What a manifest names, as sorted texts of digests in three levels: one text for each node, one for each folder of nodes,
//! and the top text, whose digest the signed head names.
//!
//! So one change costs three small texts, however many nodes there are; whoever holds most of a list fetches only the texts
//! that differ; and a stranger checks every line with `sha256sum`:
//!
//! ```text
//! nodes/84/press          84                        (top)
//! NODE sha256:…           84/press sha256:…         49/ sha256:…
//! VERSION 7                                         84/ sha256:…
//! 9db79949-… sha256:…
//! ```

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    str::FromStr,
    sync::Arc,
};

use crate::{DeploymentId, Digest, ManifestError, ManifestVersion, NodeName, manifest::Lines};

/// The folder of a node in its client's repository: the first two hex digits of the sha256 of its name, as
/// `printf %s NAME | sha256sum` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeFolder(u8);

impl NodeFolder {
    /// How many folders there are at most.
    pub const COUNT: usize = 256;

    /// Returns the folder of this node.
    pub fn of(node: &NodeName) -> Self {
        Self(Digest::of(node.as_str().as_bytes()).as_bytes()[0])
    }
}

impl fmt::Display for NodeFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// The text is no folder of nodes. It holds the first 10 characters of the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("folder {0:?} is not valid: two lower-case hex digits")]
pub struct InvalidNodeFolder(String);

impl FromStr for NodeFolder {
    type Err = InvalidNodeFolder;

    fn from_str(raw: &str) -> Result<Self, InvalidNodeFolder> {
        let folder = u8::from_str_radix(raw, 16).ok().map(Self).filter(|folder| folder.to_string() == raw);
        folder.ok_or_else(|| InvalidNodeFolder(raw.chars().take(10).collect()))
    }
}

/// What one node shall run and who it is, by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// The digest of the file NODE, which says who the node is ([`crate::NodeIdentity`]). `None` while nobody was admitted
    /// under this name.
    pub identity: Option<Digest>,
    /// The version of the manifest at which this node last changed.
    pub version: ManifestVersion,
    /// The deployments of the node, each with the digest of its document.
    pub deployments: NamedDeployments,
}

/// Deployments, each with the digest of its document, sorted by id. They are one piece of memory of just their size: lists of
/// ten thousand nodes are held for years and changed one node at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedDeployments(Box<[(DeploymentId, Digest)]>);

impl NamedDeployments {
    /// Returns the digest of a deployment's document.
    pub fn get(&self, id: &DeploymentId) -> Option<&Digest> {
        let at = self.position(id).ok()?;
        self.0.get(at).map(|(_, digest)| digest)
    }

    /// Puts a deployment, in the place of what is held under its id.
    pub fn insert(&mut self, id: DeploymentId, digest: Digest) {
        match self.position(&id) {
            Ok(at) => self.0[at].1 = digest,
            Err(at) => {
                let (before, behind) = self.0.split_at(at);
                self.0 = [before, &[(id, digest)], behind].concat().into();
            }
        }
    }

    /// Takes a deployment out.
    pub fn remove(&mut self, id: &DeploymentId) {
        if let Ok(at) = self.position(id) {
            self.0 = [&self.0[..at], &self.0[at + 1..]].concat().into();
        }
    }

    /// Returns all, sorted by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&DeploymentId, &Digest)> {
        self.0.iter().map(|(id, digest)| (id, digest))
    }

    /// Returns the digests of all documents, sorted by the ids.
    pub fn digests(&self) -> impl ExactSizeIterator<Item = &Digest> {
        self.0.iter().map(|(_, digest)| digest)
    }

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the id is, or has to be.
    fn position(&self, id: &DeploymentId) -> Result<usize, usize> {
        self.0.binary_search_by(|(held, _)| held.cmp(id))
    }
}

impl From<BTreeMap<DeploymentId, Digest>> for NamedDeployments {
    fn from(deployments: BTreeMap<DeploymentId, Digest>) -> Self {
        Self(deployments.into_iter().collect())
    }
}

impl<const N: usize> From<[(DeploymentId, Digest); N]> for NamedDeployments {
    fn from(deployments: [(DeploymentId, Digest); N]) -> Self {
        Self::from_iter(deployments)
    }
}

impl FromIterator<(DeploymentId, Digest)> for NamedDeployments {
    /// Of several with one id the last one counts.
    fn from_iter<T: IntoIterator<Item = (DeploymentId, Digest)>>(deployments: T) -> Self {
        deployments.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl NodeEntry {
    /// Returns the node's text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let written: fmt::Result = (|| {
            if let Some(identity) = self.identity {
                writeln!(text, "NODE {identity}")?;
            }
            writeln!(text, "VERSION {}", self.version)?;
            self.deployments.iter().try_for_each(|(id, digest)| writeln!(text, "{id} {digest}"))
        })();
        written.expect("writing to a String cannot fail");
        text
    }

    /// Reads what [`NodeEntry::to_text`] wrote. It fails on any other spelling of the same content.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = Lines::new("node's text", text, MAX_NODE_TEXT)?;
        let identity = if lines.next_is("NODE ") { Some(lines.parse("NODE")?) } else { None };
        let version: u64 = lines.parse("VERSION")?;
        let version = version.try_into().map_err(|error: crate::InvalidId| lines.error(error.to_string()))?;
        let mut deployments = BTreeMap::new();
        while let Some((id, digest)) = lines.pair()? {
            deployments.insert(id, digest);
        }
        let entry = Self { identity, version, deployments: deployments.into() };
        if entry.to_text().as_bytes() == text { Ok(entry) } else { Err(lines.error("must be sorted and end there")) }
    }
}

/// The most bytes of a node's text: 500 deployments of 109 bytes each, and room for versions of this software that allow
/// more.
const MAX_NODE_TEXT: usize = 256 << 10;

/// The most bytes of a folder's text: 10,000 nodes of one folder.
const MAX_FOLDER_TEXT: usize = 2 << 20;

/// Reads a folder's text: the digest of the text of each of its nodes. It fails unless every node belongs into this folder, and
/// on any other spelling of the same content.
pub fn parse_folder(folder: NodeFolder, text: &[u8]) -> Result<BTreeMap<NodeName, Digest>, ManifestError> {
    let mut lines = Lines::new("folder's text", text, MAX_FOLDER_TEXT)?;
    let mut nodes = BTreeMap::new();
    while let Some((name, digest)) = lines.pair::<String>()? {
        let node = name.strip_prefix(&format!("{folder}/")).and_then(|node| node.parse::<NodeName>().ok());
        let node = node.filter(|node| NodeFolder::of(node) == folder);
        let node =
            node.ok_or_else(|| lines.error(format!("must be {folder}/ and the name of a node that belongs there")))?;
        nodes.insert(node, digest);
    }
    if folder_text(folder, nodes.iter().map(|(node, digest)| (node, *digest))).as_bytes() != text || nodes.is_empty() {
        return Err(lines.error("must be sorted and end there"));
    }
    Ok(nodes)
}

/// Reads a top text: the digest of the text of each folder. It fails on any other spelling of the same content.
pub fn parse_top(text: &[u8]) -> Result<BTreeMap<NodeFolder, Digest>, ManifestError> {
    let mut lines = Lines::new("list", text, 64 << 10)?;
    let mut folders = BTreeMap::new();
    while let Some((name, digest)) = lines.pair::<String>()? {
        let folder = name.strip_suffix('/').and_then(|folder| folder.parse::<NodeFolder>().ok());
        folders.insert(folder.ok_or_else(|| lines.error("must be two hex digits and a slash"))?, digest);
    }
    let written = top_text(folders.iter().map(|(folder, digest)| (*folder, *digest)));
    if written.as_bytes() == text { Ok(folders) } else { Err(lines.error("must be sorted and end there")) }
}

fn folder_text<'a>(folder: NodeFolder, nodes: impl Iterator<Item = (&'a NodeName, Digest)>) -> String {
    let mut text = String::new();
    for (node, digest) in nodes {
        writeln!(text, "{folder}/{node} {digest}").expect("writing to a String cannot fail");
    }
    text
}

fn top_text(folders: impl Iterator<Item = (NodeFolder, Digest)>) -> String {
    folders.map(|(folder, digest)| top_line(folder, digest)).collect()
}

/// The length of a line of a top text in bytes: `84/ sha256:`, 64 digits and the end of the line.
const TOP_LINE: usize = 76;

fn top_line(folder: NodeFolder, digest: Digest) -> String {
    format!("{folder}/ {digest}\n")
}

/// The whole list of one client. A change computes the texts that it touches and no others; a copy shares the folders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestList {
    folders: BTreeMap<NodeFolder, Arc<FolderEntry>>,
    /// The top text, whose lines are all of one length: to write it anew for each change costs as much as to sign it.
    top: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FolderEntry {
    nodes: BTreeMap<NodeName, (Arc<NodeEntry>, Digest)>,
    digest: Digest,
    /// The version of the manifest at which one of the nodes last changed.
    version: u64,
    /// How many deployments the nodes have together.
    deployments: usize,
}

impl FolderEntry {
    fn empty() -> Self {
        Self { nodes: BTreeMap::new(), digest: Digest::of(b""), version: 0, deployments: 0 }
    }

    fn text(&self, folder: NodeFolder) -> String {
        folder_text(folder, self.nodes.iter().map(|(node, (_, digest))| (node, *digest)))
    }

    /// Computes again what follows from the nodes.
    fn sum_up(&mut self, folder: NodeFolder) {
        let entries = || self.nodes.values().map(|(entry, _)| entry);
        self.version = entries().map(|entry| entry.version.get()).max().unwrap_or(0);
        self.deployments = entries().map(|entry| entry.deployments.len()).sum();
        self.digest = Digest::of(self.text(folder).as_bytes());
    }
}

impl ManifestList {
    /// Puts a node into the list, in the place of what it holds of this node.
    pub fn put(&mut self, node: NodeName, entry: impl Into<Arc<NodeEntry>>) {
        self.change([(node, Some(entry.into()))]);
    }

    /// Takes a node out of the list.
    pub fn remove(&mut self, node: &NodeName) {
        self.change([(node.clone(), None)]);
    }

    /// Puts many nodes into the list, and takes those out that are given without an entry. The text of each folder that this
    /// touches is computed once.
    pub fn change(&mut self, changes: impl IntoIterator<Item = (NodeName, Option<Arc<NodeEntry>>)>) {
        let mut folders: BTreeMap<NodeFolder, Vec<_>> = BTreeMap::new();
        for (node, entry) in changes {
            folders.entry(NodeFolder::of(&node)).or_default().push((node, entry));
        }
        for (folder, changes) in folders {
            let is_new = !self.folders.contains_key(&folder);
            let held = Arc::make_mut(self.folders.entry(folder).or_insert_with(|| Arc::new(FolderEntry::empty())));
            for (node, entry) in changes {
                match entry {
                    Some(entry) => {
                        let digest = Digest::of(entry.to_text().as_bytes());
                        held.nodes.insert(node, (entry, digest));
                    }
                    None => drop(held.nodes.remove(&node)),
                }
            }
            held.sum_up(folder);
            let line = if held.nodes.is_empty() { String::new() } else { top_line(folder, held.digest) };
            if held.nodes.is_empty() {
                self.folders.remove(&folder);
            }
            let begin = self.folders.range(..folder).count() * TOP_LINE;
            let end = if is_new { begin } else { begin + TOP_LINE };
            self.top.replace_range(begin..end, &line);
        }
    }

    /// Returns what the list has of a node.
    pub fn get(&self, node: &NodeName) -> Option<&Arc<NodeEntry>> {
        self.folders.get(&NodeFolder::of(node))?.nodes.get(node).map(|(entry, _)| entry)
    }

    /// Returns all nodes, sorted by folder and then by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, &Arc<NodeEntry>)> {
        self.folders.values().flat_map(|folder| folder.nodes.iter().map(|(node, (entry, _))| (node, entry)))
    }

    /// Returns the nodes that changed after this version of the manifest. Folders without any cost nothing.
    pub fn changed_since(&self, version: u64) -> impl Iterator<Item = (&NodeName, &Arc<NodeEntry>)> {
        let folders = self.folders.values().filter(move |folder| folder.version > version);
        let nodes = folders.flat_map(|folder| folder.nodes.iter().map(|(node, (entry, _))| (node, entry)));
        nodes.filter(move |(_, entry)| entry.version.get() > version)
    }

    /// Returns the digest that a head names: that of the top text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.top.as_bytes())
    }

    /// Returns the top text, with one line for each folder.
    pub fn top_text(&self) -> &str {
        &self.top
    }

    /// Returns a folder's text; `None` when no node belongs there.
    pub fn folder_text(&self, folder: NodeFolder) -> Option<String> {
        self.folders.get(&folder).map(|entry| entry.text(folder))
    }

    /// Returns the digest of a folder's text; `None` when no node belongs there.
    pub fn folder_digest(&self, folder: NodeFolder) -> Option<Digest> {
        self.folders.get(&folder).map(|entry| entry.digest)
    }

    /// Returns the nodes of one folder, each with the digest of its text.
    pub fn folder(&self, folder: NodeFolder) -> impl Iterator<Item = (&NodeName, &Arc<NodeEntry>, Digest)> {
        let nodes = self.folders.get(&folder).into_iter().flat_map(|entry| &entry.nodes);
        nodes.map(|(node, (entry, digest))| (node, entry, *digest))
    }

    /// Returns all folders in which there is a node, sorted.
    pub fn folders(&self) -> impl Iterator<Item = NodeFolder> {
        self.folders.keys().copied()
    }

    /// Returns how many nodes the list names.
    pub fn len(&self) -> usize {
        self.folders.values().map(|folder| folder.nodes.len()).sum()
    }

    /// Returns how many deployments the nodes have together.
    pub fn deployments(&self) -> usize {
        self.folders.values().map(|folder| folder.deployments).sum()
    }

    /// Tells whether the list names no node.
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty()
    }
}

impl<E: Into<Arc<NodeEntry>>> FromIterator<(NodeName, E)> for ManifestList {
    fn from_iter<T: IntoIterator<Item = (NodeName, E)>>(entries: T) -> Self {
        let mut list = Self::default();
        list.change(entries.into_iter().map(|(node, entry)| (node, Some(entry.into()))));
        list
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn entry(version: u64, documents: &[&str]) -> NodeEntry {
        let tenant = crate::TenantName::default();
        let id =
            |document: &str| DeploymentId::new(&tenant, &document.parse().unwrap(), &"plant/press".parse().unwrap());
        let deployments = documents.iter().map(|document| (id(document), Digest::of(document.as_bytes())));
        NodeEntry {
            identity: Some(Digest::of(b"node")),
            version: version.try_into().unwrap(),
            deployments: deployments.collect(),
        }
    }

    #[test]
    fn the_three_texts_are_what_sha256sum_says() {
        let mut list = ManifestList::default();
        list.put(node("press"), entry(7, &[]));
        // printf %s press | sha256sum
        let folder = NodeFolder::of(&node("press"));
        assert_eq!(folder.to_string(), "84");
        let text = list.get(&node("press")).unwrap().to_text();
        assert_eq!(text, format!("NODE {}\nVERSION 7\n", Digest::of(b"node")));
        let folder_text = list.folder_text(folder).unwrap();
        assert_eq!(folder_text, format!("84/press {}\n", Digest::of(text.as_bytes())));
        assert_eq!(list.top_text(), format!("84/ {}\n", Digest::of(folder_text.as_bytes())));
        assert_eq!(list.digest(), Digest::of(list.top_text().as_bytes()));
        assert_eq!(ManifestList::default().digest(), Digest::of(b""));
    }

    #[test]
    fn a_node_s_text_has_exactly_one_form() {
        let text = entry(7, &["a", "b"]).to_text();
        assert_eq!(NodeEntry::parse(text.as_bytes()).unwrap(), entry(7, &["a", "b"]));
        let unnamed = NodeEntry { identity: None, ..entry(7, &["a"]) };
        assert_eq!(NodeEntry::parse(unnamed.to_text().as_bytes()).unwrap(), unnamed);
        let lines: Vec<_> = text.lines().collect();
        for changed in [
            text.replace("VERSION 7", "VERSION 07"),
            text.replace("VERSION 7", "VERSION 0"),
            text.replace("VERSION 7\n", ""),
            text.replace("NODE", "node"),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("{text}{}\n", lines[2]),
            [lines[0], lines[1], lines[3], lines[2], ""].join("\n"),
        ] {
            assert!(NodeEntry::parse(changed.as_bytes()).is_err(), "{changed}");
        }
    }

    #[test]
    fn a_folder_holds_the_nodes_that_belong_there_and_no_others() {
        let digest = Digest::of(b"x");
        let folder = NodeFolder::of(&node("press"));
        let good = format!("{folder}/press {digest}\n");
        assert_eq!(parse_folder(folder, good.as_bytes()).unwrap(), BTreeMap::from([(node("press"), digest)]));
        let foreign = format!("{folder}/oven {digest}\n");
        let elsewhere = format!("00/press {digest}\n");
        for bad in [foreign.as_str(), &elsewhere, "", "\n", &good.repeat(2), good.trim_end()] {
            assert!(parse_folder(folder, bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn any_entries() -> impl Strategy<Value = BTreeMap<String, u64>> {
        proptest::collection::btree_map("[a-c]{1,3}", 1..9u64, 0..20)
    }

    proptest! {
        /// However a list came about, its texts are the same, and reading them gives the list back.
        #[test]
        fn a_list_is_its_texts(entries in any_entries(), extra in any_entries()) {
            let whole: ManifestList = entries.iter().map(|(name, version)| (node(name), entry(*version, &["a"]))).collect();
            let mut grown = ManifestList::default();
            for (name, version) in extra.iter().chain(&entries) {
                grown.put(node(name), entry(*version, &["a"]));
            }
            for name in extra.keys().filter(|name| !entries.contains_key(*name)) {
                grown.remove(&node(name));
            }
            prop_assert_eq!(&grown, &whole);
            let mut read = BTreeMap::new();
            for (folder, digest) in parse_top(whole.top_text().as_bytes()).unwrap() {
                let text = whole.folder_text(folder).unwrap();
                prop_assert_eq!(Digest::of(text.as_bytes()), digest);
                for (node, digest) in parse_folder(folder, text.as_bytes()).unwrap() {
                    let text = whole.get(&node).unwrap().to_text();
                    prop_assert_eq!(Digest::of(text.as_bytes()), digest);
                    read.insert(node, NodeEntry::parse(text.as_bytes()).unwrap());
                }
            }
            prop_assert_eq!(whole.deployments(), entries.len());
            for version in 0..10 {
                let changed: Vec<_> = whole.nodes().filter(|(_, entry)| entry.version.get() > version).collect();
                prop_assert_eq!(whole.changed_since(version).collect::<Vec<_>>(), changed);
            }
            prop_assert_eq!(read.into_iter().collect::<ManifestList>(), whole);
        }
    }
}
