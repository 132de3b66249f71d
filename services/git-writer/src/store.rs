//! How far the repositories are, and how a group of rows gets into them. The only file that writes them. Blocks.
//!
//! **Layout.** A tenant has `fleet.git` and one repository for each client. The tip of each says in the trailer
//! `Handled` which rows of which source it holds, so a commit and the note that it was made are one thing: there is no
//! file beside Git that could disagree. What is kept in memory (the list of a client, the numbers) only saves reading
//! the tip again, and is dropped when the tip is another one or a commit failed.
//!
//! **Updates.** The rows of a group become commits, one on top of the other, in memory, while those of the group before are
//! put on the disk. What is made together is durable together; then it goes into the repositories, and each branch moves
//! once, with a compare-and-swap: first `fleet.git`, then the clients. How, says `git_state::Writer`. A group is taken in
//! parts that fit into memory. A client's list is changed in place, at the cost of what changes; it is dropped and read again
//! when anything fails, or when others need the memory.
//!
//! **After a crash.** Whatever was durable comes about when the writer is opened, and nothing else. A killed process
//! leaves what people meant there before what follows from it. The log still has the rows, the numbers in `Handled` tell
//! which of them are in, and the others are committed again.

mod draft;
mod renew;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    thread,
};

use async_nats::HeaderMap;
use git_state::{CommitId, Disk, Drafter, GitError, Manifest, PacksHeld, Prepared, Recent, Step, Writer, layout};
use identity::SigningKey;
use margo::{DeploymentId, Digest, ManifestList, ManifestVersion, NodeEntry, RepositoryName, TenantName};
use process::stop_point;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tracing::Span;

use crate::{
    config::{Config, Keys},
    domain::{Handled, Row},
    error::StoreError,
    reader::{Reader, handled_at},
    store::draft::{Attempt, Drafted, Drafting},
};

/// The bytes that commits may have together in memory, about.
const PART: usize = 32 << 20;

/// The bytes that a commit takes beside its files, about: trees, the message, two signatures.
const COMMIT: usize = 2 << 10;

/// The repositories whose commits are made together, at most: all of them are in memory meanwhile, whatever its limits say.
const TOGETHER: usize = 128;

/// The bytes that the lists of all clients may take in memory together, about.
const LISTS: usize = 24 << 20;

/// A row that came from the log and is to be committed.
#[derive(Debug)]
pub struct Queued {
    pub row: Row,
    pub repository: RepositoryName,
    /// Bytes of the row before compression: about what it takes in memory.
    pub bytes: usize,
    /// Headers of the row's last message. They name the trace that the commit continues.
    pub headers: Option<HeaderMap>,
}

/// A repository whose tip outlasts a power cut and has to be announced.
pub struct Committed {
    pub repository: RepositoryName,
    pub tip: CommitId,
    pub handled: Handled,
    /// Version of the client's manifest at the tip; `None` for `fleet.git`.
    pub version: Option<ManifestVersion>,
    /// One span for each new commit; they end when the tip is announced. There is none when all rows were committed
    /// before: then the tip is announced again, because an earlier life may have died before it did so.
    pub spans: Vec<Span>,
}

/// A repository that stands still.
pub struct Failed {
    pub repository: RepositoryName,
    pub error: StoreError,
    /// The rows that are still to be committed: the one that failed and all behind it.
    pub rows: Vec<Queued>,
}

/// A client's repository that would get ahead of `fleet.git`.
pub struct Behind {
    pub repository: RepositoryName,
    /// The rows that are still to be committed: the one that follows a row of `fleet.git` that is not there, and all behind it.
    pub rows: Vec<Queued>,
}

/// What became of a group. A repository is in both lists when some of its rows were committed before one failed, and
/// several times in the first when the group was taken in parts.
#[derive(Default)]
pub struct Outcome {
    pub committed: Vec<Committed>,
    /// The repositories that were tried, and for which there was nothing to be done.
    pub unchanged: Vec<RepositoryName>,
    pub behind: Vec<Behind>,
    pub failed: Vec<Failed>,
}

/// The store, which one group at a time uses. The lock is held as long as a group of commits takes, so it is only taken on
/// threads that may block.
pub type SharedStore = Arc<Mutex<Store>>;

/// The repositories of a tenant, open for writing. Only one process can have them open.
pub struct Store {
    writer: Writer,
    tenant: TenantName,
    keys: Keys,
    /// What is known of the repositories that were used last.
    open: Recent<Open>,
    /// How far `fleet.git` is, as far as is known: also while it cannot be read.
    fleet: Handled,
    pending: Option<Pending>,
    /// Whether the clients of the next group are taken from the last one on.
    backwards: bool,
}

/// Commits that are ready to go into their repositories. What is known of these is already what they will be then, and the
/// next group stands on that.
struct Pending {
    drafts: Vec<Drafted>,
    prepared: Prepared,
    /// Where the branches are to be.
    tips: BTreeMap<RepositoryName, CommitId>,
}

/// What the tip of a repository says.
struct Open {
    tip: Option<CommitId>,
    handled: Handled,
    /// Version of the client's manifest; `None` before the first commit and for `fleet.git`.
    version: Option<ManifestVersion>,
    /// The list of the client's manifest; empty for `fleet.git`.
    list: ManifestList,
    /// How many bytes of memory the list takes, about.
    size: usize,
    /// Whether the tip holds the key set in force, so that a commit need not write it again.
    has_keys: bool,
}

impl Store {
    /// Reads the keys and takes the lock on the repositories. Fails when another process holds the lock.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let (signing, keys) = config.read_keys()?;
        Ok(Self::new(&config.repositories, signing, keys)?)
    }

    /// Takes the lock on the repositories of the tenant that the key set names, which are below `repositories`.
    pub fn new(repositories: &Path, signing: SigningKey, keys: Keys) -> Result<Self, StoreError> {
        let tenant = keys.set.tenant.clone();
        let writer = Writer::new(repositories, &tenant, &keys.set, signing)?;
        let (open, fleet) = (Recent::new(LISTS), Handled::default());
        Ok(Self { writer, tenant, keys, open, fleet, pending: None, backwards: false })
    }

    /// What reads the same repositories beside the writer.
    pub(crate) fn reader(&self, config: &Config) -> Reader {
        Reader { folder: config.repositories.clone(), tenant: self.tenant.clone(), keys: self.keys.set.clone() }
    }

    /// Keeps the packs that a repository has now, until the result is dropped: for a program that has listed them.
    pub(crate) fn hold_packs(&mut self, name: &RepositoryName) -> PacksHeld {
        self.writer.hold_packs(name)
    }

    /// Commits the rows of a group that are next: [`Store::begin`] and [`Store::finish`] in one.
    pub fn commit(&mut self, group: Vec<Queued>) -> Outcome {
        let mut outcome = self.begin(group);
        self.carry_out_pending(&mut outcome);
        outcome
    }

    /// Makes commits of the rows of a group that are next, and carries out meanwhile what was begun before. Returns what became of
    /// that, and which of the new rows cannot be committed now. Repositories fail one by one: a bad row stops its own
    /// repository only.
    pub fn begin(&mut self, group: Vec<Queued>) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut part, mut weight, mut repositories) = (Vec::<Queued>::new(), 0, 0);
        for queued in self.in_order(group) {
            if let Some(failed) = outcome.failed.iter_mut().find(|failed| failed.repository == queued.repository) {
                failed.rows.push(queued);
                continue;
            }
            if let Some(behind) = outcome.behind.iter_mut().find(|behind| behind.repository == queued.repository) {
                behind.rows.push(queued);
                continue;
            }
            let is_another = part.last().is_none_or(|last| last.repository != queued.repository);
            if weight >= PART || is_another && repositories == TOGETHER {
                self.begin_part(std::mem::take(&mut part), &mut outcome);
                (weight, repositories) = (0, 0);
            }
            repositories += usize::from(is_another || part.is_empty());
            weight += COMMIT + queued.row.size();
            part.push(queued);
        }
        self.begin_part(part, &mut outcome);
        outcome
    }

    /// Carries out what was begun. Returns what became of it.
    pub fn finish(&mut self) -> Outcome {
        let mut outcome = Outcome::default();
        self.carry_out_pending(&mut outcome);
        outcome
    }

    /// The rows of each repository in one piece, as they came, and those of `fleet.git` first: the others follow from them. Every other
    /// group begins with the clients that the last one has ended with, which are still in memory.
    fn in_order(&mut self, mut group: Vec<Queued>) -> Vec<Queued> {
        let backwards = self.backwards;
        self.backwards = !backwards;
        group.sort_by(|a, b| {
            let fleet_first = (a.repository != RepositoryName::Fleet).cmp(&(b.repository != RepositoryName::Fleet));
            let by_name = a.repository.cmp(&b.repository);
            fleet_first.then(if backwards { by_name.reverse() } else { by_name })
        });
        group
    }

    fn begin_part(&mut self, rows: Vec<Queued>, outcome: &mut Outcome) {
        let mut by_repository: BTreeMap<RepositoryName, Vec<Queued>> = BTreeMap::new();
        for queued in rows {
            by_repository.entry(queued.repository.clone()).or_default().push(queued);
        }
        if !self.can_be_drafted_meanwhile(&by_repository) {
            self.carry_out_pending(outcome);
        }
        let (mut ready, mut attempts) = (Vec::new(), Vec::new());
        for (name, rows) in by_repository {
            match self.take(&name) {
                Ok(open) => ready.push((name, open, rows)),
                Err(error) => attempts.push(Attempt::failed(name, error, rows)),
            }
        }
        let fleet = self.planned_fleet(&ready);
        attempts.extend(self.draft(ready, &fleet, outcome));
        let attempts = self.without_failed(attempts, outcome);
        self.prepare(attempts, outcome);
    }

    /// Whether all that these rows stand on is in memory. To open a repository may mean to read the journal again, which must not
    /// be while something is on its way into it; and what is pending is not in the repositories yet.
    fn can_be_drafted_meanwhile(&self, rows: &BTreeMap<RepositoryName, Vec<Queued>>) -> bool {
        let Some(pending) = &self.pending else { return true };
        let is_there = |name| {
            let Some(open) = self.open.get(name) else { return false };
            match pending.tips.get(name) {
                Some(tip) => open.tip == Some(*tip) && self.writer.drafter().remembers(name, Some(*tip)),
                None => self.writer.tip(name).is_ok_and(|tip| tip == open.tip),
            }
        };
        // Whoever follows `fleet.git` has to know how far that is.
        let somebody_follows = rows.values().flatten().any(|queued| queued.row.follows_fleet > 0);
        rows.keys().all(is_there) && (!somebody_follows || is_there(&RepositoryName::Fleet))
    }

    /// Makes commits of rows. What is pending is carried out at the same time.
    fn draft(
        &mut self,
        ready: Vec<(RepositoryName, Open, Vec<Queued>)>,
        fleet: &Handled,
        outcome: &mut Outcome,
    ) -> Vec<Attempt> {
        let (drafter, disk) = self.writer.split();
        let drafting = Drafting { drafter, tenant: &self.tenant, keys: &self.keys };
        // Repositories have nothing in common until they are durable, and what takes time is to hash and to sign.
        let draft = || {
            let attempts = ready.into_par_iter().map(|(name, open, rows)| drafting.attempt(name, open, rows, fleet));
            attempts.collect::<Vec<_>>()
        };
        let Some(Pending { drafts, prepared, .. }) = self.pending.take() else { return draft() };
        let (results, attempts) = thread::scope(|scope| {
            let carrying_out = scope.spawn(|| carry_out(disk, prepared, drafter));
            let attempts = draft();
            let results = carrying_out.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (results, attempts)
        });
        self.take_results(drafts, results, outcome);
        attempts
    }

    fn carry_out_pending(&mut self, outcome: &mut Outcome) {
        let Some(Pending { drafts, prepared, .. }) = self.pending.take() else { return };
        let (drafter, disk) = self.writer.split();
        let results = carry_out(disk, prepared, drafter);
        self.take_results(drafts, results, outcome);
    }

    /// What is left of these attempts when the outcome of the commits before them is known. Where those failed, nothing of the
    /// repository is left; and where `fleet.git` did not get as far as was planned, what follows it is made anew.
    fn without_failed(&mut self, attempts: Vec<Attempt>, outcome: &mut Outcome) -> Vec<Attempt> {
        let mut left = Vec::with_capacity(attempts.len());
        for attempt in attempts {
            if let Some(failed) = outcome.failed.iter_mut().find(|failed| failed.repository == attempt.name) {
                failed.rows.extend(attempt.into_rows());
            } else if let Some(behind) = outcome.behind.iter_mut().find(|behind| behind.repository == attempt.name) {
                behind.rows.extend(attempt.into_rows());
            } else {
                left.push(attempt);
            }
        }
        let of_fleet = left.iter().find(|attempt| attempt.name == RepositoryName::Fleet);
        let reached = match of_fleet {
            Some(attempt) if attempt.failed.is_some() => attempt.draft.as_ref().map(|(_, draft)| &draft.handled),
            None if outcome.failed.iter().any(|failed| failed.repository == RepositoryName::Fleet) => None,
            Some(_) | None => return left,
        };
        let reached = reached.unwrap_or(&self.fleet).clone();
        left.into_iter().map(|attempt| self.with_less_of_fleet(attempt, &reached)).collect()
    }

    /// How far `fleet.git` will be when all of its rows among these are carried out.
    fn planned_fleet(&mut self, ready: &[(RepositoryName, Open, Vec<Queued>)]) -> Handled {
        let is_pending = self.pending.as_ref().is_some_and(|pending| pending.tips.contains_key(&RepositoryName::Fleet));
        let of_fleet = ready.iter().find(|(name, ..)| *name == RepositoryName::Fleet);
        let somebody_asks = || ready.iter().flat_map(|(.., rows)| rows).any(|queued| queued.row.follows_fleet > 0);
        let (present, planned) = if let Some((_, open, rows)) = of_fleet {
            (open.handled.clone(), open.handled.after(rows.iter().map(|queued| &queued.row)))
        } else if somebody_asks()
            && let Ok(open) = self.take(&RepositoryName::Fleet)
        {
            let present = open.handled.clone();
            self.keep(RepositoryName::Fleet, open);
            (present.clone(), present)
        } else {
            return self.fleet.clone();
        };
        if !is_pending {
            self.fleet = present;
        }
        planned
    }

    /// Attempts anew what was made on the belief that `fleet.git` would get further than it does.
    fn with_less_of_fleet(&mut self, attempt: Attempt, fleet: &Handled) -> Attempt {
        if !attempt.draft.as_ref().is_some_and(|(series, _)| series.follows_fleet()) {
            return attempt;
        }
        let name = attempt.name.clone();
        let rows = attempt.into_rows();
        match self.take(&name) {
            Ok(open) => self.drafting().attempt(name, open, rows, fleet),
            Err(error) => Attempt::failed(name, error, rows),
        }
    }

    fn drafting(&self) -> Drafting<'_> {
        Drafting { drafter: self.writer.drafter(), tenant: &self.tenant, keys: &self.keys }
    }

    /// Takes out what is known of a repository. Its tip is read when that was not done yet, and when somebody else has moved the
    /// branch.
    fn take(&mut self, name: &RepositoryName) -> Result<Open, StoreError> {
        let pending = self.pending.as_ref().and_then(|pending| pending.tips.get(name));
        let is_current = |open: &Open| match pending {
            Some(pending) => open.tip == Some(*pending),
            None => self.writer.tip(name).is_ok_and(|tip| tip == open.tip),
        };
        match self.open.take(name).filter(is_current) {
            Some(open) => Ok(open),
            None => self.read(name),
        }
    }

    fn keep(&mut self, name: RepositoryName, open: Open) {
        let size = size_of::<Open>() + open.size;
        drop(self.open.put(name, open, size));
    }

    /// Reads what the tip of a repository says. A key in force has to have signed it.
    fn read(&mut self, name: &RepositoryName) -> Result<Open, StoreError> {
        let repository = self.writer.open_or_create(name)?;
        let tip = repository.tip()?;
        let (mut handled, mut version, mut list) = (Handled::default(), None, ManifestList::default());
        let mut has_keys = false;
        let size = |list: &ManifestList| list.nodes().map(|(_, entry)| size_of_node(entry)).sum::<usize>();
        if let Some(tip) = tip {
            handled = handled_at(&repository, tip, &self.keys.set)?;
            if let RepositoryName::Client(_) = name {
                let files = repository.files(tip)?;
                let manifest = Manifest::read(&files)?;
                (version, list) = (Some(manifest.version), manifest.list());
                has_keys = files.get(layout::KEYS) == Some(&self.keys.bytes)
                    && files.get(layout::KEYS_SIGNATURE) == Some(&self.keys.signature);
            }
        }
        Ok(Open { tip, handled, version, size: size(&list), list, has_keys })
    }

    /// Makes attempts ready to be carried out.
    fn prepare(&mut self, attempts: Vec<Attempt>, outcome: &mut Outcome) {
        let (mut series, mut drafts) = (Vec::new(), Vec::new());
        for Attempt { name, draft, unchanged, again, behind, failed } in attempts {
            if let Some(open) = unchanged {
                outcome.unchanged.extend(behind.is_none().then(|| name.clone()));
                self.keep(name, open);
            }
            if let Some((new, draft)) = draft {
                series.push(new);
                drafts.push(draft);
            }
            outcome.committed.extend(again);
            outcome.behind.extend(behind);
            outcome.failed.extend(failed);
        }
        if drafts.is_empty() {
            return;
        }
        // A branch that somebody else has moved meanwhile stays where it is, and its draft fails.
        let prepared = self.writer.prepare(series);
        let mut tips = BTreeMap::new();
        let are_ready: Vec<_> = prepared.are_ready().collect();
        for (draft, is_ready) in drafts.iter_mut().zip(are_ready) {
            if let (true, Some(open)) = (is_ready, draft.open.take()) {
                self.keep(draft.name.clone(), Open { tip: Some(draft.to), ..open });
            }
            if is_ready {
                tips.insert(draft.name.clone(), draft.to);
            }
        }
        self.pending = Some(Pending { drafts, prepared, tips });
    }

    /// Takes what has become of drafts. What is known of a repository where they did not come about is forgotten.
    fn take_results(&mut self, drafts: Vec<Drafted>, results: Vec<Result<(), GitError>>, outcome: &mut Outcome) {
        for (draft, result) in drafts.into_iter().zip(results) {
            let error = match result {
                Ok(()) => {
                    let Drafted { name, to, handled, version, spans, .. } = draft;
                    if name == RepositoryName::Fleet {
                        self.fleet = handled.clone();
                    }
                    outcome.committed.push(Committed { repository: name, tip: to, handled, version, spans });
                    continue;
                }
                Err(error) => error,
            };
            drop(self.open.take(&draft.name));
            match error {
                GitError::FleetRefused => Self::give_up(draft, outcome),
                error => Self::fail(draft, error.into(), outcome),
            }
        }
        stop_point("git-writer.committed");
    }

    /// Leaves nothing to be done at the next start.
    pub fn rest(&mut self) -> Result<(), StoreError> {
        self.carry_out_pending(&mut Outcome::default());
        Ok(self.writer.rest()?)
    }

    /// Gives a draft up because `fleet.git` did not get as far as was thought.
    fn give_up(draft: Drafted, outcome: &mut Outcome) {
        let Drafted { name: repository, rows, .. } = draft;
        if let Some(failed) = outcome.failed.iter_mut().find(|failed| failed.repository == repository) {
            failed.rows.splice(0..0, rows);
        } else if let Some(behind) = outcome.behind.iter_mut().find(|behind| behind.repository == repository) {
            behind.rows.splice(0..0, rows);
        } else {
            outcome.behind.push(Behind { repository, rows });
        }
    }

    /// Gives a draft up: its rows are to be committed again, before those of the repository that failed already. The
    /// repository is read anew before that.
    fn fail(draft: Drafted, error: StoreError, outcome: &mut Outcome) {
        let Drafted { name: repository, rows, .. } = draft;
        let behind = outcome.behind.iter().position(|behind| behind.repository == repository);
        let behind = behind.map(|at| outcome.behind.swap_remove(at).rows).unwrap_or_default();
        match outcome.failed.iter_mut().find(|failed| failed.repository == repository) {
            Some(failed) => {
                failed.error = error;
                failed.rows.splice(0..0, rows);
            }
            None => {
                let rows = rows.into_iter().chain(behind).collect();
                outcome.failed.push(Failed { repository, error, rows });
            }
        }
    }
}

/// Carries out what was prepared.
fn carry_out(disk: &mut Disk, prepared: Prepared, drafter: &Drafter) -> Vec<Result<(), GitError>> {
    disk.carry_out(prepared, drafter, |step| match step {
        Step::Promised => stop_point("git-writer.promised"),
        Step::Moved(RepositoryName::Fleet) => stop_point("git-writer.fleet-moved"),
        Step::Moved(RepositoryName::Client(_)) => {}
    })
}

/// How many bytes of memory a node takes in a list, about.
fn size_of_node(entry: &NodeEntry) -> usize {
    256 + size_of::<(DeploymentId, Digest)>() * entry.deployments.len()
}

#[cfg(test)]
mod tests;
