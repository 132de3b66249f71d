//! Commits that are not in their repository yet.

use std::{
    cell::OnceCell,
    path::{Path, PathBuf},
};

use gix::{
    ObjectId,
    objs::{Kind, WriteTo},
};
use margo::RepositoryName;

use crate::{
    Bases, Blob, CommitId, FileChange, GitError, Repository, journal,
    journal::Epoch,
    memory::{Growing, Memory},
    pack::{self, Mark, Whole},
    pack_files::Hidden,
};

/// New commits of one repository, one on top of the other. They are in memory until [`Writer::advance`](crate::Writer)
/// takes them.
pub struct Series {
    name: RepositoryName,
    path: PathBuf,
    from: Option<CommitId>,
    to: Option<CommitId>,
    follows_fleet: bool,
    /// What the commits stand on, from the first one on, and the pack that they go into.
    begun: Option<(Memory, Growing)>,
    /// Opened when a folder has to be read that is not in memory.
    git: OnceCell<Repository>,
    has_failed: bool,
}

/// A series as it goes into the journal and into the repository.
pub(crate) struct Sealed {
    pub(crate) whole: Whole,
    /// Where the branch is to move.
    pub(crate) to: CommitId,
    /// From where on the journal does not have the pack.
    mark: Mark,
    /// The life of the journal that gets the rest.
    epoch: Epoch,
}

impl Series {
    /// Begins without a commit, at the one that is thought to be the newest of the branch; `None` when there is no branch
    /// yet.
    pub fn on(repository: &Repository, from: Option<CommitId>) -> Self {
        Self::at(repository.name().clone(), repository.path().to_owned(), from)
    }

    /// Begins in the repository of this name, which stands at this path.
    pub(crate) fn at(name: RepositoryName, path: PathBuf, from: Option<CommitId>) -> Self {
        let (git, follows_fleet, has_failed) = (OnceCell::new(), false, false);
        Self { name, path, from, to: None, follows_fleet, begun: None, git, has_failed }
    }

    /// Returns the last commit, or the one at which the series began.
    pub fn tip(&self) -> Option<CommitId> {
        self.to.or(self.from)
    }

    pub(crate) fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Has the commits taken only if those of `fleet.git` are that are to be taken together with them.
    pub fn follow_fleet(&mut self) {
        self.follows_fleet = true;
    }

    /// Tells whether that was asked for.
    pub fn follows_fleet(&self) -> bool {
        self.follows_fleet
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn from(&self) -> Option<CommitId> {
        self.from
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Begins with what is in memory of the repository, if that is of the right commit.
    pub(crate) fn begin(&mut self, held: Option<Memory>, epoch: Epoch) -> Result<(), GitError> {
        let mut memory = match held.filter(|held| held.tip() == self.from) {
            Some(held) => held,
            None => {
                let (id, root) = match self.from {
                    Some(from) => git(&self.git, &self.path, &self.name)?.root(from)?,
                    None => (pack::id_of(Kind::Tree, b"")?, Vec::new()),
                };
                Memory::of(self.from, id, root)
            }
        };
        let growing = memory.begin(&self.path, epoch);
        self.begun = Some((memory, growing));
        Ok(())
    }

    /// Returns what the files of the next commits become deltas to. The series has to have begun.
    pub(crate) fn bases(&self) -> Bases {
        self.begun.as_ref().map(|(memory, _)| memory.bases()).unwrap_or_default()
    }

    /// Closes the repository, if a folder was read. A thousand series that wait to be carried out would hold a thousand open.
    pub fn close(&mut self) {
        drop(self.git.take());
    }

    /// Adds a commit, of which some files may have been made ready. `make` makes it of its tree and its parent. After an error no other can be added, and the series ends
    /// where it did before.
    pub(crate) fn add(
        &mut self,
        changes: &[FileChange],
        ready: &[Option<Blob>],
        make: impl FnOnce(ObjectId, Option<CommitId>) -> Result<gix::objs::Commit, GitError>,
    ) -> Result<CommitId, GitError> {
        let parent = self.tip();
        let Some((memory, Growing { pack, .. })) = self.begun.as_mut().filter(|_| !self.has_failed) else {
            return Err(GitError::Series);
        };
        let before = pack.mark();
        let read = |id: ObjectId| git(&self.git, &self.path, &self.name)?.tree(id);
        let added = memory.edit(pack, changes, ready, &read).and_then(|tree| make(tree, parent)).and_then(|commit| {
            let mut bytes = Vec::with_capacity(1024);
            commit.write_to(&mut bytes).expect("writing to memory cannot fail");
            memory.add(pack, Kind::Commit, "commit", &bytes)
        });
        match added {
            Ok(id) => {
                self.to = Some(CommitId(id));
                Ok(CommitId(id))
            }
            Err(error) => {
                pack.rewind(before);
                self.has_failed = true;
                Err(error)
            }
        }
    }

    /// Makes the pack whole. Fails when the series has no commit.
    pub(crate) fn seal(&mut self, epoch: Epoch) -> Result<Sealed, GitError> {
        let (Some((_, growing)), Some(to)) = (&mut self.begun, self.to) else {
            let error = "there is no commit that it could move to";
            return Err(GitError::git("moving the branch", &self.path, error));
        };
        // Where the journal has begun another life since, it gets all of the pack.
        let mark = if growing.epoch == epoch { growing.begin } else { Mark::BEGIN };
        Ok(Sealed { whole: growing.pack.finish(), to, mark, epoch })
    }

    /// What the journal is to hold of the series. `None` when the series has not begun.
    pub(crate) fn planned(&self, sealed: &Sealed) -> Option<journal::Move> {
        let pack = &self.begun.as_ref()?.1.pack;
        let objects = pack.entries_since(sealed.mark).iter().flat_map(|entry| {
            let mut object = [0; 24];
            object[..20].copy_from_slice(entry.id.as_slice());
            object[20..].copy_from_slice(&entry.offset.to_be_bytes());
            object
        });
        Some(journal::Move {
            repository: self.name.to_string(),
            from: self.from.map(CommitId::to_bytes).unwrap_or_default(),
            to: sealed.to.to_bytes(),
            begins: sealed.mark == Mark::BEGIN,
            bytes: pack.bytes_since(sealed.mark).to_vec(),
            objects: objects.collect(),
            pack: sealed.whole.name.as_slice().to_vec(),
        })
    }

    /// Writes the pack that was made whole into the repository, where no reader finds it yet.
    pub(crate) fn write_pack(&self, whole: &Whole) -> Result<Hidden, GitError> {
        let (_, growing) = self.begun.as_ref().ok_or(GitError::Series)?;
        Hidden::write(&self.path, &growing.pack, whole)
    }

    /// Gives what the next series stands on, now that the pack was written, and the pack that this one replaces. Nothing is kept of
    /// a series of which a commit failed.
    pub(crate) fn into_memory(self, sealed: &Sealed) -> (Option<Memory>, Option<ObjectId>) {
        let Some((mut memory, growing)) = self.begun else { return (None, None) };
        let group = growing.pack.bytes_since(sealed.mark).len();
        let replaced = memory.ends(growing, sealed.whole.name, group, sealed.epoch, sealed.to);
        (Some(memory).filter(|_| !self.has_failed), replaced)
    }
}

fn git<'a>(cell: &'a OnceCell<Repository>, path: &Path, name: &RepositoryName) -> Result<&'a Repository, GitError> {
    match cell.get() {
        Some(repository) => Ok(repository),
        None => {
            let opened = Repository::at(path, name)?;
            Ok(cell.get_or_init(|| opened))
        }
    }
}
