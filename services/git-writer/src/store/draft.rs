//! What becomes of the rows of one repository in memory: commits, up to the first row that cannot be one. No branch moves here.

use std::collections::BTreeSet;

use bus::trace;
use git_state::{CommitId, Draft, Drafter, FileChange, Message, Series, layout};
use identity::trust::HEAD_NAMESPACE;
use jiff::Timestamp;
use margo::{ClientName, Head, ManifestList, ManifestVersion, RepositoryName, TenantName};
use tracing::{Span, info_span};

use super::{Behind, Committed, Failed, Open, Queued, size_of_node};
use crate::{
    config::Keys,
    domain::{self, ClientEdits, Edits, Handled, ImpossibleEdits, Place, Row},
    error::StoreError,
};

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
    /// Writes the commits of one repository, up to the first row that fails or is ahead of `fleet.git`.
    pub(super) fn attempt(self, name: RepositoryName, mut open: Open, rows: Vec<Queued>, fleet: &Handled) -> Attempt {
        let mut attempt = Attempt::of(name.clone());
        let mut series = self.drafter.series(&name, open.tip);
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
                attempt.unchanged = Some(open).filter(|_| attempt.failed.is_none());
            }
        }
        attempt
    }

    /// Adds the commit of one row to a series, with which the repository has handled so much. When the row fails, the list in
    /// `open` may be half changed, and nothing else.
    pub(super) fn write(
        self,
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
        self.drafter.write(series, draft)?;
        (open.handled, open.version, open.has_keys) = (handled, version, true);
        Ok(())
    }

    /// The files that make a client believe the others: the head and its signature.
    fn sign(
        self,
        client: &ClientName,
        version: ManifestVersion,
        list: &ManifestList,
    ) -> Result<Vec<FileChange>, StoreError> {
        let head = Head { tenant: self.tenant.clone(), client: client.clone(), version, list: list.digest() };
        let head = head.to_bytes();
        let signature = self.drafter.sign(HEAD_NAMESPACE, &head)?;
        Ok(vec![
            domain::file(layout::HEAD, Some(head)),
            domain::file(layout::HEAD_SIGNATURE, Some(signature.into_bytes())),
        ])
    }
}

/// How many bytes of memory those nodes take that edits change, about.
fn size_of_edited(list: &ManifestList, edits: &ClientEdits) -> usize {
    let (nodes, deployments) = (edits.nodes.iter(), edits.deployments.iter());
    let nodes = nodes.map(|edit| &edit.node).chain(deployments.map(|edit| &edit.node)).collect::<BTreeSet<_>>();
    nodes.into_iter().filter_map(|node| list.get(node)).map(|entry| size_of_node(entry)).sum()
}
