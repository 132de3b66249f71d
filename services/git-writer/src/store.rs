//! How far the repositories are, and how a group of rows gets into them. The only file that writes them. Blocks.
//!
//! **Layout.** A tenant has `fleet.git` and one repository for each client. The tip of each says in the trailer
//! `Handled` which rows of which source it holds, so a commit and the note that it was made are one thing: there is no
//! file beside Git that could disagree. What is kept in memory (the list of a client, the numbers) only saves reading
//! the tip again, and is dropped when the tip is another one or a commit failed.
//!
//! **Updates.** The rows of a group become commits, one on top of the other, in memory. What is made together is durable
//! together; then it goes into the repositories, and each branch moves once, with a compare-and-swap: first `fleet.git`,
//! then the clients. How, says `git_state::Writer`. A group is taken in parts that fit into memory. A client's list is changed
//! in place, at the cost of what changes; it is dropped and read again when anything fails, or when others need the memory.
//!
//! **After a crash.** Whatever was durable comes about when the writer is opened, and nothing else. A killed process
//! leaves what people meant there before what follows from it. The log still has the rows, the numbers in `Handled` tell
//! which of them are in, and the others are committed again.

mod renew;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use async_nats::HeaderMap;
use bus::trace;
use git_state::{
    CommitId, Draft, FileChange, GitError, Manifest, Message, PacksHeld, Recent, Series, Step, Writer, layout,
};
use identity::{SigningKey, trust::HEAD_NAMESPACE};
use jiff::Timestamp;
use margo::{ClientName, Head, ManifestList, ManifestVersion, NodeEntry, RepositoryName, TenantName};
use process::stop_point;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tracing::{Span, info_span};

use crate::{
    config::{Config, Keys},
    domain::{self, ClientEdits, Edits, Handled, ImpossibleEdits, Place, Row},
    error::StoreError,
    reader::{Reader, handled_at},
};

/// The bytes that commits may have together in memory, about.
const PART: usize = 32 << 20;

/// The bytes that a commit takes beside its files, about: trees, the message, two signatures.
const COMMIT: usize = 2 << 10;

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

/// What was made of the rows of one repository, before any branch has moved.
#[derive(Default)]
struct Attempt {
    /// The new commits, if there are any, and what is to be known of them.
    draft: Option<(Series, Drafted)>,
    /// What is known of the repository, when there is no new commit.
    unchanged: Option<(RepositoryName, Open)>,
    /// The tip, when rows came again that it holds, and there is no new commit.
    again: Option<Committed>,
    /// The row that is ahead of `fleet.git`, and those behind it.
    behind: Option<Behind>,
    /// The row that failed, and those behind it.
    failed: Option<Failed>,
}

impl Attempt {
    fn is_failed(&self, repository: &RepositoryName) -> bool {
        self.failed.as_ref().is_some_and(|failed| failed.repository == *repository)
    }
}

/// The commits of one repository that no branch names yet.
struct Drafted {
    name: RepositoryName,
    /// The last of the commits: where the branch is to move.
    to: CommitId,
    handled: Handled,
    version: Option<ManifestVersion>,
    /// What the repository says at `to`. `None` when the row behind it failed and may have left the list half changed; then
    /// the tip is read again.
    open: Option<Open>,
    rows: Vec<Queued>,
    spans: Vec<Span>,
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
        Ok(Self { writer, tenant, keys, open: Recent::new(LISTS), fleet: Handled::default() })
    }

    /// What reads the same repositories beside the writer.
    pub(crate) fn reader(&self, config: &Config) -> Reader {
        Reader { folder: config.repositories.clone(), tenant: self.tenant.clone(), keys: self.keys.set.clone() }
    }

    /// Keeps the packs that a repository has now, until the result is dropped: for a program that has listed them.
    pub(crate) fn hold_packs(&mut self, name: &RepositoryName) -> PacksHeld {
        self.writer.hold_packs(name)
    }

    /// Commits the rows of a group that are next. Repositories fail one by one: a bad row stops its own repository
    /// only.
    pub fn commit(&mut self, group: Vec<Queued>) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut part, mut weight) = (Vec::new(), 0);
        for queued in group {
            if let Some(failed) = outcome.failed.iter_mut().find(|failed| failed.repository == queued.repository) {
                failed.rows.push(queued);
                continue;
            }
            if let Some(behind) = outcome.behind.iter_mut().find(|behind| behind.repository == queued.repository) {
                behind.rows.push(queued);
                continue;
            }
            weight += COMMIT + queued.row.size();
            part.push(queued);
            if weight >= PART {
                self.commit_part(std::mem::take(&mut part), &mut outcome);
                weight = 0;
            }
        }
        self.commit_part(part, &mut outcome);
        outcome
    }

    fn commit_part(&mut self, rows: Vec<Queued>, outcome: &mut Outcome) {
        let mut by_repository: BTreeMap<RepositoryName, Vec<Queued>> = BTreeMap::new();
        for queued in rows {
            by_repository.entry(queued.repository.clone()).or_default().push(queued);
        }
        let mut ready = Vec::new();
        for (repository, rows) in by_repository {
            match self.take(&repository) {
                Ok(open) => ready.push((repository, open, rows)),
                Err(error) => outcome.failed.push(Failed { repository, error, rows }),
            }
        }
        let fleet = self.planned_fleet(&ready);
        // Repositories have nothing in common until they are durable, and what takes time is to hash and to sign.
        let attempts = ready.into_par_iter().map(|(name, open, rows)| self.attempt(name, open, rows, &fleet));
        let mut attempts: Vec<_> = attempts.collect();
        if let Some(failed) = attempts.iter().find(|attempt| attempt.is_failed(&RepositoryName::Fleet)) {
            let reached = failed.draft.as_ref().map_or(&self.fleet, |(_, draft)| &draft.handled).clone();
            let again = attempts.into_iter().map(|attempt| self.with_less_of_fleet(attempt, &reached));
            attempts = again.collect();
        }
        let mut drafts = Vec::new();
        for attempt in attempts {
            drafts.extend(attempt.draft);
            if let Some((name, open)) = attempt.unchanged {
                self.keep(name, open);
            }
            outcome.committed.extend(attempt.again);
            outcome.behind.extend(attempt.behind);
            outcome.failed.extend(attempt.failed);
        }
        if !drafts.is_empty() {
            self.advance(drafts, outcome);
            stop_point("git-writer.committed");
        }
    }

    /// How far `fleet.git` will be when all of its rows among these are carried out.
    fn planned_fleet(&mut self, ready: &[(RepositoryName, Open, Vec<Queued>)]) -> Handled {
        if let Some((_, open, rows)) = ready.iter().find(|(name, ..)| *name == RepositoryName::Fleet) {
            self.fleet = open.handled.clone();
            return open.handled.after(rows.iter().map(|queued| &queued.row));
        }
        let somebody_asks = ready.iter().flat_map(|(.., rows)| rows).any(|queued| queued.row.follows_fleet > 0);
        if somebody_asks && let Ok(open) = self.take(&RepositoryName::Fleet) {
            self.fleet = open.handled.clone();
            self.keep(RepositoryName::Fleet, open);
        }
        self.fleet.clone()
    }

    /// Attempts anew what was made on the belief that `fleet.git` would get further than it does.
    fn with_less_of_fleet(&mut self, attempt: Attempt, fleet: &Handled) -> Attempt {
        let (series, draft) = match attempt.draft {
            Some((series, draft)) if series.follows_fleet() => (series, draft),
            draft => return Attempt { draft, ..attempt },
        };
        drop(series);
        let Drafted { name, mut rows, .. } = draft;
        rows.extend(attempt.behind.into_iter().flat_map(|behind| behind.rows));
        rows.extend(attempt.failed.into_iter().flat_map(|failed| failed.rows));
        match self.take(&name) {
            Ok(open) => self.attempt(name, open, rows, fleet),
            Err(error) => Attempt { failed: Some(Failed { repository: name, error, rows }), ..Attempt::default() },
        }
    }

    /// Takes out what is known of a repository. Its tip is read when that was not done yet, and when somebody else has moved the
    /// branch.
    fn take(&mut self, name: &RepositoryName) -> Result<Open, StoreError> {
        let is_current = |open: &Open| self.writer.tip(name).is_ok_and(|tip| tip == open.tip);
        match self.open.take(name).filter(is_current) {
            Some(open) => Ok(open),
            None => self.read(name),
        }
    }

    fn keep(&mut self, name: RepositoryName, open: Open) {
        let size = size_of::<Open>() + open.size;
        self.open.put(name, open, size);
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

    /// Writes the commits of one repository, up to the first row that fails or is ahead of `fleet.git`.
    fn attempt(&self, name: RepositoryName, mut open: Open, rows: Vec<Queued>, fleet: &Handled) -> Attempt {
        let mut attempt = Attempt::default();
        let mut series = self.writer.series(&name, open.tip);
        let (mut taken, mut spans, mut repeated) = (Vec::new(), Vec::new(), false);
        let mut rows = rows.into_iter();
        while let Some(queued) = rows.next() {
            let (source, number) = (queued.row.source, queued.row.number);
            let follows = if name == RepositoryName::Fleet { 0 } else { queued.row.follows_fleet };
            match open.handled.place(source, number, follows, fleet) {
                Place::Next => {}
                Place::Behind => {
                    repeated = true;
                    continue;
                }
                Place::Ahead => continue,
                Place::AheadOfFleet => {
                    let rows = std::iter::once(queued).chain(rows).collect();
                    attempt.behind = Some(Behind { repository: name.clone(), rows });
                    break;
                }
            }
            if follows > 0 {
                series.follow_fleet();
            }
            let span = info_span!("commit", repository = %name, %source, number, trace_id = tracing::field::Empty);
            trace::continue_from(&span, queued.headers.as_ref());
            let mut handled = open.handled.clone();
            handled.advance(source);
            match span.in_scope(|| self.write(&name, &queued.row, handled, &mut open, &mut series)) {
                Ok(()) => {
                    spans.push(span);
                    taken.push(queued);
                }
                Err(error) => {
                    let rows = std::iter::once(queued).chain(rows).collect();
                    attempt.failed = Some(Failed { repository: name.clone(), error, rows });
                    break;
                }
            }
        }
        let (handled, version) = (open.handled.clone(), open.version);
        match series.tip() {
            Some(to) if !taken.is_empty() => {
                let open = Some(open).filter(|_| attempt.failed.is_none());
                attempt.draft = Some((series, Drafted { name, to, handled, version, open, rows: taken, spans }));
            }
            tip => {
                attempt.again = tip.filter(|_| repeated).map(|tip| {
                    let repository = name.clone();
                    Committed { repository, tip, handled, version, spans }
                });
                attempt.unchanged = Some((name, open)).filter(|_| attempt.failed.is_none());
            }
        }
        attempt
    }

    /// Adds the commit of one row to a series, with which the repository has handled so much. When the row fails, the list in
    /// `open` may be half changed, and nothing else.
    fn write(
        &self,
        name: &RepositoryName,
        row: &Row,
        handled: Handled,
        open: &mut Open,
        series: &mut Series,
    ) -> Result<(), StoreError> {
        let impossible = |source| StoreError::Impossible { source_name: row.source, number: row.number, source };
        let edits = row.edits.as_ref().map_err(|error| impossible(error.clone()))?;
        let mut message = row.message.clone();
        let of_client;
        let (version, files) = match (name, edits) {
            (RepositoryName::Fleet, Edits::Files(files)) => (None, files),
            (RepositoryName::Client(client), Edits::Client(edits)) => {
                let version = domain::next_version(open.version).map_err(StoreError::Version)?;
                let before = size_of_edited(&open.list, edits);
                let mut files = domain::carry_out(edits, version, &mut open.list);
                open.size = open.size + size_of_edited(&open.list, edits) - before;
                files.extend(self.sign(client, version, &open.list)?);
                if !open.has_keys {
                    files.push(domain::file(layout::KEYS, Some(self.keys.bytes.clone())));
                    files.push(domain::file(layout::KEYS_SIGNATURE, Some(self.keys.signature.clone())));
                }
                message = message.with(layout::MANIFEST_VERSION_TRAILER, &version.to_string());
                of_client = files;
                (Some(version), &of_client)
            }
            (name, _) => return Err(impossible(ImpossibleEdits::Misplaced(name.clone()))),
        };
        let message: Message = message
            .with(layout::TRACEPARENT_TRAILER, &trace::current_text().unwrap_or_default())
            .with(layout::HANDLED_TRAILER, &handled.to_string());
        #[expect(
            clippy::disallowed_methods,
            reason = "a commit's time is for people; numbers and versions give the order"
        )]
        let draft = Draft { author: &row.author, message: &message, changes: files, at: Timestamp::now() };
        self.writer.write(series, draft)?;
        (open.handled, open.version, open.has_keys) = (handled, version, true);
        Ok(())
    }

    /// The files that make a client believe the others: the head and its signature.
    fn sign(
        &self,
        client: &ClientName,
        version: ManifestVersion,
        list: &ManifestList,
    ) -> Result<Vec<FileChange>, StoreError> {
        let head = Head { tenant: self.tenant.clone(), client: client.clone(), version, list: list.digest() };
        let head = head.to_bytes();
        let signature = self.writer.sign(HEAD_NAMESPACE, &head)?;
        Ok(vec![
            domain::file(layout::HEAD, Some(head)),
            domain::file(layout::HEAD_SIGNATURE, Some(signature.into_bytes())),
        ])
    }

    /// Takes these drafts into their repositories. A branch that somebody else has moved meanwhile stays where it is, and
    /// its draft fails.
    fn advance(&mut self, mut drafts: Vec<(Series, Drafted)>, outcome: &mut Outcome) {
        // What people meant is there before what follows from it, so nobody finds a deployment without its assignment.
        drafts.sort_by_key(|(_, draft)| draft.name != RepositoryName::Fleet);
        let (series, drafts): (Vec<_>, Vec<_>) = drafts.into_iter().unzip();
        let results = self.writer.advance_in_steps(series, |step| match step {
            Step::Promised => stop_point("git-writer.promised"),
            Step::Moved(RepositoryName::Fleet) => stop_point("git-writer.fleet-moved"),
            Step::Moved(RepositoryName::Client(_)) => {}
        });
        for (draft, result) in drafts.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(GitError::FleetRefused) => {
                    Self::give_up(draft, outcome);
                    continue;
                }
                Err(error) => {
                    Self::fail(draft, error.into(), outcome);
                    continue;
                }
            }
            let Drafted { name, to, handled, version, open, spans, .. } = draft;
            if name == RepositoryName::Fleet {
                self.fleet = handled.clone();
            }
            if let Some(open) = open {
                self.keep(name.clone(), Open { tip: Some(to), ..open });
            }
            outcome.committed.push(Committed { repository: name, tip: to, handled, version, spans });
        }
    }

    /// Leaves nothing to be done at the next start.
    pub fn rest(&mut self) -> Result<(), StoreError> {
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

/// How many bytes of memory a node takes in a list, about: a leaf of a map has room for eleven deployments and is well filled
/// with eight.
fn size_of_node(entry: &NodeEntry) -> usize {
    256 + 70 * entry.deployments.len().next_multiple_of(8)
}

/// How many bytes of memory those nodes take that edits change, about.
fn size_of_edited(list: &ManifestList, edits: &ClientEdits) -> usize {
    let (nodes, deployments) = (edits.nodes.iter(), edits.deployments.iter());
    let nodes = nodes.map(|edit| &edit.node).chain(deployments.map(|edit| &edit.node)).collect::<BTreeSet<_>>();
    nodes.into_iter().filter_map(|node| list.get(node)).map(|entry| size_of_node(entry)).sum()
}

#[cfg(test)]
mod tests;
