//! The branch of a repository as the file that it is, read and moved without opening the repository.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use margo::RepositoryName;

use crate::{CommitId, GitError, Repository, layout};

/// The branch of a repository that the platform writes.
pub(crate) struct Branch<'a> {
    repository: &'a Path,
    file: PathBuf,
}

/// The lock of a branch with the commit to which the branch is to move. As long as this lives, nobody else moves the branch;
/// where it ends without [`Lock::commit`], the branch stays.
pub(crate) struct Lock {
    lock: Option<PathBuf>,
    file: PathBuf,
}

impl<'a> Branch<'a> {
    /// Returns the branch of the repository of this name, which stands at this path.
    pub(crate) fn of(name: &RepositoryName, repository: &'a Path) -> Self {
        Self { repository, file: repository.join("refs/heads").join(layout::branch(name)) }
    }

    /// Returns the commit of the branch, and `None` before the first.
    pub(crate) fn tip(&self, name: &RepositoryName) -> Result<Option<CommitId>, GitError> {
        match fs::read_to_string(&self.file) {
            Ok(text) => match text.strip_suffix('\n').and_then(|id| id.parse().ok()) {
                Some(tip) => Ok(Some(tip)),
                // Somebody has written it in another way; that is for Git's own library.
                None => Repository::at(self.repository, name)?.tip(),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.packed_tip(),
            Err(error) => Err(GitError::file("reading", &self.file, error)),
        }
    }

    /// Looks among the branches that stock git has packed into one file.
    fn packed_tip(&self) -> Result<Option<CommitId>, GitError> {
        let path = self.repository.join("packed-refs");
        let packed = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            packed => packed.map_err(|error| GitError::file("reading", &path, error))?,
        };
        let name = self.file.strip_prefix(self.repository).unwrap_or(&self.file).to_string_lossy();
        let line = packed.lines().find_map(|line| line.strip_suffix(&*name)?.strip_suffix(' '));
        let invalid = || GitError::file("reading", &path, io::ErrorKind::InvalidData.into());
        line.map(|id| id.parse().map_err(|_| invalid())).transpose()
    }

    /// Locks the branch, and fails unless it is where it is thought to be.
    pub(crate) fn lock(&self, name: &RepositoryName, from: Option<CommitId>, to: CommitId) -> Result<Lock, GitError> {
        let lock = self.write_lock(to)?;
        let found = self.tip(name)?;
        if found == from { Ok(lock) } else { Err(GitError::moved(self.repository, from, found)) }
    }

    /// Moves the branch, wherever it is, also if it cannot be read. There must be nobody else who moves it.
    pub(crate) fn set(&self, to: CommitId) -> Result<(), GitError> {
        self.remove_lock()?;
        self.write_lock(to)?.commit()
    }

    /// Removes the lock that a killed writer has left.
    pub(crate) fn remove_lock(&self) -> Result<(), GitError> {
        let path = self.lock_file();
        disk::remove_if_there(&path).map_err(|error| GitError::file("removing", &path, error))
    }

    fn lock_file(&self) -> PathBuf {
        self.file.with_added_extension("lock")
    }

    fn write_lock(&self, to: CommitId) -> Result<Lock, GitError> {
        let path = self.lock_file();
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let created = match create() {
            // Stock git removes the folder when it has packed the only branch.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| create())
            }
            created => created,
        };
        let mut file = created.map_err(|error| GitError::file("locking with", &path, error))?;
        let lock = Lock { lock: Some(path.clone()), file: self.file.clone() };
        file.write_all(format!("{to}\n").as_bytes()).map_err(|error| GitError::file("writing", &path, error))?;
        Ok(lock)
    }
}

impl Lock {
    /// Moves the branch, once. That may be lost with the next power cut.
    pub(crate) fn commit(&mut self) -> Result<(), GitError> {
        let Some(lock) = &self.lock else { return Ok(()) };
        fs::rename(lock, &self.file).map_err(|error| GitError::file("moving", &self.file, error))?;
        self.lock = None;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            // One that stays is removed when the repository is opened again.
            let _stays = fs::remove_file(lock);
        }
    }
}
