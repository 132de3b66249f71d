//! Making signed commits in memory. Nothing here touches a repository but to read a folder that is not in memory.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gix::objs::WriteTo;
use identity::{SigningKey, trust::GIT_NAMESPACE};
use jiff::Timestamp;
use margo::{RepositoryName, TenantName};

use crate::{
    Bases, Blob, CommitId, FileChange, GitError, Message, Series,
    journal::Epoch,
    layout,
    memory::{self, Memory},
    recent::Recent,
};

/// The name under which git-writer commits.
const COMMITTER: &str = "git-writer";

/// The parts of a commit that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The name of who ordered it.
    pub author: &'a str,
    /// The message with its trailers.
    pub message: &'a Message,
    /// The files that change. An empty list makes a commit with the files of its parent.
    pub changes: &'a [FileChange],
    /// The time of the commit.
    pub at: Timestamp,
}

/// Makes the commits of a tenant, of many repositories at the same time, and also while others are carried out.
pub struct Drafter {
    folder: PathBuf,
    tenant: TenantName,
    key: SigningKey,
    /// The address of the committer.
    committer: String,
    held: Mutex<Held>,
}

struct Held {
    memories: Recent<Memory>,
    /// Of those that have to make room, the trees alone: to read them again costs much more than to begin another pack.
    trees: Recent<Memory>,
    /// The journal's present life, as far as was heard.
    epoch: Epoch,
}

impl Drafter {
    pub(crate) fn new(folder: PathBuf, tenant: TenantName, key: SigningKey, epoch: Epoch) -> Self {
        let held = Mutex::new(Held { memories: Recent::new(memory::BUDGET), trees: Recent::new(memory::TREES), epoch });
        Self { committer: committer(&tenant), folder, tenant, key, held }
    }

    /// Says in which life the journal is, so that packs are begun that it will hold whole.
    pub(crate) fn journal_is_at(&self, epoch: Epoch) {
        self.held().epoch = epoch;
    }

    /// Begins a series of commits in a repository that was opened before, at the commit that is thought to be its newest;
    /// `None` when there is no branch yet.
    pub fn series(&self, name: &RepositoryName, from: Option<CommitId>) -> Series {
        Series::at(name.clone(), layout::repository(&self.folder, &self.tenant, name), from)
    }

    /// Adds a signed commit to a series and returns its id. After an error the series ends where it did before, and takes no
    /// other commit.
    pub fn write(&self, series: &mut Series, draft: Draft<'_>) -> Result<CommitId, GitError> {
        self.write_ready(series, draft, &[])
    }

    /// Begins a series. Returns what the files of its commits become deltas to, so that they can be made ready.
    pub fn begin(&self, series: &mut Series) -> Result<Bases, GitError> {
        self.begin_if_new(series)?;
        Ok(series.bases())
    }

    fn begin_if_new(&self, series: &mut Series) -> Result<(), GitError> {
        if series.has_begun() {
            return Ok(());
        }
        let (memory, epoch) = {
            let mut held = self.held();
            (held.take(series.name()), held.epoch)
        };
        series.begin(memory, epoch)
    }

    /// Does the same as [`Drafter::write`] with files that were made ready, in the order of the changes. Nothing depends on them but
    /// the time that it takes.
    pub fn write_ready(
        &self,
        series: &mut Series,
        draft: Draft<'_>,
        ready: &[Option<Blob>],
    ) -> Result<CommitId, GitError> {
        self.begin_if_new(series)?;
        let time = gix::date::Time::new(draft.at.as_second(), 0);
        let author = person_name(draft.author);
        let author = gix::actor::Signature { email: address(&author, &self.tenant).into(), name: author.into(), time };
        let committer = gix::actor::Signature { email: self.committer.as_str().into(), name: COMMITTER.into(), time };
        series.add(draft.changes, ready, |tree, parent| {
            let mut commit = gix::objs::Commit {
                tree,
                parents: parent.iter().map(|parent| parent.0).collect(),
                author,
                committer,
                encoding: None,
                message: draft.message.to_string().into(),
                extra_headers: Vec::new(),
            };
            let mut unsigned = Vec::new();
            commit.write_to(&mut unsigned).expect("writing to memory cannot fail");
            let signature = self.sign(GIT_NAMESPACE, &unsigned)?;
            commit.extra_headers.push(("gpgsig".into(), signature.trim_end().into()));
            Ok(commit)
        })
    }

    /// Signs bytes with the key that signs commits, and returns the armoured SSHSIG.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, GitError> {
        self.key.sign(namespace, bytes).map_err(GitError::Sign)
    }

    /// Tells whether a series at this commit can be drafted with what is in memory. Otherwise the commit has to be in the
    /// repository.
    pub fn remembers(&self, name: &RepositoryName, tip: Option<CommitId>) -> bool {
        let held = self.held();
        held.memories.get(name).or_else(|| held.trees.get(name)).is_some_and(|memory| memory.tip() == tip)
    }

    /// Keeps in memory what a series has come to, as what the next one stands on.
    pub(crate) fn keep(&self, name: RepositoryName, memory: Memory) {
        let (size, mut held) = (memory.size(), self.held());
        drop(held.trees.take(&name));
        for (name, memory) in held.memories.put(name, memory, size) {
            let trees = memory.without_pack();
            let size = trees.size();
            drop(held.trees.put(name, trees, size));
        }
    }

    /// Forgets what a series has come to that did not get into its repository.
    pub(crate) fn forget(&self, name: &RepositoryName) {
        drop(self.held().take(name));
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes out all that is held of a repository.
    fn take(&mut self, name: &RepositoryName) -> Option<Memory> {
        let (memory, trees) = (self.memories.take(name), self.trees.take(name));
        memory.or(trees)
    }
}

/// Returns a name that Git accepts: Git ends a name at `<`, and drops dots and the like at its ends.
fn person_name(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).take(100).collect();
    let name = name.trim_matches(|c: char| c.is_whitespace() || ".,:;\"\\'".contains(c));
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

/// Returns an address that Git accepts. Nobody reads mail there.
fn address(name: &str, tenant: &TenantName) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let local: String = name.to_lowercase().chars().map(allowed).collect();
    format!("{local}@{tenant}.edgewright.local")
}

/// The address of who commits.
pub(crate) fn committer(tenant: &TenantName) -> String {
    address(COMMITTER, tenant)
}
