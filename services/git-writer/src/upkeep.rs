//! Keeps the repositories small and quick to read, beside writers, readers and clones.
//!
//! When a repository has many packs, git gathers them geometrically, so that each byte is written a few times over the years, and
//! notes in a commit-graph which paths each commit has changed. One repository is looked after at a time, by a process that gives way
//! to all others; what it replaces is unlinked by git, and git-writer unlinks nothing there meanwhile.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use git_state::layout;
use margo::{RepositoryName, TenantName};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    git::{self, Limits},
    metrics,
    refusals::Refusals,
    store::SharedStore,
};

/// Between looks at the repositories that have changed.
const LOOK: Duration = Duration::from_secs(60);

/// From this many packs on they are gathered. Readers look an object up in each of them.
const PACKS: usize = 50;

/// What one command may take: it gives way to all others. A repository with 100,000 commits takes 17 seconds; one with ten million
/// objects some gigabytes.
const LIMITS: Limits = Limits { patience: Duration::from_secs(3600), memory: 4 << 30, file: None, niceness: 10 };

/// What git is told: it shares the machine with whoever waits for an order, and what it writes takes the place of what was on the
/// disk, so all of it has to be there first. By default git does not sync indexes.
const SETTINGS: [&str; 6] = [
    "core.fsync=all",
    "pack.threads=1",
    "pack.windowMemory=64m",
    // Without it each fetch puts the objects of a large pack in order anew: 57 ms in place of 13 with 100,000 commits.
    "pack.writeReverseIndex=true",
    "repack.writeBitmaps=false",
    "safe.directory=*",
];

/// Who looks after the repositories. A clone is cheap and shares everything.
#[derive(Clone)]
pub struct Upkeep {
    folder: PathBuf,
    tenant: TenantName,
    store: SharedStore,
    refusals: Refusals,
    /// The repositories that have changed since they were looked at.
    changed: Arc<Mutex<BTreeSet<RepositoryName>>>,
}

/// Why a repository was not looked after.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("git {command}: {words}")]
    Git { command: &'static str, words: String },
    #[error("git {command}")]
    NotRun {
        command: &'static str,
        #[source]
        why: git::Failed,
    },
    #[error("the repository cannot be looked at")]
    Io(#[from] io::Error),
}

impl Upkeep {
    pub fn new(folder: PathBuf, tenant: TenantName, store: SharedStore, refusals: Refusals) -> Self {
        Self { folder, tenant, store, refusals, changed: Arc::default() }
    }

    /// Notes that a repository has a new commit.
    pub fn changed(&self, repository: &RepositoryName) {
        let mut changed = self.lock();
        if !changed.contains(repository) {
            changed.insert(repository.clone());
        }
    }

    /// Looks after the repositories until shutdown; first after all, as somebody else may have left them.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (folder, tenant) = (self.folder.clone(), self.tenant.clone());
        let all = spawn_blocking(move || layout::repositories(&folder, &tenant)).await??;
        self.lock().extend(all);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(looks.tick()).await.is_some() {
            // One that fails is tried again at the next look.
            let changed = std::mem::take(&mut *self.lock());
            for repository in changed {
                match shutdown.run_until_cancelled(self.look_after(&repository)).await {
                    None => return Ok(()),
                    Some(looked) => self.note(&repository, looked),
                }
            }
        }
        Ok(())
    }

    fn note(&self, repository: &RepositoryName, looked: Result<(), Failed>) {
        let subject = format!("upkeep of {repository}");
        match looked {
            Ok(()) => drop(self.refusals.note(&subject, None)),
            Err(failed) => {
                warn!(%repository, error = &failed as &dyn std::error::Error, "the repository was not looked after");
                self.refusals.note(&subject, Some(&process::chain(&failed)));
                self.changed(repository);
            }
        }
    }

    async fn look_after(&self, repository: &RepositoryName) -> Result<(), Failed> {
        let path = layout::repository(&self.folder, &self.tenant, repository);
        let packs = path.join("objects/pack");
        if disk::blocking(move || count(&packs)).await? < PACKS {
            return Ok(());
        }
        let (store, name) = (self.store.clone(), repository.clone());
        // Until this is dropped, git-writer unlinks no pack there that git may have listed.
        let hold = move || store.lock().unwrap_or_else(PoisonError::into_inner).hold_packs(&name);
        let _held = spawn_blocking(hold).await.map_err(io::Error::other)?;
        let _timer = metrics::UPKEEP_SECONDS.start_timer();
        gather(&path).await?;
        debug!(%repository, "packs gathered");
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<RepositoryName>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many packs there are.
fn count(folder: &Path) -> io::Result<usize> {
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let is_index = |entry: &io::Result<std::fs::DirEntry>| {
        entry.as_ref().is_ok_and(|entry| entry.path().extension().is_some_and(|it| it == "idx"))
    };
    Ok(entries.filter(is_index).count())
}

/// Gathers the packs of a repository, and notes which paths its commits have changed.
pub async fn gather(repository: &Path) -> Result<(), Failed> {
    run(repository, "repack", &["--geometric=2", "-d", "--quiet"]).await?;
    run(repository, "commit-graph", &["write", "--reachable", "--changed-paths", "--split", "--no-progress"]).await
}

async fn run(repository: &Path, name: &'static str, arguments: &[&str]) -> Result<(), Failed> {
    let mut command = git::command(&SETTINGS, &[], LIMITS);
    command.arg("-C").arg(repository).arg(name).args(arguments).stdout(Stdio::null());
    let ended = git::run(command, LIMITS.patience, b"").await.map_err(|why| Failed::NotRun { command: name, why })?;
    if ended.status.success() {
        return Ok(());
    }
    Err(Failed::Git { command: name, words: ended.words.chars().take(500).collect() })
}
