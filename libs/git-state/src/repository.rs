//! Reading one repository: its newest commit, messages, files and signatures.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use identity::trust::{GIT_NAMESPACE, Untrusted, verify_with};
use margo::RepositoryName as Name;
use margo::{KeySet, TenantName};

use crate::{CommitId, GitError, Message, layout};

/// A commit is not believed, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The commit has no signature.
    #[error("commit {0} is not signed")]
    Unsigned(CommitId),
    /// No key in force made the commit's signature.
    #[error("commit {id} is not believed")]
    Untrusted {
        /// The id of the commit.
        id: CommitId,
        /// What is wrong with the signature.
        source: Untrusted,
    },
    /// The commit cannot be read.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// A bare repository, of which only one branch is looked at. Clones share what was read.
#[derive(Clone)]
pub struct Repository {
    git: gix::ThreadSafeRepository,
    name: Name,
    path: PathBuf,
}

impl Repository {
    /// Opens the repository of this name, and returns `None` when there is none. `folder` holds the repositories of
    /// all tenants.
    pub fn open(folder: &Path, tenant: &TenantName, name: &Name) -> Result<Option<Self>, GitError> {
        let path = layout::repository(folder, tenant, name);
        if !path.try_exists().map_err(|error| GitError::file("looking for", &path, error))? {
            return Ok(None);
        }
        Self::at(&path, name).map(Some)
    }

    /// Opens the repository of this name, which stands at this path.
    pub(crate) fn at(path: &Path, name: &Name) -> Result<Self, GitError> {
        // Isolated: neither the machine's configuration nor the environment changes what is read.
        let options = gix::open::Options::isolated().open_path_as_is(true);
        match options.open(path) {
            Ok(git) => Ok(Self { git, name: name.clone(), path: path.to_owned() }),
            Err(error) => Err(GitError::git("opening", path, error)),
        }
    }

    /// Returns the name of the repository.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the path of the repository.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the full name of the branch.
    fn branch(&self) -> String {
        format!("refs/heads/{}", layout::branch(&self.name))
    }

    pub(crate) fn local(&self) -> gix::Repository {
        self.git.to_thread_local()
    }

    pub(crate) fn error(
        &self,
        attempt: &'static str,
    ) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> GitError + use<> {
        let path = self.path.clone();
        move |source| GitError::git(attempt, &path, source)
    }

    /// Returns the newest commit of the branch, and `None` before the first.
    pub fn tip(&self) -> Result<Option<CommitId>, GitError> {
        let error = self.error("reading the branch");
        let git = self.local();
        let Some(reference) = git.try_find_reference(&self.branch()).map_err(|e| error(e.into()))? else {
            return Ok(None);
        };
        let id = reference.try_id().ok_or_else(|| error("the branch names another branch".into()))?;
        Ok(Some(CommitId(id.detach())))
    }

    /// Reads the id of a commit's tree and the tree itself.
    pub(crate) fn root(&self, id: CommitId) -> Result<(gix::ObjectId, Vec<u8>), GitError> {
        let error = self.error("reading the tree of a commit");
        let git = self.local();
        let tree = git.find_commit(id.0).and_then(|commit| commit.tree()).map_err(|e| error(e.into()))?;
        let tree = tree.detach();
        Ok((tree.id, tree.data))
    }

    /// Reads a tree as the bytes that it is in Git.
    pub(crate) fn tree(&self, id: gix::ObjectId) -> Result<Vec<u8>, GitError> {
        let error = self.error("reading a folder");
        Ok(self.local().find_tree(id).map_err(|e| error(e.into()))?.detach().data)
    }

    /// Reads the message of a commit.
    pub fn message(&self, id: CommitId) -> Result<Message, GitError> {
        let error = self.error("reading a commit");
        let git = self.local();
        let commit = git.find_commit(id.0).map_err(|e| error(e.into()))?;
        let message = commit.message_raw().map_err(|e| error(e.into()))?;
        Ok(Message::parse(&String::from_utf8_lossy(message)))
    }

    /// Reads all files of a commit, by path.
    pub fn files(&self, id: CommitId) -> Result<BTreeMap<String, Vec<u8>>, GitError> {
        self.files_in(id, "")
    }

    /// Reads the files of a commit in one of its folders, such as `clients/`. They are given by their path from the
    /// root.
    pub fn files_in(&self, id: CommitId, folder: &str) -> Result<BTreeMap<String, Vec<u8>>, GitError> {
        let error = self.error("reading the files of a commit");
        let git = self.local();
        let mut tree = git.find_commit(id.0).and_then(|commit| commit.tree()).map_err(|e| error(e.into()))?;
        if !folder.is_empty() {
            let Some(entry) = tree.lookup_entry_by_path(folder.trim_end_matches('/')).map_err(|e| error(e.into()))?
            else {
                return Ok(BTreeMap::new());
            };
            tree = entry.object().and_then(|object| object.try_into_tree()).map_err(|e| error(e.into()))?;
        }
        let entries = tree.traverse().breadthfirst.files().map_err(|e| error(e.into()))?;
        let mut files = BTreeMap::new();
        for entry in entries.into_iter().filter(|entry| entry.mode.is_blob()) {
            let blob = git.find_blob(entry.oid).map_err(|e| error(e.into()))?;
            files.insert(format!("{folder}{}", String::from_utf8_lossy(&entry.filepath)), blob.detach().data);
        }
        Ok(files)
    }

    /// Returns the id of one of a commit's folders, such as `clients/`, and `None` when the commit does not have it. As long as
    /// that is the same, so are all files in the folder.
    pub fn folder(&self, id: CommitId, folder: &str) -> Result<Option<CommitId>, GitError> {
        let error = self.error("reading a folder of a commit");
        let git = self.local();
        let tree = git.find_commit(id.0).and_then(|commit| commit.tree()).map_err(|e| error(e.into()))?;
        let entry = tree.lookup_entry_by_path(folder.trim_end_matches('/')).map_err(|e| error(e.into()))?;
        Ok(entry.map(|entry| CommitId(entry.object_id())))
    }

    /// Reads one file of a commit, and returns `None` when the commit does not have it.
    pub fn file(&self, id: CommitId, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let error = self.error("reading a file of a commit");
        let git = self.local();
        let tree = git.find_commit(id.0).and_then(|commit| commit.tree()).map_err(|e| error(e.into()))?;
        let Some(entry) = tree.lookup_entry_by_path(path).map_err(|e| error(e.into()))? else {
            return Ok(None);
        };
        let object = entry.object().map_err(|e| error(e.into()))?;
        Ok(Some(object.detach().data))
    }

    /// Checks that a key in force signed this commit. The signature covers the id of the tree, and so every file.
    pub fn verify(&self, id: CommitId, keys: &KeySet) -> Result<(), VerifyError> {
        let error = self.error("reading a commit");
        let git = self.local();
        let commit = git.find_commit(id.0).map_err(|e| error(e.into()))?;
        let Some((signature, signed)) = commit.signature().map_err(|e| error(e.into()))? else {
            return Err(VerifyError::Unsigned(id));
        };
        verify_with(keys, GIT_NAMESPACE, "commit", &signed.to_bstring(), &signature)
            .map_err(|source| VerifyError::Untrusted { id, source })
    }
}
