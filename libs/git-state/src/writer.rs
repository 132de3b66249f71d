//! Writing the repositories, by one process at a time.
//!
//! **Layout.** Beside the repositories of a tenant stand `git-writer.lock`, which the one writer holds,
//! `allowed_signers`, by which stock git believes its signatures, and the journal, which has a file of its own here.
//! Where everything else stands says [`layout`].
//!
//! **Updates.** Commits are made in memory, in a [`Series`] for each repository, as the pieces of a pack. [`Writer::advance`]
//! takes those of many repositories together: they are in the journal, on the disk, before anything of them goes into the
//! repositories, so one sync is enough for all. Then each repository gets its pack, in the place of the one of the group before
//! unless that has become large, and its branch moves to the last commit, but only from where it is thought to be. A pack that
//! was replaced goes after a while, because a reader may be about to open it.
//!
//! **Memory.** The trees of the tips and the packs that grow stay in memory, as far as there is room.
//!
//! **After a crash.** What the journal holds is written once more by [`Writer::new`], whatever a power cut has left of it
//! in the repositories; until then they may be broken. The journal alone is enough for that: whenever what it held was put on
//! the disk and removed from it, the next group of each repository begins a new pack. A lock that a killed writer left on a
//! branch is removed by [`Writer::open`]. A new repository is made under another name and renamed when it is whole, so one that
//! was cut short is made again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use disk::FolderLock;
use gix::objs::WriteTo;
use identity::{SigningKey, trust::GIT_NAMESPACE};
use jiff::Timestamp;
use margo::{KeySet, RepositoryName, TenantName};
use rayon::prelude::*;

use crate::{
    CommitId, FileChange, GitError, Message, PacksHeld, Repository, Series,
    branch::{Branch, Lock},
    durable,
    journal::{Epoch, Journal},
    layout,
    memory::{self, Memory},
    pack_files::{self, Replaced},
    recent::Recent,
    replay::{Opened, Unwritten, open_journal},
    series::Sealed,
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
    replaced: Replaced,
    memories: Mutex<Recent<Memory>>,
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
        let Opened { journal, unwritten, replaced: packs } = open_journal(&folder, tenant)?;
        let mut replaced = Replaced::default();
        packs.iter().for_each(|(repository, pack)| replaced.add(repository, *pack));
        // At once: a power cut may have left of them what readers stumble over.
        replaced.remove_all();
        Ok(Self {
            folder,
            tenant: tenant.clone(),
            key,
            allowed_signers,
            journal,
            unwritten,
            replaced,
            memories: Mutex::new(Recent::new(memory::BUDGET)),
            _lock: lock,
        })
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
        // There is one writer only, so what is there now was left by a writer that was killed.
        Branch::of(name, repository.path()).remove_lock()?;
        pack_files::remove_unfinished(repository.path())?;
        self.configure(repository.path())?;
        Ok(Some(repository))
    }

    /// Returns the newest commit of a repository that was opened before, and `None` before the first.
    pub fn tip(&self, name: &RepositoryName) -> Result<Option<CommitId>, GitError> {
        Branch::of(name, &self.path(name)).tip(name)
    }

    /// Begins a series of commits in a repository that was opened before, at the commit that is thought to be its newest;
    /// `None` when there is no branch yet.
    pub fn series(&self, name: &RepositoryName, from: Option<CommitId>) -> Series {
        Series::at(name.clone(), self.path(name), from)
    }

    /// Keeps the packs that the repository has now, until the result is dropped: for a program that lists them and fails when
    /// one of them goes.
    pub fn hold_packs(&mut self, name: &RepositoryName) -> PacksHeld {
        self.replaced.hold(&self.path(name))
    }

    fn path(&self, name: &RepositoryName) -> PathBuf {
        layout::repository(&self.folder, &self.tenant, name)
    }

    /// Opens a repository to write it. When there is none, an empty one is created first, whole or not at all.
    pub fn open_or_create(&mut self, name: &RepositoryName) -> Result<Repository, GitError> {
        if let Some(repository) = self.open(name)? {
            return Ok(repository);
        }
        let path = self.path(name);
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

    /// Adds a signed commit to a series and returns its id. After an error the series ends where it did before, and takes no
    /// other commit.
    pub fn write(&self, series: &mut Series, draft: Draft<'_>) -> Result<CommitId, GitError> {
        if !series.has_begun() {
            let held = self.memories.lock().unwrap_or_else(PoisonError::into_inner).take(series.name());
            series.begin(held, self.journal.epoch())?;
        }
        let time = gix::date::Time::new(draft.at.as_second(), 0);
        let person = |name: &str| {
            let name = person_name(name);
            gix::actor::Signature { email: address(&name, &self.tenant).into(), name: name.into(), time }
        };
        series.add(draft.changes, |tree, parent| {
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

    /// Takes commits into their repositories and moves the branches to them, each only if it is where its series began. The
    /// results are in the order of the series. The branch of `fleet.git` moves before those of clients. Where a result is
    /// `Ok`, the commits outlast a power cut; where it is an error, the branch may have moved all the same.
    pub fn advance(&mut self, series: Vec<Series>) -> Vec<Result<(), GitError>> {
        self.advance_in_steps(series, |_| {})
    }

    /// Does the same and calls `reached` after each step.
    pub fn advance_in_steps(
        &mut self,
        series: Vec<Series>,
        mut reached: impl FnMut(Step<'_>),
    ) -> Vec<Result<(), GitError>> {
        self.replaced.remove_old();
        if let Err(error) = self.without_doubt() {
            return for_each(error, series.len());
        }
        let refused: Vec<_> = series.iter().map(|series| self.refuse_unwritten(series.name())).collect();
        let epoch = self.journal.epoch();
        let fleet = series.iter().position(|series| *series.name() == RepositoryName::Fleet);
        let all = series.into_par_iter().zip(refused);
        let mut ready: Vec<_> = all.map(|(series, refused)| refused.and_then(|()| prepare(series, epoch))).collect();
        if fleet.is_some_and(|fleet| ready[fleet].is_err()) {
            for ready in &mut ready {
                if ready.as_ref().is_ok_and(|ready| ready.series.follows_fleet()) {
                    *ready = Err(GitError::FleetRefused);
                }
            }
        }
        // What the journal holds comes about after a power cut, so a move that is refused must not be in it.
        let promised = ready.iter().flatten().count();
        let moves = ready.iter().flatten().filter_map(|ready| ready.series.planned(&ready.sealed));
        if promised > 0
            && let Err(error) = self.journal.append(moves)
        {
            let error = Arc::new(error);
            return ready.into_iter().map(|ready| ready.and(Err(GitError::Shared(error.clone())))).collect();
        }
        reached(Step::Promised);
        ready.par_iter_mut().for_each(|ready| go_on(ready, Ready::write_pack));
        for fleet in ready.iter_mut().filter(|ready| matches!(ready, Ok(ready) if ready.is_fleet())) {
            go_on(fleet, Ready::move_branch);
            if fleet.is_ok() {
                reached(Step::Moved(&RepositoryName::Fleet));
            }
        }
        ready.par_iter_mut().for_each(|ready| go_on(ready, Ready::move_branch));
        for client in ready.iter().flatten().filter(|ready| !ready.is_fleet()) {
            reached(Step::Moved(client.series.name()));
        }
        if ready.iter().flatten().count() < promised {
            // The journal would bring about what is said here to have failed.
            self.journal.doubt();
        }
        let ended = ready.into_iter().map(|ready| ready.map(|ready| self.keep(ready))).collect();
        self.journal.turn_over();
        ended
    }

    /// Keeps in memory what the next series stands on, and has the pack go that was replaced.
    fn keep(&mut self, ready: Ready) {
        let Ready { mut series, sealed, .. } = ready;
        let replaced = series.is_written(&sealed);
        if let Some(replaced) = replaced {
            self.replaced.add(series.path(), replaced);
        }
        if let (name, Some(memory)) = series.into_memory() {
            let size = memory.size();
            self.memories.lock().unwrap_or_else(PoisonError::into_inner).put(name, memory, size);
        }
    }

    /// Puts all on the disk that the repositories hold, so that the next start has nothing to write once more.
    pub fn rest(&mut self) -> Result<(), GitError> {
        self.without_doubt()?;
        self.replaced.remove_all();
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
        let Opened { journal, unwritten, replaced } = open_journal(&self.folder, &self.tenant)?;
        (self.journal, self.unwritten) = (journal, unwritten);
        replaced.iter().for_each(|(repository, pack)| self.replaced.add(repository, *pack));
        Ok(())
    }
}

/// A series that can go into its repository.
struct Ready {
    series: Series,
    sealed: Sealed,
    lock: Lock,
}

/// Makes the pack of a series whole and locks the branch. Fails unless the branch is where the series began.
fn prepare(mut series: Series, epoch: Epoch) -> Result<Ready, GitError> {
    let sealed = series.seal(epoch)?;
    let lock = Branch::of(series.name(), series.path()).lock(series.name(), series.from(), sealed.to)?;
    Ok(Ready { series, sealed, lock })
}

impl Ready {
    fn is_fleet(&self) -> bool {
        *self.series.name() == RepositoryName::Fleet
    }

    fn write_pack(&mut self) -> Result<(), GitError> {
        self.series.write_pack(&self.sealed.whole)
    }

    fn move_branch(&mut self) -> Result<(), GitError> {
        self.lock.commit()
    }
}

/// Does the next step with what no earlier step has failed for.
fn go_on(ready: &mut Result<Ready, GitError>, step: impl FnOnce(&mut Ready) -> Result<(), GitError>) {
    if let Ok(so_far) = ready
        && let Err(error) = step(so_far)
    {
        *ready = Err(error);
    }
}

/// The results when something has failed that all of these share.
fn for_each(error: GitError, count: usize) -> Vec<Result<(), GitError>> {
    let error = Arc::new(error);
    (0..count).map(|_| Err(GitError::Shared(error.clone()))).collect()
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
