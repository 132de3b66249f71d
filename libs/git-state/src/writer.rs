//! The repositories, written: by one process at a time.
//!
//! A commit is [`Writer::write`], [`Writer::sync`], [`Writer::advance`], in this order, each for as many commits as there
//! are: objects are on the disk before a branch names them, and a process that dies in between leaves nothing but
//! objects that nobody names.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bus::Repository as Name;
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
use margo::{KeySet, TenantName};
use rustix::fs::{FlockOperation, flock};

use crate::{CommitId, GitError, Message, Repository, TreePath, durable, layout};

/// How git-writer signs its name.
const COMMITTER: &str = "git-writer";

/// A file that a commit puts or deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Which file.
    pub path: TreePath,
    /// `None`: it is deleted, if it is there.
    pub content: Option<Vec<u8>>,
}

/// A commit to be written.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Who ordered it.
    pub author: &'a str,
    /// What it says.
    pub message: &'a Message,
    /// What it changes; may be nothing.
    pub changes: &'a [FileChange],
    /// When.
    pub at: Timestamp,
}

/// Objects that were written and may be in memory only.
#[derive(Debug, Default)]
#[must_use = "what is not synced may be lost with the next power cut"]
pub struct Unsynced(BTreeSet<PathBuf>);

/// A branch on its way from one commit to the next.
pub struct Move<'a> {
    /// Whose branch.
    pub repository: &'a Repository,
    /// Where it has to be; `None`: nowhere yet.
    pub from: Option<CommitId>,
    /// Where it goes.
    pub to: CommitId,
}

/// The only writer of a tenant's repositories.
pub struct Writer {
    folder: PathBuf,
    tenant: TenantName,
    key: SigningKey,
    allowed_signers: PathBuf,
    // Held as long as this value lives; the kernel frees it with the process.
    _lock: File,
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
        let lock = File::create(&lock_path).map_err(error(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(GitError::Locked { path: lock_path.display().to_string() });
            }
            result => result.map_err(|errno| GitError::file("locking", &lock_path, errno.into()))?,
        }
        let allowed_signers = home.join("allowed_signers");
        let address = address(COMMITTER, tenant);
        let lines: String =
            keys.keys.iter().map(|key| format!("{address} namespaces=\"{GIT_NAMESPACE}\" {key}\n")).collect();
        durable::replace(&allowed_signers, lines.as_bytes())?;
        durable::sync(&folder)?;
        Ok(Self { folder, tenant: tenant.clone(), key, allowed_signers, _lock: lock })
    }

    /// Opens a repository to write it. `None`: there is none.
    pub fn open(&self, name: &Name) -> Result<Option<Repository>, GitError> {
        let Some(repository) = Repository::open(&self.folder, &self.tenant, name)? else {
            return Ok(None);
        };
        // We are the only writer, so a lock that is there now was left by one that was killed.
        let lock = repository.path().join(format!("{}.lock", repository.branch()));
        remove_if_there(&lock)?;
        self.configure(repository.path())?;
        // It may also have been killed between moving the branch and making the move durable.
        if repository.tip()?.is_some() {
            let branch = repository.path().join(repository.branch());
            durable::sync_all(&BTreeSet::from([branch]), 1, &self.folder)?;
        }
        Ok(Some(repository))
    }

    /// Opens a repository to write it, and creates it before when there is none.
    pub fn open_or_create(&self, name: &Name) -> Result<Repository, GitError> {
        if let Some(repository) = self.open(name)? {
            return Ok(repository);
        }
        let path = layout::repository(&self.folder, &self.tenant, name);
        let new = path.with_added_extension("new");
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(GitError::file("removing", &new, error));
            }
            _ => {}
        }
        gix::create::into(&new, gix::create::Kind::Bare, gix::create::Options::default())
            .map_err(|error| GitError::git("creating a repository", &new, error))?;
        fs::remove_dir_all(new.join("hooks")).map_err(|error| GitError::file("removing hooks of", &new, error))?;
        durable::replace(&new.join("HEAD"), format!("ref: refs/heads/{}\n", layout::branch(name)).as_bytes())?;
        self.configure(&new)?;
        durable::sync_tree(&new)?;
        fs::rename(&new, &path).map_err(|error| GitError::file("creating", &path, error))?;
        durable::sync(path.parent().unwrap_or(&self.folder))?;
        self.open(name)?.ok_or_else(|| GitError::file("opening", &path, io::ErrorKind::NotFound.into()))
    }

    /// Stock git shall believe our signatures without being told how. The last value counts, so a folder that was moved
    /// gets a second entry.
    fn configure(&self, repository: &Path) -> Result<(), GitError> {
        let path = repository.join("config");
        let config = fs::read_to_string(&path).map_err(|error| GitError::file("reading", &path, error))?;
        let signers = self.allowed_signers.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        let wanted = format!("[gpg]\n\tformat = ssh\n[gpg \"ssh\"]\n\tallowedSignersFile = \"{signers}\"\n");
        if config.contains(&wanted) {
            return Ok(());
        }
        durable::replace(&path, format!("{config}{wanted}").as_bytes())
    }

    /// Writes a signed commit on top of `parent`. No branch names it yet, and it may still be lost.
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
        // Also what was there already: a writer that was killed may have left it unsynced.
        let mut written = |id: gix::Id<'_>| {
            let hex = id.to_hex().to_string();
            unsynced.0.insert(objects.join(&hex[..2]).join(&hex[2..]));
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

    /// Signs bytes with the key that signs commits; gives the armoured SSHSIG.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, GitError> {
        self.key.sign(namespace, bytes).map_err(GitError::Sign)
    }

    /// Puts on the disk what was written, all at once.
    pub fn sync(&self, unsynced: Unsynced) -> Result<(), GitError> {
        // A new object may have a new folder, which `objects` names.
        durable::sync_all(&unsynced.0, 2, &self.folder)
    }

    /// Moves branches, each only if it is where it is thought to be. When a move is `Ok`, it is on the disk. The results
    /// are in the order of the moves.
    pub fn advance(&self, moves: &[Move<'_>]) -> Vec<Result<(), GitError>> {
        let handles: Vec<_> = moves.iter().map(|it| it.repository.local()).collect();
        let prepared: Vec<_> = moves.iter().zip(&handles).map(|(it, handle)| prepare(it, handle)).collect();
        let files = |suffix: &str, of: &mut dyn Iterator<Item = bool>| -> BTreeSet<PathBuf> {
            let file = |it: &Move<'_>| it.repository.path().join(format!("{}{suffix}", it.repository.branch()));
            moves.iter().zip(of).filter(|(_, wanted)| *wanted).map(|(it, _)| file(it)).collect()
        };
        // The new content first, then the name: otherwise a power cut could leave a branch that names nothing.
        let locks = files(".lock", &mut prepared.iter().map(Result::is_ok));
        if let Err(error) = durable::sync_all(&locks, 0, &self.folder) {
            return once_for_each(error, moves);
        }
        let results: Vec<_> = moves
            .iter()
            .zip(prepared)
            .map(|(it, transaction)| {
                let error = it.repository.error("moving the branch");
                transaction?.commit(None).map(|_| ()).map_err(|e| error(e.into()))
            })
            .collect();
        let branches = files("", &mut results.iter().map(Result::is_ok));
        match durable::sync_all(&branches, 1, &self.folder) {
            Ok(()) => results,
            Err(error) => once_for_each(error, moves),
        }
    }
}

/// A failed sync concerns every move; the cause is told once.
fn once_for_each(error: GitError, moves: &[Move<'_>]) -> Vec<Result<(), GitError>> {
    let rest = moves.iter().skip(1).map(|it| {
        let cause = io::Error::other("syncing it together with others failed");
        Err(GitError::file("moving the branch of", it.repository.path(), cause))
    });
    let rest: Vec<_> = rest.collect();
    std::iter::once(Err(error)).chain(rest).collect()
}

fn prepare<'a>(it: &Move<'_>, handle: &'a gix::Repository) -> Result<gix::refs::file::Transaction<'a, 'a>, GitError> {
    let error = it.repository.error("moving the branch");
    let found = it.repository.tip()?;
    if found != it.from {
        return Err(GitError::moved(it.repository.path(), it.from, found));
    }
    let expected = match it.from {
        Some(from) => PreviousValue::MustExistAndMatch(Target::Object(from.0)),
        None => PreviousValue::MustNotExist,
    };
    let name: FullName = it.repository.branch().try_into().expect("refs/heads/ and one of our two branches");
    let edit = RefEdit::update(name, it.to.0, expected, "");
    let transaction = handle.refs.transaction();
    transaction.prepare([edit], Fail::Immediately, Fail::Immediately).map_err(|e| error(e.into()))
}

fn remove_if_there(path: &Path) -> Result<(), GitError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(GitError::file("removing", path, error)),
        _ => Ok(()),
    }
}

/// A name that Git accepts: it ends a name at `<`, and does not keep dots and the like at its ends.
fn person_name(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control() && !matches!(c, '<' | '>')).take(100).collect();
    let name = name.trim_matches(|c: char| c.is_whitespace() || ".,:;\"\\'".contains(c));
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}

/// An address that Git accepts; nobody reads mail there.
fn address(name: &str, tenant: &TenantName) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let local: String = name.to_lowercase().chars().map(allowed).collect();
    format!("{local}@{tenant}.edgewright.local")
}
