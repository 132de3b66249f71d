//! Copies of the repositories on foreign remotes, which git-writer pushes to.
//!
//! What was committed is told by [`Mirrors::changed`], and a start takes every repository as changed, so nothing is remembered and
//! a remote that was away for days is caught up by one push of each repository. Nothing is ever forced: a branch of a remote that
//! somebody else has moved stays as it is, and operators see it among the refusals.

mod push;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use git_state::layout;
use margo::{RepositoryName, TenantName};
use process::{Backoff, due};
use serde::{Deserialize, Deserializer, de::Error as _};
use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::push::{Pushed, push};
use crate::{metrics, refusals::Refusals};

/// Pushes of one mirror at the same time, where each repository has a remote of its own.
const PUSHES: usize = 4;

/// Repositories of one push, where all have one remote: a command names the objects of each of them.
const TOGETHER: usize = 100;

/// The pauses after a push that failed.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// When a branch is looked at again that others have moved.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How the repositories lie on a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Each has a remote repository of its own: `<url>/fleet.git` and `<url>/clients/<client>.git`, with the branches that they have here.
    Each,
    /// All are branches of one remote repository, `<url>`: `fleet`, and `client/<client>`.
    One,
}

/// A foreign remote.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mirror {
    /// What operators call it.
    pub name: String,
    /// Where it is; whatever `git push` takes, without a password, which would be seen among the arguments of git and in its words.
    #[serde(deserialize_with = "url")]
    pub url: String,
    pub layout: Layout,
    /// The user name that git gives.
    #[serde(default = "user")]
    pub user: String,
    /// A file whose first line is the password or token. Absent: git gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// A PEM file of the root certificates by which the remote is known. Absent: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_certificates: Option<PathBuf>,
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    let user = url.split_once("://").and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'));
    if user.is_some_and(|(user, _)| user.contains(':')) {
        return Err(D::Error::custom("a mirror's url holds no password: name the file that holds it as token-file"));
    }
    if url.starts_with('-') {
        return Err(D::Error::custom("a mirror's url begins with no dash"));
    }
    Ok(url)
}

fn user() -> String {
    "git".to_owned()
}

impl Mirror {
    /// The remote of a repository, and its branch there.
    fn place(&self, repository: &RepositoryName) -> (String, String) {
        let url = self.url.trim_end_matches('/');
        match (self.layout, repository) {
            (Layout::Each, _) => (format!("{url}/{repository}.git"), layout::branch(repository).to_owned()),
            (Layout::One, RepositoryName::Fleet) => (url.to_owned(), "fleet".to_owned()),
            (Layout::One, RepositoryName::Client(client)) => (url.to_owned(), format!("client/{client}")),
        }
    }
}

/// All mirrors. A clone is cheap and shares everything.
#[derive(Clone)]
pub struct Mirrors {
    folder: PathBuf,
    tenant: TenantName,
    mirrors: Arc<[(Mirror, Changed)]>,
    refusals: Refusals,
}

/// The repositories that a remote may not have as they are.
type Changed = watch::Sender<BTreeSet<RepositoryName>>;

impl Mirrors {
    pub fn new(mirrors: Vec<Mirror>, folder: PathBuf, tenant: TenantName, refusals: Refusals) -> Self {
        let mirrors = mirrors.into_iter().map(|mirror| (mirror, Changed::default())).collect();
        Self { folder, tenant, mirrors, refusals }
    }

    /// Notes that a repository has a new commit.
    pub fn changed(&self, repository: &RepositoryName) {
        for (_, changed) in &*self.mirrors {
            changed.send_if_modified(|changed| changed.insert(repository.clone()));
        }
    }

    /// Pushes until shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        if self.mirrors.is_empty() {
            return Ok(());
        }
        let (folder, tenant) = (self.folder.clone(), self.tenant.clone());
        let all = spawn_blocking(move || layout::repositories(&folder, &tenant)).await??;
        all.iter().for_each(|repository| self.changed(repository));
        let mut tasks = JoinSet::new();
        for index in 0..self.mirrors.len() {
            tasks.spawn(self.clone().keep(index, shutdown.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    }

    /// Keeps one mirror.
    async fn keep(self, index: usize, shutdown: CancellationToken) {
        let (mirror, changed) = &self.mirrors[index];
        let behind = metrics::MIRROR_BEHIND.with_label_values(&[mirror.name.as_str()]);
        let mut told = changed.subscribe();
        let (mut backoff, mut next) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), None);
        // When each branch is looked at again that others have moved.
        let mut moved: BTreeMap<RepositoryName, Instant> = BTreeMap::new();
        let mut pushing = JoinSet::new();
        let mut in_work = BTreeSet::new();
        loop {
            // Before the set is read: what is added from now on wakes us.
            told.mark_unchanged();
            let now = Instant::now();
            let waits = next.is_some_and(|next| next > now);
            if !waits {
                moved.retain(|_, again| *again > now);
                let open: Vec<_> = {
                    let changed = changed.borrow();
                    let open = changed.iter().filter(|it| !moved.contains_key(it) && !in_work.contains(*it));
                    open.cloned().collect()
                };
                for group in self.groups(mirror, open, pushing.len()) {
                    in_work.extend(group.iter().cloned());
                    // What is committed from now on is a change again.
                    changed.send_modify(|changed| changed.retain(|it| !group.contains(it)));
                    let (folder, tenant, mirror) = (self.folder.clone(), self.tenant.clone(), mirror.clone());
                    pushing.spawn(async move {
                        let pushed = push(&folder, &tenant, &mirror, &group).await;
                        (group, pushed)
                    });
                }
            }
            behind.set((changed.borrow().len() + in_work.len()) as i64);
            let again = moved.values().min().copied().into_iter().chain(next.filter(|_| waits)).min();
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(Ok((group, pushed))) = pushing.join_next() => {
                    in_work.retain(|repository| !group.contains(repository));
                    next = self.note(mirror, changed, &group, pushed, &mut moved)
                        .then(|| Instant::now() + backoff.pause());
                    if next.is_none() {
                        backoff.reset();
                    }
                }
                Ok(()) = told.changed(), if !waits => {}
                () = due(again) => {}
            }
        }
    }

    /// What is pushed together: where each repository has a remote, one and one, as many as there are places.
    fn groups(&self, mirror: &Mirror, open: Vec<RepositoryName>, in_work: usize) -> Vec<Vec<RepositoryName>> {
        match mirror.layout {
            Layout::Each => open.into_iter().take(PUSHES.saturating_sub(in_work)).map(|one| vec![one]).collect(),
            Layout::One if in_work > 0 || open.is_empty() => Vec::new(),
            Layout::One => vec![open.into_iter().take(TOGETHER).collect()],
        }
    }

    /// Notes what became of a push; returns whether the next one has to wait.
    fn note(
        &self,
        mirror: &Mirror,
        changed: &Changed,
        group: &[RepositoryName],
        pushed: Result<Vec<Pushed>, push::Failed>,
        moved: &mut BTreeMap<RepositoryName, Instant>,
    ) -> bool {
        let again = |repositories: &[RepositoryName]| {
            changed.send_modify(|changed| changed.extend(repositories.iter().cloned()));
        };
        let subject = format!("mirror {}", mirror.name);
        let pushed = match pushed {
            Ok(pushed) => pushed,
            Err(failed) => {
                warn!(mirror = mirror.name, error = &failed as &dyn std::error::Error, "not pushed; trying again");
                self.refusals.note(&subject, Some(&process::chain(&failed)));
                again(group);
                return true;
            }
        };
        self.refusals.note(&subject, None);
        let mut wait = false;
        for (repository, pushed) in group.iter().zip(pushed) {
            let subject = format!("mirror {}: {repository}", mirror.name);
            match pushed {
                Pushed::There => {
                    if self.refusals.note(&subject, None) {
                        info!(mirror = mirror.name, %repository, "the mirror follows again");
                    }
                }
                Pushed::MovedByOthers => {
                    let why = "others have moved the branch there; it is not overwritten: put it right there, or take it away";
                    if !self.refusals.note(&subject, Some(why)) {
                        warn!(mirror = mirror.name, %repository, why, "not pushed");
                    }
                    moved.insert(repository.clone(), Instant::now() + LOOK_AGAIN);
                    again(std::slice::from_ref(repository));
                }
                Pushed::Refused(words) => {
                    self.refusals.note(&subject, Some(&words));
                    warn!(mirror = mirror.name, %repository, words, "not pushed; trying again");
                    again(std::slice::from_ref(repository));
                    wait = true;
                }
            }
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layout_has_its_place_for_each_repository() {
        let text = "name = \"backup\"\nurl = \"https://git.example/ew/\"\nlayout = \"each\"\n";
        let each: Mirror = toml::from_str(text).unwrap();
        let plant = RepositoryName::Client("plant".parse().unwrap());
        let place = |mirror: &Mirror, repository| {
            let (url, branch) = mirror.place(repository);
            format!("{url} {branch}")
        };
        assert_eq!(place(&each, &RepositoryName::Fleet), "https://git.example/ew/fleet.git main");
        assert_eq!(place(&each, &plant), "https://git.example/ew/clients/plant.git desired");
        let one = Mirror { layout: Layout::One, ..each };
        assert_eq!(place(&one, &RepositoryName::Fleet), "https://git.example/ew fleet");
        assert_eq!(place(&one, &plant), "https://git.example/ew client/plant");
        for (wrong, with) in [("each", "many"), ("git.example", "git:secret@git.example"), ("https://", "--exec=")] {
            assert!(toml::from_str::<Mirror>(&text.replace(wrong, with)).is_err(), "{with}");
        }
        assert!(toml::from_str::<Mirror>(&text.replace("git.example", "git@git.example")).is_ok());
    }
}
