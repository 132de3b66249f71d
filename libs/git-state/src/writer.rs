//! Writing the repositories, by one process at a time.
//!
//! **Layout.** Beside the repositories of a tenant stand `git-writer.lock`, which the one writer holds, and
//! `allowed_signers`, by which stock git believes its signatures. Where everything else stands says [`layout`].
//!
//! **Updates.** A commit takes two steps, [`Writer::write`] and [`Writer::advance`], and each is done for as many commits
//! as there are. Objects are on the disk before a branch names them. A branch moves only from where it is thought to be.
//!
//! **After a crash.** Before the branch moves, nothing is left but objects that no branch names. A lock that a killed
//! writer left on a branch, and a move that it had not yet synced, are put right by [`Writer::open`]. A new repository
//! is made under another name and renamed when it is whole, so one that was cut short is made again.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use disk::FolderLock;
use gix::{
    lock::acquire::Fail,
    objs::tree::EntryKind,
    refs::{
        FullName, Target,
        transaction::{PreviousValue, RefEdit},
    },
};
use identity::{SigningKey, trust::GIT_NAMESPACE};
use jiff::Timestamp;
use margo::RepositoryName;
use margo::{KeySet, TenantName};

use crate::{CommitId, GitError, Message, Repository, TreePath, durable, layout};

/// The name under which git-writer commits.
const COMMITTER: &str = "git-writer";

/// A file that a commit puts or deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The path of the file in the repository.
    pub path: TreePath,
    /// The whole new content. `None` deletes the file, if the repository has it.
    pub content: Option<Vec<u8>>,
}

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

/// The objects that were written and may not be on the disk yet.
#[derive(Debug, Default)]
#[must_use = "what is not synced may be lost with the next power cut"]
pub struct Unsynced {
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

impl Unsynced {
    /// Adds what was written elsewhere.
    pub fn add(&mut self, other: Self) {
        self.files.extend(other.files);
        self.folders.extend(other.folders);
    }
}

/// A branch that is to be moved from one commit to the next.
pub struct Move<'a> {
    /// The repository whose branch is moved.
    pub repository: &'a Repository,
    /// The commit at which the branch has to be; `None` when it must not exist yet.
    pub from: Option<CommitId>,
    /// The commit to which the branch is moved.
    pub to: CommitId,
}

/// The only writer of a tenant's repositories.
pub struct Writer {
    folder: PathBuf,
    tenant: TenantName,
    key: SigningKey,
    allowed_signers: PathBuf,
    // The lock is held as long as this value lives; the kernel frees it with the process.
    _lock: FolderLock,
}

impl Writer {
    /// Becomes the writer of the tenant's repositories below `folder`, or fails because another process is. Commits will
    /// be signed with `key`; stock `git log --show-signature` believes those of `keys`.
    pub fn new(folder: &Path, tenant: &TenantName, keys: &KeySet, key: SigningKey) -> Result<Self, GitError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |error| GitError::file("preparing", &path, error)
        };
        let home = folder.join(tenant.as_str());
        fs::create_dir_all(home.join("clients")).map_err(error(&home))?;
        let folder = folder.canonicalize().map_err(error(folder))?;
        let home = folder.join(tenant.as_str());
        let lock_path = home.join("git-writer.lock");
        let lock = FolderLock::take(&lock_path).map_err(|error| GitError::file("locking", &lock_path, error))?;
        let lock = lock.ok_or_else(|| GitError::Locked { path: lock_path.display().to_string() })?;
        let allowed_signers = home.join("allowed_signers");
        let address = address(COMMITTER, tenant);
        let lines: String =
            keys.keys.iter().map(|key| format!("{address} namespaces=\"{GIT_NAMESPACE}\" {key}\n")).collect();
        replace(&allowed_signers, lines.as_bytes())?;
        durable::sync(&folder)?;
        Ok(Self { folder, tenant: tenant.clone(), key, allowed_signers, _lock: lock })
    }

    /// Opens a repository to write it, and returns `None` when there is none. What a writer that was killed left half
    /// done is put right.
    pub fn open(&self, name: &RepositoryName) -> Result<Option<Repository>, GitError> {
        let Some(repository) = Repository::open(&self.folder, &self.tenant, name)? else {
            return Ok(None);
        };
        // There is one writer only, so a lock that is there now was left by a writer that was killed.
        remove_if_there(&repository.lock_file())?;
        self.configure(repository.path())?;
        // That writer may also have been killed between moving the branch and making the move durable.
        if repository.tip()?.is_some() {
            durable::sync_all(&BTreeSet::new(), &BTreeSet::from([repository.heads()]), &self.folder)?;
        }
        Ok(Some(repository))
    }

    /// Opens a repository to write it. When there is none, an empty one is created first, whole or not at all.
    pub fn open_or_create(&self, name: &RepositoryName) -> Result<Repository, GitError> {
        if let Some(repository) = self.open(name)? {
            return Ok(repository);
        }
        let path = layout::repository(&self.folder, &self.tenant, name);
        let new = path.with_added_extension("new");
        disk::remove_folder_if_there(&new).map_err(|error| GitError::file("removing", &new, error))?;
        gix::create::into(&new, gix::create::Kind::Bare, gix::create::Options::default())
            .map_err(|error| GitError::git("creating a repository", &new, error))?;
        fs::remove_dir_all(new.join("hooks")).map_err(|error| GitError::file("removing hooks of", &new, error))?;
        replace(&new.join("HEAD"), format!("ref: refs/heads/{}\n", layout::branch(name)).as_bytes())?;
        self.configure(&new)?;
        durable::sync_tree(&new)?;
        fs::rename(&new, &path).map_err(|error| GitError::file("creating", &path, error))?;
        durable::sync(path.parent().unwrap_or(&self.folder))?;
        self.open(name)?.ok_or_else(|| GitError::file("opening", &path, io::ErrorKind::NotFound.into()))
    }

    /// Has stock git believe the platform's signatures without being told how. The last value in a file counts, so the
    /// repositories of a folder that was moved get a second entry.
    fn configure(&self, repository: &Path) -> Result<(), GitError> {
        let path = repository.join("config");
        let config = fs::read_to_string(&path).map_err(|error| GitError::file("reading", &path, error))?;
        let signers = self.allowed_signers.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let wanted = format!("[gpg]\n\tformat = ssh\n[gpg \"ssh\"]\n\tallowedSignersFile = \"{signers}\"\n");
        if config.contains(&wanted) {
            return Ok(());
        }
        replace(&path, format!("{config}{wanted}").as_bytes())
    }

    /// Writes a signed commit on top of `parent` and returns its id. No branch names the commit yet, and its objects
    /// may be lost until [`Writer::advance`] has returned; they are added to `unsynced`.
    pub fn write(
        &self,
        repository: &Repository,
        parent: Option<CommitId>,
        draft: Draft<'_>,
        unsynced: &mut Unsynced,
    ) -> Result<CommitId, GitError> {
        let error = repository.error("writing a commit");
        let git = repository.local();
        let objects = repository.path().join("objects");
        // A new object may have a new folder.
        unsynced.folders.insert(objects.clone());
        // Objects that were there already are synced as well: a writer that was killed may have left them unsynced.
        let mut written = |id: gix::Id<'_>| {
            let hex = id.to_hex().to_string();
            let folder = objects.join(&hex[..2]);
            unsynced.files.insert(folder.join(&hex[2..]));
            unsynced.folders.insert(folder);
            id.detach()
        };
        let tree = match parent {
            Some(parent) => git.find_commit(parent.0).and_then(|commit| commit.tree()).map_err(|e| error(e.into()))?,
            None => git.empty_tree(),
        };
        let mut editor = tree.edit().map_err(|e| error(e.into()))?.detach();
        for FileChange { path, content } in draft.changes {
            let names = path.as_str().split('/').map(gix::bstr::BStr::new);
            let edited = match content {
                Some(content) => {
                    let blob = written(git.write_blob(content).map_err(|e| error(e.into()))?);
                    editor.upsert(names, EntryKind::Blob, blob)
                }
                None => editor.remove(names),
            };
            edited.map_err(|e| error(e.into()))?;
        }
        let tree = editor.write(|tree| git.write_object(tree).map(&mut written)).map_err(|e| error(e.into()))?;
        let time = gix::date::Time::new(draft.at.as_second(), 0);
        let person = |name: &str| {
            let name = person_name(name);
            gix::actor::Signature { email: address(&name, &self.tenant).into(), name: name.into(), time }
        };
        let mut commit = gix::objs::Commit {
            tree,
            parents: parent.iter().map(|parent| parent.0).collect(),
            author: person(draft.author),
            committer: person(COMMITTER),
            encoding: None,
            message: draft.message.to_string().into(),
            extra_headers: Vec::new(),
        };
        let mut unsigned = Vec::new();
        gix::objs::WriteTo::write_to(&commit, &mut unsigned).map_err(|e| error(e.into()))?;
        let signature = self.sign(GIT_NAMESPACE, &unsigned)?;
        commit.extra_headers.push(("gpgsig".into(), signature.trim_end().into()));
        Ok(CommitId(written(git.write_object(&commit).map_err(|e| error(e.into()))?)))
    }

    /// Signs bytes with the key that signs commits, and returns the armoured SSHSIG.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, GitError> {
        self.key.sign(namespace, bytes).map_err(GitError::Sign)
    }

    /// Puts what was written on the disk, and then moves branches to it, each only if it is where it is thought to be. A
    /// move whose result is `Ok` is on the disk. The results are in the order of the moves. When what was written cannot
    /// be put on the disk, no branch moves.
    pub fn advance(&self, unsynced: Unsynced, moves: &[Move<'_>]) -> Vec<Result<(), GitError>> {
        self.advance_in_turn(unsynced, moves, &[], || {})
    }

    /// Does the same with the branches of `first` and then, after `between`, with those of `then`. After a kill, those of
    /// `then` have not moved unless those of `first` have. One sync puts all of them on the disk, so after a power cut any
    /// of them may have moved.
    pub fn advance_in_turn(
        &self,
        unsynced: Unsynced,
        first: &[Move<'_>],
        then: &[Move<'_>],
        between: impl FnOnce(),
    ) -> Vec<Result<(), GitError>> {
        let moves: Vec<_> = first.iter().chain(then).collect();
        let handles: Vec<_> = moves.iter().map(|planned| planned.repository.local()).collect();
        let mut prepared: Vec<_> =
            moves.iter().zip(&handles).map(|(planned, handle)| prepare(planned, handle)).collect();
        // The objects and the new content of the branches, which is in their locks, and only then the names: otherwise a
        // power cut could leave a branch that names nothing.
        let prepared_moves = moves.iter().zip(&prepared).filter(|(_, prepared)| prepared.is_ok());
        let locks = prepared_moves.map(|(planned, _)| planned.repository.lock_file());
        let Unsynced { mut files, folders } = unsynced;
        files.extend(locks);
        if let Err(error) = durable::sync_all(&files, &folders, &self.folder) {
            return for_each(error, &moves);
        }
        let prepared_then = prepared.split_off(first.len());
        let mut results = rename(&moves[..first.len()], prepared);
        between();
        results.extend(rename(&moves[first.len()..], prepared_then));
        let renamed = moves.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let folders = renamed.map(|(planned, _)| planned.repository.heads()).collect();
        match durable::sync_all(&BTreeSet::new(), &folders, &self.folder) {
            Ok(()) => results,
            Err(error) => for_each(error, &moves),
        }
    }
}

/// The results when the one sync has failed that all moves share.
fn for_each(error: GitError, moves: &[&Move<'_>]) -> Vec<Result<(), GitError>> {
    let error = Arc::new(error);
    moves.iter().map(|_| Err(GitError::Sync(error.clone()))).collect()
}

/// Gives the branches their new content, which is on the disk already.
fn rename(
    moves: &[&Move<'_>],
    prepared: Vec<Result<gix::refs::file::Transaction<'_, '_>, GitError>>,
) -> Vec<Result<(), GitError>> {
    let renamed = moves.iter().zip(prepared).map(|(planned, transaction)| {
        let error = planned.repository.error("moving the branch");
        transaction?.commit(None).map(|_| ()).map_err(|e| error(e.into()))
    });
    renamed.collect()
}

fn prepare<'a>(
    planned: &Move<'_>,
    handle: &'a gix::Repository,
) -> Result<gix::refs::file::Transaction<'a, 'a>, GitError> {
    let error = planned.repository.error("moving the branch");
    let expected = match planned.from {
        Some(from) => PreviousValue::MustExistAndMatch(Target::Object(from.0)),
        None => PreviousValue::MustNotExist,
    };
    let name: FullName = planned.repository.branch().try_into().expect("refs/heads/ and one of our two branches");
    let edit = RefEdit::update(name, planned.to.0, expected, "");
    let transaction = handle.refs.transaction();
    let prepared = transaction.prepare([edit], Fail::Immediately, Fail::Immediately);
    prepared.map_err(|e| match planned.repository.tip() {
        Ok(found) if found != planned.from => GitError::moved(planned.repository.path(), planned.from, found),
        _ => error(e.into()),
    })
}

fn remove_if_there(path: &Path) -> Result<(), GitError> {
    disk::remove_if_there(path).map_err(|error| GitError::file("removing", path, error))
}

fn replace(path: &Path, content: &[u8]) -> Result<(), GitError> {
    disk::write_private(path, content).map_err(|error| GitError::file("writing", path, error))
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
