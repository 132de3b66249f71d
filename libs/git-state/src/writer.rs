//! Writing the repositories, by one process at a time.
//!
//! **Layout.** Beside the repositories of a tenant stand `git-writer.lock`, which the one writer holds,
//! `allowed_signers`, by which stock git believes its signatures, and the journal, which has a file of its own here.
//! Where everything else stands says [`layout`].
//!
//! **Updates.** Commits are made in memory, in a [`Series`] for each repository, as the pieces of a pack. [`Writer::prepare`] locks
//! the branches, each only where it is thought to be, and puts the packs into the repositories under names that nobody looks
//! for. [`Disk::carry_out`] puts the commits of all of them into the journal and on the disk, with one sync, before any can be
//! seen. Then the packs get their names, each in the place of the one of the group before unless that has become large, and the
//! branches move. A pack that was replaced goes after a while, because a reader may be about to open it. Meanwhile the next
//! commits can be drafted.
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
    sync::{Arc, Weak},
};

use disk::FolderLock;
use identity::{SigningKey, trust::GIT_NAMESPACE};
use margo::{KeySet, RepositoryName, TenantName};
use rayon::prelude::*;

use crate::{
    CommitId, Draft, GitError, PacksHeld, Repository, Series,
    branch::Branch,
    drafter::{Drafter, committer},
    durable,
    journal::Journal,
    layout,
    pack_files::{self, Replaced},
    prepared::{Prepared, Ready},
    replay::{Opened, Unwritten, open_journal},
};

/// How far [`Disk::carry_out`] is. A process that is killed there loses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The journal has the commits on the disk, and no branch names them.
    Promised,
    /// The branch of this repository was moved.
    Moved(&'a RepositoryName),
}

/// The only writer of a tenant's repositories.
pub struct Writer {
    drafter: Drafter,
    disk: Disk,
}

/// What the writer does with the disk.
pub struct Disk {
    folder: PathBuf,
    tenant: TenantName,
    allowed_signers: PathBuf,
    journal: Journal,
    unwritten: Unwritten,
    replaced: Replaced,
    /// Whether something is prepared and not carried out.
    prepared: Weak<()>,
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
        let address = committer(tenant);
        let lines: String =
            keys.keys.iter().map(|key| format!("{address} namespaces=\"{GIT_NAMESPACE}\" {key}\n")).collect();
        replace(&allowed_signers, lines.as_bytes())?;
        durable::sync(&folder)?;
        let Opened { journal, unwritten, replaced: packs } = open_journal(&folder, tenant)?;
        let mut replaced = Replaced::default();
        packs.iter().for_each(|(repository, pack)| replaced.add(repository, *pack));
        // At once: a power cut may have left of them what readers stumble over.
        replaced.remove_all();
        let drafter = Drafter::new(folder.clone(), tenant.clone(), key, journal.epoch());
        let tenant = tenant.clone();
        let disk =
            Disk { folder, tenant, allowed_signers, journal, unwritten, replaced, prepared: Weak::new(), _lock: lock };
        Ok(Self { drafter, disk })
    }

    /// Returns what makes commits, and what takes them into their repositories, to be used at the same time.
    pub fn split(&mut self) -> (&Drafter, &mut Disk) {
        (&self.drafter, &mut self.disk)
    }

    /// Returns what makes commits.
    pub fn drafter(&self) -> &Drafter {
        &self.drafter
    }

    /// Begins a series as [`Drafter::series`].
    pub fn series(&self, name: &RepositoryName, from: Option<CommitId>) -> Series {
        self.drafter.series(name, from)
    }

    /// Adds a signed commit to a series as [`Drafter::write`].
    pub fn write(&self, series: &mut Series, draft: Draft<'_>) -> Result<CommitId, GitError> {
        self.drafter.write(series, draft)
    }

    /// Signs bytes as [`Drafter::sign`].
    pub fn sign(&self, namespace: &str, bytes: &[u8]) -> Result<String, GitError> {
        self.drafter.sign(namespace, bytes)
    }

    /// Takes commits into their repositories and moves the branches to them: [`Writer::prepare`] and [`Disk::carry_out`] in
    /// one. The results are in the order of the series.
    pub fn advance(&mut self, series: Vec<Series>) -> Vec<Result<(), GitError>> {
        let prepared = self.prepare(series);
        self.disk.carry_out(prepared, &self.drafter, |_| {})
    }

    /// Makes series ready to be carried out, each only if the branch is where it began. Until [`Disk::carry_out`] has returned,
    /// no repository among them may be opened, and from here on series may be drafted that stand on these; where their
    /// commits do not come about, neither do those on top.
    pub fn prepare(&mut self, series: Vec<Series>) -> Prepared {
        let without_doubt = self.disk.without_doubt();
        let epoch = self.disk.journal.epoch();
        self.drafter.journal_is_at(epoch);
        let alive = Arc::new(());
        if let Err(error) = without_doubt {
            return Prepared { all: for_each(error, series.len()), epoch, _alive: alive };
        }
        self.disk.prepared = Arc::downgrade(&alive);
        let refused: Vec<_> = series.iter().map(|series| self.disk.refuse_unwritten(series.name())).collect();
        let fleet = series.iter().position(|series| *series.name() == RepositoryName::Fleet);
        let (all, drafter) = (series.into_par_iter().zip(refused), &self.drafter);
        let ready = all.map(|(series, refused)| refused.and_then(|()| Ready::prepare(series, epoch, drafter)));
        let mut ready: Vec<_> = ready.collect();
        if fleet.is_some_and(|fleet| ready[fleet].is_err()) {
            for ready in &mut ready {
                if let Ok(client) = ready
                    && client.follows_fleet
                {
                    self.drafter.forget(&client.name);
                    *ready = Err(GitError::FleetRefused);
                }
            }
        }
        Prepared { all: ready, epoch, _alive: alive }
    }

    /// Opens a repository as [`Disk::open`].
    pub fn open(&mut self, name: &RepositoryName) -> Result<Option<Repository>, GitError> {
        self.disk.open(name)
    }

    /// Opens or creates a repository as [`Disk::open_or_create`].
    pub fn open_or_create(&mut self, name: &RepositoryName) -> Result<Repository, GitError> {
        self.disk.open_or_create(name)
    }

    /// Returns the newest commit as [`Disk::tip`].
    pub fn tip(&self, name: &RepositoryName) -> Result<Option<CommitId>, GitError> {
        self.disk.tip(name)
    }

    /// Keeps the packs that the repository has now, until the result is dropped: for a program that lists them and fails when
    /// one of them goes.
    pub fn hold_packs(&mut self, name: &RepositoryName) -> PacksHeld {
        let path = self.disk.path(name);
        self.disk.replaced.hold(&path)
    }

    /// Puts all on the disk that the repositories hold, so that the next start has nothing to write once more. Nothing may
    /// be left that was prepared and not carried out.
    pub fn rest(&mut self) -> Result<(), GitError> {
        let rested = self.disk.rest();
        self.drafter.journal_is_at(self.disk.journal.epoch());
        rested
    }
}

impl Disk {
    /// Opens a repository to write it, and returns `None` when there is none. What a writer that was killed left half
    /// done is put right; a repository where that is not possible cannot be opened.
    ///
    /// While something is prepared and not carried out, it fails where the journal has to be read for it.
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
        // Nobody needs these, and each takes a block of the disk in each of thousands of repositories.
        let removed = ["hooks", "info", "refs/tags"].iter().try_for_each(|name| fs::remove_dir_all(new.join(name)));
        let removed = removed.and_then(|()| fs::remove_file(new.join("description")));
        removed.map_err(|error| GitError::file("removing samples of", &new, error))?;
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

    /// Takes commits into their repositories and moves the branches to them. The results are in the order of the series. The
    /// branch of `fleet.git` moves before those of clients. Where a result is `Ok`, the commits outlast a power cut; where it is an
    /// error, the branch may have moved all the same. `drafter` forgets what did not come about. `reached` is called after each
    /// step.
    pub fn carry_out(
        &mut self,
        mut prepared: Prepared,
        drafter: &Drafter,
        mut reached: impl FnMut(Step<'_>),
    ) -> Vec<Result<(), GitError>> {
        let names: Vec<_> =
            prepared.all.iter().map(|ready| ready.as_ref().ok().map(|ready| ready.name.clone())).collect();
        // What the journal holds comes about after a power cut, so a move that is refused must not be in it.
        let promised = names.iter().flatten().count();
        if self.journal.epoch() != prepared.epoch {
            // The journal's file does not have the beginnings of these packs.
            prepared.go_on(|_| Err(GitError::Busy));
        }
        let moves = prepared.all.iter_mut().flatten().filter_map(|ready| ready.planned.take());
        if promised > 0
            && let Err(error) = self.journal.append(moves)
        {
            let error = Arc::new(error);
            prepared.go_on(|_| Err(GitError::Shared(error.clone())));
        } else {
            self.show(&mut prepared, &mut reached);
        }
        let mut ended = Vec::with_capacity(prepared.all.len());
        for (ready, name) in prepared.all.into_iter().zip(names) {
            if let (Err(_), Some(name)) = (&ready, name) {
                // The journal would bring about what is said here to have failed.
                self.journal.doubt();
                drafter.forget(&name);
            }
            ended.push(ready.map(|Ready { path, replaced, .. }| {
                if let Some(replaced) = replaced {
                    self.replaced.add(&path, replaced);
                }
            }));
        }
        self.replaced.remove_old();
        self.journal.turn_over();
        drafter.journal_is_at(self.journal.epoch());
        ended
    }

    /// Shows readers what the journal has promised.
    fn show(&mut self, prepared: &mut Prepared, reached: &mut impl FnMut(Step<'_>)) {
        reached(Step::Promised);
        prepared.go_on(|ready| ready.show_pack());
        prepared.go_on(|ready| if ready.is_fleet() { ready.move_branch() } else { Ok(()) });
        if prepared.all.iter().flatten().any(Ready::is_fleet) {
            reached(Step::Moved(&RepositoryName::Fleet));
        }
        prepared.go_on(Ready::move_branch);
        for client in prepared.all.iter().flatten().filter(|ready| !ready.is_fleet()) {
            reached(Step::Moved(&client.name));
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
        if self.prepared.strong_count() > 0 {
            return Err(GitError::Busy);
        }
        // Whatever became of it: files that are still there are read.
        let _either_way = self.journal.emptied();
        let Opened { journal, unwritten, replaced } = open_journal(&self.folder, &self.tenant)?;
        (self.journal, self.unwritten) = (journal, unwritten);
        replaced.iter().for_each(|(repository, pack)| self.replaced.add(repository, *pack));
        Ok(())
    }
}

/// The results when something has failed that all of these share.
fn for_each<T>(error: GitError, count: usize) -> Vec<Result<T, GitError>> {
    let error = Arc::new(error);
    (0..count).map(|_| Err(GitError::Shared(error.clone()))).collect()
}

fn replace(path: &Path, content: &[u8]) -> Result<(), GitError> {
    disk::write_private(path, content).map_err(|error| GitError::file("writing", path, error))
}
