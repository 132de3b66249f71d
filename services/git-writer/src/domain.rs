//! What a row means for its repository: whether it is the next one of its source, and which files its commit changes.
//! No git, no bus, no clock.

use std::{collections::BTreeMap, fmt, str::FromStr};

use bus::ServiceName;
use git_state::{FileChange, InvalidPath, Message, TreePath, layout};
use margo::{
    DeploymentId, Digest, InvalidId, InvalidName, ManifestError, ManifestList, ManifestVersion, NamedDeployments,
    NodeEntry, NodeName, RepositoryName,
};

/// Trailers that git-writer sets itself. A source that sends one of them would forge how far a repository is, so they
/// are taken out of what sources send.
pub const OWN_TRAILERS: [&str; 3] =
    [layout::HANDLED_TRAILER, layout::MANIFEST_VERSION_TRAILER, layout::TRACEPARENT_TRAILER];

/// One entry of the log: what one source wants to have written into one repository. It becomes one commit.
#[derive(Clone, Debug)]
pub struct Row {
    /// The service that decided on the row and numbered it.
    pub source: ServiceName,
    /// Counts the rows of one source for one repository, from 1 and without gaps.
    pub number: u64,
    /// In a client's repository: the number of the source's row in `fleet.git` that has to be committed first. 0 when there
    /// is none.
    pub follows_fleet: u64,
    /// Author of the commit: the person or the service that gave the order.
    pub author: String,
    /// Message of the commit, without the trailers that git-writer adds.
    pub message: Message,
    /// An impossible row keeps its number: if it were dropped, all later rows of its source would wait for it for ever.
    pub edits: Result<Edits, ImpossibleEdits>,
}

impl Row {
    /// Returns how many bytes the files have that the row brings.
    pub fn size(&self) -> usize {
        match &self.edits {
            Ok(Edits::Files(files)) => files.iter().filter_map(|file| file.content.as_ref()).map(Vec::len).sum(),
            Ok(Edits::Client(ClientEdits { nodes, deployments })) => {
                let contents = deployments.iter().filter_map(|edit| edit.content.as_ref());
                let documents: usize = contents.map(|(document, summary)| document.len() + summary.len()).sum();
                documents + nodes.iter().map(|edit| edit.identity.len()).sum::<usize>()
            }
            Err(_) => 0,
        }
    }
}

/// What a row writes. Which of the two it is has to fit the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edits {
    /// Files of `fleet.git`, whose content the source has decided on.
    Files(Vec<FileChange>),
    /// Nodes and deployments of one client; git-writer makes the files of the client's repository from them.
    Client(ClientEdits),
}

/// What changes in a client's repository. Without any edit, only its version rises.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientEdits {
    pub nodes: Vec<NodeEdit>,
    pub deployments: Vec<DeploymentEdit>,
}

/// Who a node is from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEdit {
    pub node: NodeName,
    /// The exact bytes of the file NODE.
    pub identity: Vec<u8>,
}

/// A deployment on one node that is to be put, replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentEdit {
    pub node: NodeName,
    pub deployment: DeploymentId,
    /// The exact bytes of the ApplicationDeployment and of its summary for readers. `None` removes the deployment;
    /// removing one that is not there changes nothing.
    pub content: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why a row can never be carried out. That is a defect of its source, so trying again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleEdits {
    /// The row holds nothing that this version of git-writer knows.
    #[error("the change is of an unknown kind")]
    Unknown,
    /// The row brings files for a client's repository, or deployments for `fleet.git`.
    #[error("a change of this kind does not belong into {0}")]
    Misplaced(RepositoryName),
    /// A file has a path that no repository may hold, such as `../x`.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// A file is in a folder that another source writes.
    #[error("{source_name} does not write {path}")]
    Foreign { source_name: ServiceName, path: TreePath },
    /// The source does not write what the row holds for a client's repository.
    #[error("{source_name} does not write {what}")]
    ForeignEdit { source_name: ServiceName, what: &'static str },
    /// The bytes are no NODE file.
    #[error(transparent)]
    Identity(#[from] ManifestError),
    /// The name of a node breaks the rules for names.
    #[error(transparent)]
    Node(#[from] InvalidName),
    /// The id of a deployment is not a UUID.
    #[error(transparent)]
    Deployment(#[from] InvalidId),
}

/// Whether a source may write this file of `fleet.git`: each folder at the top has one source, which alone writes it.
pub fn may_write(source: ServiceName, path: &TreePath) -> bool {
    let folders: &[&str] = match source {
        ServiceName::AppRegistry => &["apps"],
        ServiceName::NodeCapabilities => &["sites", "clients", "nodes"],
        ServiceName::DeploymentRegistry => &["assignments", "placements"],
        ServiceName::ApiGateway
        | ServiceName::GitWriter
        | ServiceName::GitObserver
        | ServiceName::Identity
        | ServiceName::StatusCollector
        | ServiceName::LocalOrchestrator
        | ServiceName::OciFetcher => &[],
    };
    path.as_str().split_once('/').is_some_and(|(folder, _)| folders.contains(&folder))
}

/// How far a repository is: for each source, the number of its last row that is committed there. The trailer `Handled`
/// of the tip holds it as `source=number` pairs, sorted by source and with spaces between. Names of sources that this
/// version does not know stay in it, so that a source that comes back does not begin again with 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handled(BTreeMap<String, u64>);

/// Where a row stands among the rows of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The row is committed already. It came again because its source had not heard of that.
    Behind,
    /// The row is to be committed now.
    Next,
    /// Earlier rows are missing. Nothing is done: the source publishes all rows that are not committed again, in order.
    Ahead,
    /// The row is the next one of its client, and `fleet.git` does not hold the order yet from which it follows. It waits, so
    /// that nobody finds a deployment that nobody meant.
    AheadOfFleet,
}

impl Handled {
    /// Where a row of this repository stands, when `fleet` is how far `fleet.git` is.
    pub fn place(&self, source: ServiceName, number: u64, follows_fleet: u64, fleet: &Handled) -> Place {
        match number.cmp(&(self.number(source) + 1)) {
            std::cmp::Ordering::Less => Place::Behind,
            std::cmp::Ordering::Equal if follows_fleet > fleet.number(source) => Place::AheadOfFleet,
            std::cmp::Ordering::Equal => Place::Next,
            std::cmp::Ordering::Greater => Place::Ahead,
        }
    }

    /// How far `fleet.git` is after these rows, of which those are carried out that are next.
    pub fn after<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Self {
        let mut handled = self.clone();
        for row in rows {
            match handled.place(row.source, row.number, 0, self) {
                Place::Next if row.edits.is_err() => break,
                Place::Next => handled.advance(row.source),
                Place::Behind | Place::Ahead | Place::AheadOfFleet => {}
            }
        }
        handled
    }

    /// The number of the last committed row of this source; 0 before the first.
    pub fn number(&self, source: ServiceName) -> u64 {
        self.0.get(source.as_str()).copied().unwrap_or(0)
    }

    /// Counts the next row of this source as committed.
    pub fn advance(&mut self, source: ServiceName) {
        *self.0.entry(source.as_str().to_owned()).or_default() += 1;
    }

    /// The name of each source with the number of its last committed row.
    pub fn numbers(&self) -> &BTreeMap<String, u64> {
        &self.0
    }
}

impl fmt::Display for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (source, number)) in self.0.iter().enumerate() {
            write!(f, "{}{source}={number}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// The trailer `Handled` of a tip is not in the form in which git-writer writes it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trailer Handled {0:?} is not valid: source=number, with spaces between")]
pub struct InvalidHandled(String);

impl FromStr for Handled {
    type Err = InvalidHandled;

    fn from_str(raw: &str) -> Result<Self, InvalidHandled> {
        let parse = |pair: &str| {
            let (source, number) = pair.split_once('=')?;
            Some((source.to_owned(), number.parse().ok()?))
        };
        raw.split_whitespace().map(parse).collect::<Option<_>>().map(Self).ok_or_else(|| InvalidHandled(raw.to_owned()))
    }
}

/// The version of a client's manifest after one more commit: the first one when nothing is committed yet (`None`).
/// Fails after the last version that a JSON number can hold.
pub fn next_version(held: Option<ManifestVersion>) -> Result<ManifestVersion, InvalidId> {
    held.map_or(Ok(ManifestVersion::FIRST), ManifestVersion::next)
}

/// Carries out edits on a client's list under the given version. Returns the files to be changed, except those that are
/// signed. `VERSION` rises with every row, also with one that changes nothing; the version of a node only when its identity or
/// a document of the node becomes another one.
pub fn carry_out(edits: &ClientEdits, version: ManifestVersion, list: &mut ManifestList) -> Vec<FileChange> {
    let mut files = Vec::new();
    let mut touched: BTreeMap<&NodeName, NodeEntry> = BTreeMap::new();
    let held = |list: &ManifestList, node: &NodeName| match list.get(node) {
        Some(entry) => NodeEntry::clone(entry),
        None => NodeEntry { identity: None, version, deployments: NamedDeployments::default() },
    };
    for NodeEdit { node, identity } in &edits.nodes {
        touched.entry(node).or_insert_with(|| held(list, node)).identity = Some(Digest::of(identity));
        files.push(file(&layout::node_identity(node), Some(identity.clone())));
    }
    for DeploymentEdit { node, deployment, content } in &edits.deployments {
        let entry = touched.entry(node).or_insert_with(|| held(list, node));
        match content {
            Some((document, _)) => entry.deployments.insert(*deployment, Digest::of(document)),
            None => entry.deployments.remove(deployment),
        }
        let (document, summary) = content.clone().unzip();
        files.push(file(&layout::document(node, deployment), document));
        files.push(file(&layout::summary(node, deployment), summary));
    }
    let number = || Some(format!("{version}\n").into_bytes());
    for (node, entry) in touched {
        let changed = match list.get(node) {
            Some(held) => **held != entry,
            None => entry.identity.is_some() || !entry.deployments.is_empty(),
        };
        if changed {
            list.put(node.clone(), NodeEntry { version, ..entry });
            files.push(file(&layout::node_version(node), number()));
        }
    }
    files.push(file(layout::VERSION, number()));
    files
}

/// A file of the layout of a client's repository. `None` deletes it.
pub fn file(path: &str, content: Option<Vec<u8>>) -> FileChange {
    let path = path.to_owned().try_into().expect("names and ids make valid paths");
    FileChange { path, content }
}

#[cfg(test)]
mod tests;
