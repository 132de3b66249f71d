//! Reading one repository object by object, through a handle of its own.
//!
//! git-writer replaces packs while others read. A handle that lives long finds objects missing then that are there, so a
//! [`Reader`] is opened for each piece of work and dropped after it. Whoever gets an error opens another one, once.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::Path,
    sync::Arc,
};

use gix::{ObjectId, objs::Kind, objs::TreeRefIter};
use identity::trust::{GIT_NAMESPACE, verify_with};
use margo::{KeySet, RepositoryName, TenantName};

use crate::{CommitId, GitError, Message, Repository, VerifyError};

/// What a folder names, without what is neither a file nor a folder.
pub(crate) type Children = BTreeMap<String, Child>;

/// One child of a folder. As long as its id is the same, so is everything in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    File(ObjectId),
    Folder(ObjectId),
}

/// A commit, without its files.
pub struct Commit {
    id: CommitId,
    tree: ObjectId,
    message: Message,
    /// The signature, and what was signed.
    signed: Option<(Vec<u8>, Vec<u8>)>,
}

impl Commit {
    /// Returns the id of the commit.
    pub fn id(&self) -> CommitId {
        self.id
    }

    /// Returns the message with its trailers.
    pub fn message(&self) -> &Message {
        &self.message
    }

    pub(crate) fn tree(&self) -> ObjectId {
        self.tree
    }

    /// Checks that a key in force signed the commit. The signature covers the id of the tree, and so every file.
    pub fn verify(&self, keys: &KeySet) -> Result<(), VerifyError> {
        let (signature, signed) = self.signed.as_ref().ok_or(VerifyError::Unsigned(self.id))?;
        verify_with(keys, GIT_NAMESPACE, "commit", signed, signature)
            .map_err(|source| VerifyError::Untrusted { id: self.id, source })
    }
}

/// Reads one repository for one piece of work.
pub struct Reader {
    repository: Repository,
    git: gix::Repository,
    reads: Cell<usize>,
    /// The folders on the way to the file that was read last. Whoever reads many files goes through them in their order.
    way: RefCell<Vec<(ObjectId, Arc<Children>)>>,
}

impl Reader {
    /// Opens the repository of this name, and returns `None` when there is none. `folder` holds the repositories of
    /// all tenants.
    pub fn open(folder: &Path, tenant: &TenantName, name: &RepositoryName) -> Result<Option<Self>, GitError> {
        let Some(repository) = Repository::open(folder, tenant, name)? else { return Ok(None) };
        let git = repository.local();
        Ok(Some(Self { repository, git, reads: Cell::new(0), way: RefCell::default() }))
    }

    /// Returns the newest commit of the branch, and `None` before the first.
    pub fn tip(&self) -> Result<Option<CommitId>, GitError> {
        self.repository.tip()
    }

    /// Returns how many objects were read through this handle.
    pub fn reads(&self) -> usize {
        self.reads.get()
    }

    /// Reads a commit.
    pub fn commit(&self, id: CommitId) -> Result<Commit, GitError> {
        let error = self.repository.error("reading a commit");
        let commit = self.object(id.0)?.try_into_commit().map_err(|e| error(e.into()))?;
        let tree = commit.tree_id().map_err(|e| error(e.into()))?.detach();
        let message = commit.message_raw().map_err(|e| error(e.into()))?;
        let message = Message::parse(&String::from_utf8_lossy(message));
        let signed = commit.signature().map_err(|e| error(e.into()))?;
        let signed = signed.map(|(signature, signed)| (signature.to_vec(), signed.to_bstring().into()));
        Ok(Commit { id, tree, message, signed })
    }

    /// Reads one file of a commit, and returns `None` when the commit does not have it.
    pub fn file(&self, commit: &Commit, path: &str) -> Result<Option<Vec<u8>>, GitError> {
        let mut folder = commit.tree;
        let mut names = path.split('/').peekable();
        for depth in 0.. {
            let (Some(name), last) = (names.next(), names.peek().is_none()) else { break };
            match self.on_the_way(depth, folder)?.get(name) {
                Some(Child::File(id)) if last => return Ok(Some(self.content(*id)?)),
                Some(Child::Folder(id)) if !last => folder = *id,
                Some(_) | None => break,
            }
        }
        Ok(None)
    }

    /// The children of the folder that is so deep on the way to a file.
    pub(crate) fn on_the_way(&self, depth: usize, folder: ObjectId) -> Result<Arc<Children>, GitError> {
        let held = self.way.borrow().get(depth).filter(|(id, _)| *id == folder).map(|(_, children)| children.clone());
        if let Some(children) = held {
            return Ok(children);
        }
        let children = Arc::new(self.children(folder)?);
        let mut way = self.way.borrow_mut();
        way.truncate(depth);
        way.push((folder, children.clone()));
        Ok(children)
    }

    pub(crate) fn children(&self, folder: ObjectId) -> Result<Children, GitError> {
        let error = self.repository.error("reading a folder");
        let object = self.object(folder)?;
        if object.kind != Kind::Tree {
            return Err(error(format!("{folder} is no folder").into()));
        }
        let mut children = Children::new();
        for entry in TreeRefIter::from_bytes(&object.data, folder.kind()) {
            let entry = entry.map_err(|e| error(e.into()))?;
            let id = entry.oid.to_owned();
            let child = match entry.mode {
                mode if mode.is_tree() => Child::Folder(id),
                mode if mode.is_blob() => Child::File(id),
                // A link or another repository.
                _ => continue,
            };
            children.insert(String::from_utf8_lossy(entry.filename).into_owned(), child);
        }
        Ok(children)
    }

    pub(crate) fn content(&self, file: ObjectId) -> Result<Vec<u8>, GitError> {
        let object = self.object(file)?;
        if object.kind != Kind::Blob {
            return Err(self.repository.error("reading a file")(format!("{file} is no file").into()));
        }
        Ok(object.detach().data)
    }

    fn object(&self, id: ObjectId) -> Result<gix::Object<'_>, GitError> {
        self.reads.set(self.reads.get() + 1);
        let error = self.repository.error("reading an object");
        let object = self.git.try_find_object(id).map_err(|e| error(e.into()))?;
        object.ok_or_else(|| error(format!("there is no object {id}").into()))
    }
}
