//! What becomes of the rows of one repository in memory: commits, up to the first row that cannot be one. No branch moves here.

use std::collections::BTreeSet;

use bus::trace;
use git_state::{Bases, Blob, CommitId, Draft, Drafter, FileChange, Message, Series, layout};
use identity::trust::HEAD_NAMESPACE;
use jiff::Timestamp;
use margo::{Head, ManifestList, ManifestVersion, RepositoryName, TenantName};
use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};
use tracing::{Span, info_span};

use super::{Behind, Committed, Failed, Open, Queued, size_of_node};
use crate::{
    config::Keys,
    domain::{self, ClientEdits, Edits, Handled, ImpossibleEdits, Place, Row},
    error::StoreError,
};

/// How many rows are made ready together, and from how many bytes on no other is added to them: enough that two processors share
/// them, and few enough that the first commit does not wait for long.
const TOGETHER: usize = 32;
const TOGETHER_BYTES: usize = 1 << 20;

/// What was made of the rows of one repository, before any branch has moved.
pub(super) struct Attempt {
    pub(super) name: RepositoryName,
    /// The new commits, if there are any, and what is to be known of them.
    pub(super) draft: Option<(Series, Drafted)>,
    /// What is known of the repository, when there is no new commit.
    pub(super) unchanged: Option<Open>,
    /// The tip, when rows came again that it holds, and there is no new commit.
    pub(super) again: Option<Committed>,
    /// The row that is ahead of `fleet.git`, and those behind it.
    pub(super) behind: Option<Behind>,
    /// The row that failed, and those behind it.
    pub(super) failed: Option<Failed>,
}

impl Attempt {
    pub(super) fn of(name: RepositoryName) -> Self {
        Self { name, draft: None, unchanged: None, again: None, behind: None, failed: None }
    }

    /// Nothing was made of these rows, because of the error.
    pub(super) fn failed(name: RepositoryName, error: StoreError, rows: Vec<Queued>) -> Self {
        let failed = Some(Failed { repository: name.clone(), error, rows });
        Self { failed, ..Self::of(name) }
    }

    /// Drops what was made. Returns all rows of which it was not known that they are committed.
    pub(super) fn into_rows(self) -> Vec<Queued> {
        let mut rows = self.draft.map(|(_, draft)| draft.rows).unwrap_or_default();
        rows.extend(self.behind.into_iter().flat_map(|behind| behind.rows));
        rows.extend(self.failed.into_iter().flat_map(|failed| failed.rows));
        rows
    }
}

/// The commits of one repository that no branch names yet.
pub(super) struct Drafted {
    pub(super) name: RepositoryName,
    /// The last of the commits: where the branch is to move.
    pub(super) to: CommitId,
    pub(super) handled: Handled,
    pub(super) version: Option<ManifestVersion>,
    /// What the repository says at `to`. `None` when the row behind it failed and may have left the list half changed; then
    /// the tip is read again.
    pub(super) open: Option<Open>,
    pub(super) rows: Vec<Queued>,
    pub(super) spans: Vec<Span>,
}

/// Drafts commits, of many repositories side by side.
#[derive(Clone, Copy)]
pub(super) struct Drafting<'a> {
    pub(super) drafter: &'a Drafter,
    pub(super) tenant: &'a TenantName,
    pub(super) keys: &'a Keys,
}

impl Drafting<'_> {
    /// Writes the commits of one repository, up to the first row that fails or is ahead of `fleet.git`. While some rows become
    /// commits, which only one after the other can, the next ones are made ready for that.
    pub(super) fn attempt(self, name: RepositoryName, mut open: Open, rows: Vec<Queued>, fleet: &Handled) -> Attempt {
        let mut attempt = Attempt::of(name);
        let mut series = self.drafter.series(&attempt.name, open.tip);
        let mut written = Written { handled: open.handled.clone(), version: open.version, ..Written::default() };
        let mut rows = Rows { left: rows.into_iter(), repeated: false };
        let first = self.plan_some(&mut rows, fleet, &mut open, &mut attempt);
        // A series that has begun has taken what is in memory, so one without a commit does not begin.
        let begun = if first.is_empty() { Ok(Bases::default()) } else { self.drafter.begin(&mut series) };
        let (mut bases, mut ready) = (Bases::default(), Vec::new());
        match begun {
            Ok(held) => {
                bases = held;
                ready = self.make_ready(first, &mut bases);
            }
            Err(error) => {
                written.failed = Some((error.into(), first.into_iter().map(|planned| planned.queued).collect()));
            }
        }
        while written.failed.is_none() && !ready.is_empty() {
            let planned = self.plan_some(&mut rows, fleet, &mut open, &mut attempt);
            let following = rayon::join(
                || self.write_all(std::mem::take(&mut ready), &mut series, &mut written),
                || self.make_ready(planned, &mut bases),
            );
            ready = following.1;
        }
        if let Some((error, mut failed)) = written.failed.take() {
            failed.extend(ready.into_iter().map(|ready| ready.planned.queued));
            failed.extend(attempt.behind.take().into_iter().flat_map(|behind| behind.rows));
            failed.extend(attempt.failed.take().into_iter().flat_map(|failed| failed.rows));
            failed.extend(rows.left);
            attempt.failed = Some(Failed { repository: attempt.name.clone(), error, rows: failed });
        }
        series.close();
        let Written { rows: taken, spans, handled, version, .. } = written;
        let open = Some(open).filter(|_| attempt.failed.is_none());
        let name = attempt.name.clone();
        match series.tip() {
            Some(to) if !taken.is_empty() => {
                attempt.draft = Some((series, Drafted { name, to, handled, version, open, rows: taken, spans }));
            }
            tip => {
                attempt.again = tip.filter(|_| rows.repeated).map(|tip| {
                    let repository = name;
                    Committed { repository, tip, handled, version, spans }
                });
                attempt.unchanged = open;
            }
        }
        attempt
    }

    /// Plans the next rows that are to be committed, up to one that cannot be.
    fn plan_some(self, rows: &mut Rows, fleet: &Handled, open: &mut Open, attempt: &mut Attempt) -> Vec<Planned> {
        let (mut planned, mut bytes) = (Vec::new(), 0);
        while planned.len() < TOGETHER
            && bytes < TOGETHER_BYTES
            && let Some(queued) = rows.left.next()
        {
            let (source, number) = (queued.row.source, queued.row.number);
            let follows = if attempt.name == RepositoryName::Fleet { 0 } else { queued.row.follows_fleet };
            match open.handled.place(source, number, follows, fleet) {
                Place::Next => {}
                Place::Behind => {
                    rows.repeated = true;
                    continue;
                }
                Place::Ahead => continue,
                Place::AheadOfFleet => {
                    let rows = std::iter::once(queued).chain(rows.left.by_ref()).collect();
                    attempt.behind = Some(Behind { repository: attempt.name.clone(), rows });
                    break;
                }
            }
            let span =
                info_span!("commit", repository = %attempt.name, %source, number, trace_id = tracing::field::Empty);
            trace::continue_from(&span, queued.headers.as_ref());
            let mut handled = open.handled.clone();
            handled.advance(source);
            match span.in_scope(|| self.plan(&attempt.name, &queued.row, handled, open)) {
                Ok(plan) => {
                    bytes += queued.bytes;
                    planned.push(Planned { queued, span, follows_fleet: follows > 0, plan });
                }
                Err(error) => {
                    let rows = std::iter::once(queued).chain(rows.left.by_ref()).collect();
                    attempt.failed = Some(Failed { repository: attempt.name.clone(), error, rows });
                    break;
                }
            }
        }
        planned
    }

    /// Does with rows what needs nothing of the commits before them, side by side: signs heads, hashes and compresses files.
    fn make_ready(self, mut planned: Vec<Planned>, bases: &mut Bases) -> Vec<Ready> {
        let signed = planned.par_iter_mut().map(|planned| self.sign(&mut planned.plan));
        let signed: Vec<_> = signed.collect();
        let blobs = bases.make_ready(planned.iter().map(|planned| planned.plan.files.as_slice()));
        let ready = planned.into_iter().zip(signed).zip(blobs);
        ready.map(|((planned, signed), blobs)| Ready { planned, signed, blobs }).collect()
    }

    /// Adds the commits of rows to a series, up to one that fails.
    fn write_all(self, ready: Vec<Ready>, series: &mut Series, written: &mut Written) {
        let mut ready = ready.into_iter();
        while let Some(Ready { planned, signed, blobs }) = ready.next() {
            let Planned { queued, span, follows_fleet, plan } = planned;
            if follows_fleet {
                series.follow_fleet();
            }
            match signed.and_then(|()| span.in_scope(|| self.write(&plan, &blobs, series))) {
                Ok(()) => {
                    (written.handled, written.version) = (plan.handled, plan.version);
                    written.spans.push(span);
                    written.rows.push(queued);
                }
                Err(error) => {
                    let rows = std::iter::once(queued).chain(ready.map(|ready| ready.planned.queued)).collect();
                    written.failed = Some((error, rows));
                    return;
                }
            }
        }
    }

    /// Adds the commit of one row alone to a series. The row is not one of the log.
    pub(super) fn write_one(
        self,
        name: &RepositoryName,
        row: &Row,
        open: &mut Open,
        series: &mut Series,
    ) -> Result<(), StoreError> {
        let mut plan = self.plan(name, row, open.handled.clone(), open)?;
        self.sign(&mut plan)?;
        self.write(&plan, &[], series)
    }

    /// Finds what the commit of a row is to be, with which the repository has handled so much. Where the row fails, the list in
    /// `open` may be half changed, and nothing else.
    fn plan(self, name: &RepositoryName, row: &Row, handled: Handled, open: &mut Open) -> Result<Plan, StoreError> {
        let impossible = |source| StoreError::Impossible { source_name: row.source, number: row.number, source };
        let edits = row.edits.as_ref().map_err(|error| impossible(error.clone()))?;
        let (mut message, mut head) = (row.message.clone(), None);
        let (version, files) = match (name, edits) {
            (RepositoryName::Fleet, Edits::Files(files)) => (None, files.clone()),
            (RepositoryName::Client(client), Edits::Client(edits)) => {
                let version = domain::next_version(open.version).map_err(StoreError::Version)?;
                let before = size_of_edited(&open.list, edits);
                let mut files = domain::carry_out(edits, version, &mut open.list);
                open.size = open.size + size_of_edited(&open.list, edits) - before;
                let (tenant, client) = (self.tenant.clone(), client.clone());
                let of_version = Head { tenant, client, version, list: open.list.digest() };
                head = Some(files.len());
                files.push(domain::file(layout::HEAD, Some(of_version.to_bytes())));
                files.push(domain::file(layout::HEAD_SIGNATURE, None));
                if !open.has_keys {
                    files.push(domain::file(layout::KEYS, Some(self.keys.bytes.clone())));
                    files.push(domain::file(layout::KEYS_SIGNATURE, Some(self.keys.signature.clone())));
                }
                message = message.with(layout::MANIFEST_VERSION_TRAILER, &version.to_string());
                (Some(version), files)
            }
            (name, _) => return Err(impossible(ImpossibleEdits::Misplaced(name.clone()))),
        };
        let message = message
            .with(layout::TRACEPARENT_TRAILER, &trace::current_text().unwrap_or_default())
            .with(layout::HANDLED_TRAILER, &handled.to_string());
        (open.handled, open.version, open.has_keys) = (handled.clone(), version, true);
        Ok(Plan { author: row.author.clone(), message, files, head, handled, version })
    }

    /// Signs the head, which makes a client believe the other files.
    fn sign(self, plan: &mut Plan) -> Result<(), StoreError> {
        if let Some([head, signature, ..]) = plan.head.map(|at| &mut plan.files[at..])
            && let Some(head) = &head.content
        {
            signature.content = Some(self.drafter.sign(HEAD_NAMESPACE, head)?.into_bytes());
        }
        Ok(())
    }

    fn write(self, plan: &Plan, blobs: &[Option<Blob>], series: &mut Series) -> Result<(), StoreError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "a commit's time is for people; numbers and versions give the order"
        )]
        let at = Timestamp::now();
        let draft = Draft { author: &plan.author, message: &plan.message, changes: &plan.files, at };
        self.drafter.write_ready(series, draft, blobs)?;
        Ok(())
    }
}

/// The rows of a repository that were not looked at yet.
struct Rows {
    left: std::vec::IntoIter<Queued>,
    /// Whether one of those before was committed already.
    repeated: bool,
}

/// What the commit of a row is to be.
struct Plan {
    author: String,
    message: Message,
    files: Vec<FileChange>,
    /// Which of the files is the head of a client. The one behind it is its signature.
    head: Option<usize>,
    /// How far the repository is with it.
    handled: Handled,
    version: Option<ManifestVersion>,
}

/// A row with the plan for it.
struct Planned {
    queued: Queued,
    span: Span,
    follows_fleet: bool,
    plan: Plan,
}

/// A row that can become a commit when it is its turn.
struct Ready {
    planned: Planned,
    signed: Result<(), StoreError>,
    blobs: Vec<Option<Blob>>,
}

/// The commits of a series until now.
#[derive(Default)]
struct Written {
    rows: Vec<Queued>,
    spans: Vec<Span>,
    handled: Handled,
    version: Option<ManifestVersion>,
    /// Why the last row failed, and that row with those that were made ready together with it.
    failed: Option<(StoreError, Vec<Queued>)>,
}

/// How many bytes of memory those nodes take that edits change, about.
fn size_of_edited(list: &ManifestList, edits: &ClientEdits) -> usize {
    let (nodes, deployments) = (edits.nodes.iter(), edits.deployments.iter());
    let nodes = nodes.map(|edit| &edit.node).chain(deployments.map(|edit| &edit.node)).collect::<BTreeSet<_>>();
    nodes.into_iter().filter_map(|node| list.get(node)).map(|entry| size_of_node(entry)).sum()
}
