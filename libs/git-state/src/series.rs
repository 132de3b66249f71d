//! Commits that are not in their repository yet.

use gix::{ObjectId, objs::Kind};

use crate::{CommitId, Repository, journal};

/// New commits of one repository, one on top of the other. They are in memory until [`Writer::advance`](crate::Writer)
/// takes them.
pub struct Series {
    repository: Repository,
    /// Reads what is in the repository and what is in memory, and writes to memory.
    pub(crate) git: gix::Repository,
    pub(crate) from: Option<CommitId>,
    pub(crate) to: Option<CommitId>,
    pub(crate) size: usize,
    pub(crate) follows_fleet: bool,
}

impl Series {
    /// Begins without a commit, at the one that is thought to be the newest of the branch; `None` when there is no branch
    /// yet.
    pub fn on(repository: &Repository, from: Option<CommitId>) -> Self {
        let git = repository.local().with_object_memory();
        Self { repository: repository.clone(), git, from, to: None, size: 0, follows_fleet: false }
    }

    /// Returns the last commit, or the one at which the series began.
    pub fn tip(&self) -> Option<CommitId> {
        self.to.or(self.from)
    }

    /// Returns how many bytes the objects in memory have, which is most of what a series takes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Has the commits taken only if those of `fleet.git` are that are to be taken together with them.
    pub fn follow_fleet(&mut self) {
        self.follows_fleet = true;
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Takes the objects from memory, as the journal wants them.
    pub(crate) fn seal(&mut self) -> journal::Move {
        let bytes = |id: Option<CommitId>| id.map(CommitId::to_bytes).unwrap_or_default();
        let mut objects = self.git.objects.take_object_memory().unwrap_or_default();
        let object = |(id, (kind, content)): (ObjectId, (Kind, Vec<u8>))| journal::Object {
            id: id.as_slice().to_vec(),
            kind: String::from_utf8_lossy(kind.as_bytes()).into_owned(),
            content,
        };
        journal::Move {
            repository: self.repository.name().to_string(),
            from: bytes(self.from),
            to: bytes(self.to),
            objects: objects.drain().map(object).collect(),
        }
    }
}
