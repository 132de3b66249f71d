//! What a row means for its repository: whether it is the next one, and which files it changes. No git, no bus, no clock.

use std::{collections::BTreeMap, fmt, str::FromStr};

use bus::{Repository, ServiceName};
use git_state::{FileChange, InvalidManifest, InvalidPath, Manifest, Message, TreePath, layout};
use margo::{ClientName, DeploymentId, Digest, Head, InvalidId, InvalidName, ManifestVersion, NodeName, TenantName};

/// Trailers that only git-writer sets.
pub const OWN_TRAILERS: [&str; 3] =
    [layout::HANDLED_TRAILER, layout::MANIFEST_VERSION_TRAILER, layout::TRACEPARENT_TRAILER];

/// One numbered change of one repository.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who numbered it.
    pub source: ServiceName,
    /// From 1, without gaps, per source and repository.
    pub number: u64,
    /// Author of the commit.
    pub author: String,
    /// What the commit says, without the trailers of git-writer.
    pub message: Message,
    /// What it changes. It has a number also when it can never be carried out, so it cannot be left out.
    pub change: Result<Change, ImpossibleChange>,
}

/// What a row changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Files of `fleet.git`.
    Files(Vec<FileChange>),
    /// Deployments of a client.
    Deployments(Vec<DeploymentChange>),
}

/// What happens to one deployment of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeploymentChange {
    /// On which node.
    pub node: NodeName,
    /// Which deployment.
    pub deployment: DeploymentId,
    /// Its document and its summary; `None`: it is removed.
    pub content: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why a row can never be carried out: a defect of its source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleChange {
    /// Nothing that this git-writer knows.
    #[error("the change is of an unknown kind")]
    Unknown,
    /// Files for a client, or deployments for the fleet.
    #[error("a change of this kind does not belong into {0}")]
    Misplaced(Repository),
    /// Not a path.
    #[error(transparent)]
    Path(#[from] InvalidPath),
    /// A path of another source.
    #[error("{source_name} does not write {path}")]
    Foreign {
        /// Who sent it.
        source_name: ServiceName,
        /// What it wanted to write.
        path: TreePath,
    },
    /// Not a node's name.
    #[error(transparent)]
    Node(#[from] InvalidName),
    /// Not a deployment's id.
    #[error(transparent)]
    Deployment(#[from] InvalidId),
}

/// Whether a source may write a file of `fleet.git`.
pub fn may_write(source: ServiceName, path: &TreePath) -> bool {
    let folders: &[&str] = match source {
        ServiceName::AppRegistry => &["apps"],
        ServiceName::NodeCapabilities => &["sites", "clients", "nodes"],
        ServiceName::DeploymentRegistry => &["assignments", "placements"],
        ServiceName::ApiGateway
        | ServiceName::GitWriter
        | ServiceName::GitObserver
        | ServiceName::StatusCollector
        | ServiceName::LocalOrchestrator
        | ServiceName::OciFetcher => &[],
    };
    path.as_str().split_once('/').is_some_and(|(folder, _)| folders.contains(&folder))
}

/// The number of the last row of each source that stands in a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handled(BTreeMap<String, u64>);

/// A row's place in the order of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It stands in the repository.
    Behind,
    /// It is to be committed now.
    Next,
    /// Earlier ones are missing: its source will publish them and it again.
    Ahead,
}

impl Handled {
    /// Where a row stands.
    pub fn place(&self, source: ServiceName, number: u64) -> Place {
        let next = self.0.get(source.as_str()).copied().unwrap_or(0) + 1;
        match number.cmp(&next) {
            std::cmp::Ordering::Less => Place::Behind,
            std::cmp::Ordering::Equal => Place::Next,
            std::cmp::Ordering::Greater => Place::Ahead,
        }
    }

    /// The next row of this source stands in the repository.
    pub fn advance(&mut self, source: ServiceName) {
        *self.0.entry(source.as_str().to_owned()).or_default() += 1;
    }

    /// Source → number.
    pub fn numbers(&self) -> &BTreeMap<String, u64> {
        &self.0
    }
}

impl fmt::Display for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (source, number)) in self.0.iter().enumerate() {
            write!(f, "{}{source}={number}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// A trailer that is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("trailer Handled {0:?} is not valid: source=number, with spaces between")]
pub struct InvalidHandled(String);

impl FromStr for Handled {
    type Err = InvalidHandled;

    fn from_str(raw: &str) -> Result<Self, InvalidHandled> {
        let entry = |entry: &str| {
            let (source, number) = entry.split_once('=')?;
            Some((source.to_owned(), number.parse().ok()?))
        };
        raw.split_whitespace().map(entry).collect::<Option<_>>().map(Self).ok_or_else(|| InvalidHandled(raw.to_owned()))
    }
}

/// A client's manifest in short: what the next head is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// `None` before the first commit.
    version: Option<ManifestVersion>,
    list: BTreeMap<(NodeName, DeploymentId), Digest>,
}

impl Desired {
    /// What a commit has.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, InvalidManifest> {
        let manifest = Manifest::read(files)?;
        let list = manifest.list().iter().map(|(node, id, digest)| ((node.clone(), id), digest)).collect();
        Ok(Self { version: Some(manifest.version), list })
    }

    /// Its version.
    pub fn version(&self) -> Option<ManifestVersion> {
        self.version
    }

    /// Carries out a change under the next version; gives the files to be changed, all but the signed ones.
    pub fn apply(&mut self, changes: &[DeploymentChange]) -> Result<Vec<FileChange>, InvalidId> {
        let version = self.version.map_or(Ok(ManifestVersion::FIRST), ManifestVersion::next)?;
        let mut files = Vec::new();
        let mut touched = BTreeMap::new();
        for DeploymentChange { node, deployment, content } in changes {
            let key = (node.clone(), *deployment);
            let before = match content {
                Some((document, _)) => self.list.insert(key, Digest::of(document)),
                None => self.list.remove(&key),
            };
            let after = content.as_ref().map(|(document, _)| Digest::of(document));
            *touched.entry(node).or_insert(false) |= before != after;
            let (document, summary) = content.clone().unzip();
            files.push(change(&layout::document(node, deployment), document));
            files.push(change(&layout::summary(node, deployment), summary));
        }
        let number = || Some(format!("{version}\n").into_bytes());
        for (node, _) in touched.into_iter().filter(|(_, changed)| *changed) {
            files.push(change(&layout::node_version(node), number()));
        }
        files.push(change(layout::VERSION, number()));
        self.version = Some(version);
        Ok(files)
    }

    /// The summary to be signed; `None` before the first change.
    pub fn head(&self, tenant: &TenantName, client: &ClientName) -> Option<Head> {
        let list: margo::ManifestList =
            self.list.iter().map(|((node, id), digest)| (node.clone(), *id, *digest)).collect();
        Some(Head { tenant: tenant.clone(), client: client.clone(), version: self.version?, list: list.digest() })
    }
}

/// A file of the layout.
pub fn change(path: &str, content: Option<Vec<u8>>) -> FileChange {
    let path = path.to_owned().try_into().expect("names and ids make valid paths");
    FileChange { path, content }
}

#[cfg(test)]
mod tests;
