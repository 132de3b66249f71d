//! Writing the repositories, by one process at a time.
//!
//! **Layout.** Beside the repositories of a tenant stand `git-writer.lock`, which the one writer holds,
//! `allowed_signers`, by which stock git believes its signatures, and the journal, which has a file of its own here.
//! Where everything else stands says [`layout`].
//!
//! **Updates.** Commits are made in memory, in a [`Series`] for each repository. [`Writer::advance`] takes those of many
//! repositories together: they are in the journal, on the disk, before anything of them goes into the repositories, so one
//! sync is enough for all. Objects are in a repository before its branch names them. A branch moves only from where it is
//! thought to be.
//!
//! **After a crash.** What the journal holds is written once more by [`Writer::new`], whatever a power cut has left of it
//! in the repositories; until then they may be broken. A lock that a killed writer left on a branch is removed by
//! [`Writer::open`]. A new repository is made under another name and renamed when it is whole, so one that was cut short
//! is made again.

use std::{
    cell::Cell,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use disk::FolderLock;
use gix::{
    lock::acquire::Fail,
    objs::{Kind, Write, WriteTo, tree::EntryKind},
    refs::{
        FullName, Target,
        file::Transaction,
        transaction::{PreviousValue, RefEdit},
    },
};
use identity::{SigningKey, trust::GIT_NAMESPACE};
use jiff::Timestamp;
use margo::{KeySet, RepositoryName, TenantName};
use rayon::prelude::*;

use crate::{
    CommitId, GitError, Message, Repository, Series, TreePath, durable,
    journal::{Group, Journal},
    layout,
    replay::{Unwritten, open_journal},
};

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

/// How far [`Writer::advance_in_steps`] is. A process that is killed there loses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The journal has the commits on the disk, and no branch names them.
    Promised,
    /// The branch of this repository was moved.
    Moved(&'a RepositoryName),
}

/// The only writer of a tenant's repositories.
pub struct Writer {
    folder: PathBuf,
    tenant: TenantName,
    key: SigningKey,
    allowed_signers: PathBuf,
    journal: Journal,
    unwritten: Unwritten,
    // The lock is held as long as this value lives; the kernel frees it with the process.
    _lock: FolderLock,
}

impl Writer {
    /// Becomes the writer of the tenant's repositories below `folder`, or fails because another process is. Commits will
    /// be signed with `key`; stock `git log --show-signature` believes those of `keys`. Commits that an earlier writer has
    /// promised are written once more, for they may be lost from their repositories.
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
        let (journal, unwritten) = open_journal(&folder, tenant)?;
        Ok(Self { folder, tenant: tenant.clone(), key, allowed_signers, journal, unwritten, _lock: lock })
    }

    /// Opens a repository to write it, and returns `None` when there is none. What a writer that was killed left half
    /// done is put right; a repository where that is not possible cannot be opened.
    pub fn open(&mut self, name: &RepositoryName) -> Result<Option<Repository>, GitError> {
        self.without_doubt()?;
        if self.unwritten.contains_key(&name.to_string()) {
            self.read_journal()?;
        }
        self.refuse_unwritten(name)?;
        let Some(repository) = Repository::open(&self.folder, &self.tenant, name)? else {
            return Ok(None);
        };
        // There is one writer only, so a lock that is there now was left by a writer that was killed.
        remove_if_there(&repository.lock_file())?;
        self.configure(repository.path())?;
        Ok(Some(repository))
    }

    /// Opens a repository to write it. When there is none, an empty one is created first, whole or not at all.
    pub fn open_or_create(&mut self, name: &RepositoryName) -> Result<Repository, GitError> {
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

    /// Adds a signed commit to a series and returns its id. After an error the series ends where it did before.
    pub fn write(&self, series: &mut Series, draft: Draft<'_>) -> Result<CommitId, GitError> {
        let error = series.repository().error("writing a commit");
        let git = &series.git;
        // All objects are written, also those that seem to be there: they may have been damaged.
        let size = Cell::new(0);
        let put = |kind, content: &[u8]| {
            size.set(size.get() + content.len());
            git.objects.write_buf(kind, content)
        };
        let parent = series.tip();
        let tree = match parent {
            Some(parent) => git.find_commit(parent.0).and_then(|commit| commit.tree()).map_err(|e| error(e.into()))?,
            None => git.empty_tree(),
        };
        let mut editor = tree.edit().map_err(|e| error(e.into()))?.detach();
        for FileChange { path, content } in draft.changes {
            let names = path.as_str().split('/').map(gix::bstr::BStr::new);
            let edited = match content {
                Some(content) => {
                    let blob = put(Kind::Blob, content).map_err(|e| error(e.into()))?;
                    editor.upsert(names, EntryKind::Blob, blob)
                }
                None => editor.remove(names),
            };
            edited.map_err(|e| error(e.into()))?;
        }
        let put_object = |object: &dyn WriteTo| {
            let mut bytes = Vec::new();
            object.write_to(&mut bytes).expect("writing to memory cannot fail");
            put(object.kind(), &bytes)
        };
        let tree = editor.write(|tree| put_object(tree)).map_err(|e| error(e.into()))?;
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
        commit.write_to(&mut unsigned).map_err(|e| error(e.into()))?;
        let signature = self.sign(GIT_NAMESPACE, &unsigned)?;
        commit.extra_headers.push(("gpgsig".into(), signature.trim_end().into()));
        let id = CommitId(put_object(&commit).map_err(|e| error(e.into()))?);
        (series.to, series.size) = (Some(id), series.size + size.get());
        Ok(id)
    }

    /// Signs bytes with the key that signs commits, and returns the armoured SSHSIG.
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, GitError> {
        self.key.sign(namespace, bytes).map_err(GitError::Sign)
    }

    /// Takes commits into their repositories and moves the branches to them, each only if it is where its series began. The
    /// results are in the order of the series, and so do the branches move. Where a result is `Ok`, the commits outlast a
    /// power cut; where it is an error, the branch may have moved all the same.
    pub fn advance(&mut self, series: Vec<Series>) -> Vec<Result<(), GitError>> {
        self.advance_in_steps(series, |_| {})
    }

    /// Does the same and calls `reached` after each step.
    pub fn advance_in_steps(
        &mut self,
        mut series: Vec<Series>,
        mut reached: impl FnMut(Step<'_>),
    ) -> Vec<Result<(), GitError>> {
        if let Err(error) = self.without_doubt() {
            return for_each(error, series.len());
        }
        let sealed: Vec<_> = series.iter_mut().map(Series::seal).collect();
        let prepare = |series| self.refuse_unwritten(Series::repository(series).name()).and_then(|()| prepare(series));
        let mut prepared: Vec<_> = series.iter().map(prepare).collect();
        let is_fleet = |series: &Series| *series.repository().name() == RepositoryName::Fleet;
        if series.iter().zip(&prepared).any(|(series, prepared)| is_fleet(series) && prepared.is_err()) {
            for (series, prepared) in series.iter().zip(&mut prepared) {
                if series.follows_fleet && prepared.is_ok() {
                    *prepared = Err(GitError::FleetRefused);
                }
            }
        }
        // What the journal holds comes about after a power cut, so a move that is refused must not be in it.
        let accepted = sealed.into_iter().zip(&prepared).filter(|(_, prepared)| prepared.is_ok());
        let group = Group { moves: accepted.map(|(sealed, _)| sealed).collect() };
        let promised = if group.moves.is_empty() { Ok(()) } else { self.journal.append(&group) };
        let written = match promised {
            Ok(()) => {
                reached(Step::Promised);
                let accepted = series.iter().zip(&prepared).filter(|(_, prepared)| prepared.is_ok());
                let repositories: Vec<_> = accepted.map(|(series, _)| series.repository()).collect();
                let moves = repositories.into_par_iter().zip(&group.moves);
                moves.map(|(repository, planned)| repository.write(&planned.objects)).collect()
            }
            Err(error) => for_each(error, group.moves.len()),
        };
        let mut written = written.into_iter();
        let mut moved = Vec::with_capacity(series.len());
        for (series, prepared) in series.iter().zip(prepared) {
            let moved_one = prepared.and_then(|transaction| {
                let moved_one = written.next().expect("one for each that is prepared").and_then(|()| {
                    let error = series.repository().error("moving the branch");
                    transaction.commit(None).map(|_| ()).map_err(|e| error(e.into()))
                });
                // The journal would bring about what is said here to have failed.
                moved_one.inspect_err(|_| self.journal.doubt())
            });
            if moved_one.is_ok() {
                reached(Step::Moved(series.repository().name()));
            }
            moved.push(moved_one);
        }
        self.journal.turn_over();
        moved
    }

    /// Puts all on the disk that the repositories hold, so that the next start has nothing to write once more.
    pub fn rest(&mut self) -> Result<(), GitError> {
        self.without_doubt()?;
        self.journal.empty()
    }

    /// After a failure the journal is read again, and what a failed attempt may have left in it comes about.
    fn without_doubt(&mut self) -> Result<(), GitError> {
        if self.journal.is_in_doubt() { self.read_journal() } else { Ok(()) }
    }

    /// Fails when the journal could not be written into this repository. Its commits stay in the journal, which is read
    /// again before the next attempt.
    fn refuse_unwritten(&mut self, name: &RepositoryName) -> Result<(), GitError> {
        let Some(error) = self.unwritten.remove(&name.to_string()) else { return Ok(()) };
        self.journal.doubt();
        Err(error)
    }

    fn read_journal(&mut self) -> Result<(), GitError> {
        // Whatever became of it: files that are still there are read.
        let _either_way = self.journal.emptied();
        (self.journal, self.unwritten) = open_journal(&self.folder, &self.tenant)?;
        Ok(())
    }
}

/// The results when something has failed that all of these share.
fn for_each(error: GitError, count: usize) -> Vec<Result<(), GitError>> {
    let error = Arc::new(error);
    (0..count).map(|_| Err(GitError::Shared(error.clone()))).collect()
}

/// Locks the branch of a series, and fails unless it is where the series began.
fn prepare(series: &Series) -> Result<Transaction<'_, '_>, GitError> {
    let repository = series.repository();
    let error = repository.error("moving the branch");
    let to = series.to.ok_or_else(|| error("there is no commit that it could move to".into()))?;
    let expected = match series.from {
        Some(from) => PreviousValue::MustExistAndMatch(Target::Object(from.0)),
        None => PreviousValue::MustNotExist,
    };
    let name: FullName = repository.branch().try_into().expect("refs/heads/ and one of our two branches");
    let edit = RefEdit::update(name, to.0, expected, "");
    let prepared = series.git.refs.transaction().prepare([edit], Fail::Immediately, Fail::Immediately);
    prepared.map_err(|e| match repository.tip() {
        Ok(found) if found != series.from => GitError::moved(repository.path(), series.from, found),
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
