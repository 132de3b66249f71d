//! The repositories: a group of rows becomes commits, one sync and one move of each branch. Blocks.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use bus::{Repository as Name, trace};
use git_state::{CommitId, Draft, FileChange, Message, Move, Repository, Unsynced, Writer, layout};
use identity::trust::HEAD_NAMESPACE;
use jiff::Timestamp;
use margo::{ClientName, ManifestVersion, TenantName};
use service::stop_point;
use tracing::{Span, info_span};

use crate::{
    config::{Config, Keys},
    domain::{self, Change, Desired, Handled, Place, Row},
    error::{StoreError, chain},
};

/// A row as it came.
#[derive(Debug)]
pub struct Queued {
    /// The row.
    pub row: Row,
    /// Which repository it belongs to.
    pub repository: Name,
    /// Where it begins in the log.
    pub sequence: u64,
    /// They carry the trace.
    pub headers: Option<HeaderMap>,
}

/// A tip that is on the disk and to be announced.
pub struct Committed {
    /// Which repository.
    pub repository: Name,
    /// Its tip.
    pub tip: CommitId,
    /// How far it is now.
    pub handled: Handled,
    /// A client's manifest version.
    pub version: Option<ManifestVersion>,
    /// One for each new commit; they end when the commits are announced. None: only rows that stand there already came,
    /// and whoever wrote them may have died before it announced them.
    pub spans: Vec<Span>,
}

/// Rows that stay open.
pub struct Failed {
    /// Which repository.
    pub repository: Name,
    /// Why.
    pub error: StoreError,
    /// Which rows: the one that failed and those behind it.
    pub rows: Vec<Queued>,
}

/// What became of a group.
#[derive(Default)]
pub struct Outcome {
    /// Repositories that are on the disk with these rows.
    pub committed: Vec<Committed>,
    /// Repositories that did not, or not to the end.
    pub failed: Vec<Failed>,
}

/// The repositories of a tenant, open for writing.
pub struct Store {
    writer: Writer,
    tenant: TenantName,
    keys: Keys,
    open: BTreeMap<Name, Open>,
}

/// A repository and what its tip says.
struct Open {
    repository: Repository,
    tip: Option<CommitId>,
    handled: Handled,
    desired: Desired,
}

/// Commits that no branch names yet.
struct Drafted {
    name: Name,
    to: CommitId,
    handled: Handled,
    version: Option<ManifestVersion>,
    /// `None`: to be read from the tip.
    desired: Option<Desired>,
    rows: Vec<Queued>,
    spans: Vec<Span>,
}

impl Store {
    /// Reads the keys and takes the lock on the repositories.
    pub fn open(config: &Config) -> anyhow::Result<Self> {
        let (signing, keys) = config.read_keys()?;
        let writer = Writer::new(&config.repositories, &config.tenant, &keys.set, signing)?;
        Ok(Self { writer, tenant: config.tenant.clone(), keys, open: BTreeMap::new() })
    }

    /// How far a repository is, and its tip.
    pub fn handled(&mut self, name: &Name) -> Result<(Handled, Option<CommitId>), StoreError> {
        if !self.open.contains_key(name) && self.writer.open(name)?.is_none() {
            return Ok((Handled::default(), None));
        }
        let open = self.at_tip(name)?;
        Ok((open.handled.clone(), open.tip))
    }

    /// Commits a group of rows: those that are next, each repository by itself.
    pub fn commit(&mut self, group: Vec<Queued>) -> Outcome {
        let mut by_repository: BTreeMap<Name, Vec<Queued>> = BTreeMap::new();
        for queued in group {
            by_repository.entry(queued.repository.clone()).or_default().push(queued);
        }
        let mut outcome = Outcome::default();
        let mut unsynced = Unsynced::default();
        let mut drafts = Vec::new();
        for (name, rows) in by_repository {
            drafts.extend(self.draft(name, rows, &mut unsynced, &mut outcome));
        }
        if drafts.is_empty() {
            return outcome;
        }
        stop_point("git-writer.objects-written");
        if let Err(error) = self.writer.sync(unsynced) {
            let error = chain(&error);
            for draft in drafts {
                self.fail(draft, StoreError::Sync(error.clone()), &mut outcome);
            }
            return outcome;
        }
        // What people meant comes before what follows from it: nobody finds a deployment without its assignment.
        let (fleet, clients): (Vec<_>, Vec<_>) = drafts.into_iter().partition(|draft| draft.name == Name::Fleet);
        let both = !fleet.is_empty() && !clients.is_empty();
        self.advance(fleet, &mut outcome);
        if both {
            stop_point("git-writer.fleet-moved");
        }
        self.advance(clients, &mut outcome);
        stop_point("git-writer.committed");
        outcome
    }

    /// The repository as its tip has it: read again when somebody else has moved it.
    fn at_tip(&mut self, name: &Name) -> Result<&mut Open, StoreError> {
        let current = match self.open.get(name) {
            Some(open) => open.repository.tip()? == open.tip,
            None => false,
        };
        if !current {
            let open = self.read(name)?;
            self.open.insert(name.clone(), open);
        }
        Ok(self.open.get_mut(name).expect("inserted above"))
    }

    fn read(&self, name: &Name) -> Result<Open, StoreError> {
        let repository = self.writer.open_or_create(name)?;
        let tip = repository.tip()?;
        let (mut handled, mut desired) = (Handled::default(), Desired::default());
        if let Some(tip) = tip {
            repository.verify(tip, &self.keys.set).map_err(StoreError::Foreign)?;
            handled =
                repository.message(tip)?.trailer(layout::HANDLED_TRAILER).ok_or(StoreError::NotHandled)?.parse()?;
            if let Name::Client(_) = name {
                desired = Desired::read(&repository.files(tip)?)?;
            }
        }
        Ok(Open { repository, tip, handled, desired })
    }

    /// Writes the commits of one repository, as far as its rows can be carried out. `None`: no row is next.
    fn draft(
        &mut self,
        name: Name,
        rows: Vec<Queued>,
        unsynced: &mut Unsynced,
        outcome: &mut Outcome,
    ) -> Option<Drafted> {
        let open = match self.at_tip(&name) {
            Ok(open) => open,
            Err(error) => {
                outcome.failed.push(Failed { repository: name, error, rows });
                return None;
            }
        };
        let (mut handled, mut desired) = (open.handled.clone(), open.desired.clone());
        let (mut tip, mut version) = (open.tip, desired.version());
        let (mut taken, mut spans, mut complete, mut repeated) = (Vec::new(), Vec::new(), true, false);
        let mut rows = rows.into_iter();
        while let Some(queued) = rows.next() {
            let row = &queued.row;
            let (source, number) = (row.source, row.number);
            match handled.place(source, number) {
                Place::Next => {}
                Place::Behind => {
                    repeated = true;
                    continue;
                }
                Place::Ahead => continue,
            }
            let span = info_span!("commit", repository = %name, %source, number, trace_id = tracing::field::Empty);
            trace::continue_from(&span, queued.headers.as_ref());
            let mut next = handled.clone();
            next.advance(source);
            match span.in_scope(|| self.write(&name, row, tip, &next, &mut desired, unsynced)) {
                Ok(commit) => {
                    (tip, handled, version) = (Some(commit), next, desired.version());
                    spans.push(span);
                    taken.push(queued);
                }
                Err(error) => {
                    let rows = std::iter::once(queued).chain(rows).collect();
                    outcome.failed.push(Failed { repository: name.clone(), error, rows });
                    complete = false;
                    break;
                }
            }
        }
        let tip = tip?;
        if taken.is_empty() {
            if repeated {
                outcome.committed.push(Committed { repository: name, tip, handled, version, spans });
            }
            return None;
        }
        // What the failed row began to change does not count.
        let desired = complete.then_some(desired);
        Some(Drafted { name, to: tip, handled, version, desired, rows: taken, spans })
    }

    /// Writes one commit.
    fn write(
        &self,
        name: &Name,
        row: &Row,
        parent: Option<CommitId>,
        handled: &Handled,
        desired: &mut Desired,
        unsynced: &mut Unsynced,
    ) -> Result<CommitId, StoreError> {
        let impossible = |source| StoreError::Impossible { source_name: row.source, number: row.number, source };
        let change = row.change.as_ref().map_err(|error| impossible(error.clone()))?;
        let mut message = row.message.clone();
        let changes = match (name, change) {
            (Name::Fleet, Change::Files(files)) => files.clone(),
            (Name::Client(client), Change::Deployments(changes)) => {
                let mut files = desired.apply(changes).map_err(StoreError::Version)?;
                files.extend(self.sign(client, desired)?);
                let version = desired.version().map(|version| version.to_string()).unwrap_or_default();
                message = message.with(layout::MANIFEST_VERSION_TRAILER, &version);
                files
            }
            (name, _) => return Err(impossible(domain::ImpossibleChange::Misplaced(name.clone()))),
        };
        let message: Message = message
            .with(layout::TRACEPARENT_TRAILER, &trace::current_text().unwrap_or_default())
            .with(layout::HANDLED_TRAILER, &handled.to_string());
        let draft = Draft { author: &row.author, message: &message, changes: &changes, at: Timestamp::now() };
        Ok(self.writer.write(&self.open[name].repository, parent, draft, unsynced)?)
    }

    /// The files by which a site believes the others.
    fn sign(&self, client: &ClientName, desired: &Desired) -> Result<Vec<FileChange>, StoreError> {
        let head = desired.head(&self.tenant, client).map(|head| head.to_bytes()).unwrap_or_default();
        let signature = self.writer.sign(HEAD_NAMESPACE, &head)?;
        Ok(vec![
            domain::change(layout::HEAD, Some(head)),
            domain::change(layout::HEAD_SIGNATURE, Some(signature.into_bytes())),
            domain::change(layout::KEYS, Some(self.keys.bytes.clone())),
            domain::change(layout::KEYS_SIGNATURE, Some(self.keys.signature.clone())),
        ])
    }

    /// Moves the branches of these drafts.
    fn advance(&mut self, drafts: Vec<Drafted>, outcome: &mut Outcome) {
        let moves = drafts.iter().map(|draft| {
            let open = &self.open[&draft.name];
            Move { repository: &open.repository, from: open.tip, to: draft.to }
        });
        let results = self.writer.advance(&moves.collect::<Vec<_>>());
        for (draft, result) in drafts.into_iter().zip(results) {
            if let Err(error) = result {
                self.fail(draft, error.into(), outcome);
                continue;
            }
            let Drafted { name, to, handled, version, desired, spans, .. } = draft;
            match (self.open.get_mut(&name), desired) {
                (Some(open), Some(desired)) => {
                    (open.tip, open.handled, open.desired) = (Some(to), handled.clone(), desired);
                }
                _ => {
                    self.open.remove(&name);
                }
            }
            outcome.committed.push(Committed { repository: name, tip: to, handled, version, spans });
        }
    }

    /// Nothing of a draft counts; the repository is read anew before it is tried again.
    fn fail(&mut self, draft: Drafted, error: StoreError, outcome: &mut Outcome) {
        self.open.remove(&draft.name);
        let Drafted { name: repository, rows, .. } = draft;
        match outcome.failed.iter_mut().find(|failed| failed.repository == repository) {
            Some(failed) => {
                failed.error = error;
                failed.rows.splice(0..0, rows);
            }
            None => outcome.failed.push(Failed { repository, error, rows }),
        }
    }
}
