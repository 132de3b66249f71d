//! The loop over the log: groups of rows are committed, announced and purged; repositories that stand still wait.

use std::{collections::BTreeMap, error::Error, sync::PoisonError, time::Duration};

use anyhow::Context;
use async_nats::jetstream::stream::Stream;
use bus::{Bus, Subject, proto, streams};
use margo::RepositoryName;
use service::Readiness;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, debug, warn};

use crate::{
    handler::SharedStore,
    inbox::{Group, Inbox},
    metrics,
    mirrors::Mirrors,
    refusals::Refusals,
    store::{Committed, Failed, Outcome, Queued},
};

/// The pause before a repository that stands still is tried again. It doubles with every failure, up to the last one: a
/// full disk is not asked every second, and what an operator puts right counts within a minute.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How long what is committed stays in the log. What a purge missed, because the process ended, is read again and found
/// to be committed.
const PURGE_PAUSE: Duration = Duration::from_secs(1);

/// Rows that wait in memory for one repository that stands still. Its sources publish further ones again, later.
const MAX_WAITING: usize = 1_000;

/// A repository that stands still.
struct Stall {
    /// The rows that wait for it, in the order of the log.
    rows: Vec<Queued>,
    /// When they are tried again.
    retry: Instant,
    /// How long they wait this time; twice as long the next time.
    pause: Duration,
}

/// The loop from the log to the repositories, for one life of the log's consumer.
///
/// All that it holds can be lost. The log keeps the rows that wait, and the next life reads it from its begin; a row
/// that was left out is published again by its source.
pub struct Committer {
    bus: Bus,
    store: SharedStore,
    refusals: Refusals,
    readiness: Readiness,
    mirrors: Mirrors,
    stalled: BTreeMap<RepositoryName, Stall>,
    /// Sequence of the last message of the log that was taken.
    last: u64,
    /// Sequence up to which the log may be purged.
    purge: watch::Sender<u64>,
}

impl Committer {
    /// Knows of no repository that stands still: each is tried again.
    pub fn new(bus: Bus, store: SharedStore, refusals: Refusals, readiness: Readiness, mirrors: Mirrors) -> Self {
        Self {
            bus,
            store,
            refusals,
            readiness,
            mirrors,
            stalled: BTreeMap::new(),
            last: 0,
            purge: watch::Sender::new(0),
        }
    }

    /// Commits what comes. Returns at shutdown, or with an error when the log could not be read or `lost` says why the
    /// log has to be opened again.
    pub async fn run(
        mut self,
        lost: impl Future<Output = anyhow::Error>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut inbox = Inbox::open(&self.bus).await?;
        let log = self.bus.jetstream().get_stream_no_info(streams::GIT_WRITES).await?;
        // Aborting a purge half way does no harm: the next life purges the same messages again.
        let _purging = AbortOnDropHandle::new(tokio::spawn(purge(log, self.purge.subscribe())));
        self.show();
        tokio::pin!(lost);
        loop {
            let group = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                reason = &mut lost => return Err(reason),
                () = process::due(self.stalled.values().map(|stall| stall.retry).min()) => Group::default(),
                group = inbox.next_group() => group?,
            };
            // Outside `select!`: a group in hand is finished, never dropped half way.
            self.take(group).await?;
        }
    }

    async fn take(&mut self, group: Group) -> anyhow::Result<()> {
        let Group { rows, undecodable, last, begin, .. } = group;
        for (subject, error) in undecodable {
            warn!(subject, error = &error as &dyn Error, "message left out");
            metrics::UNDECODABLE.inc();
            self.refusals.undecodable(subject, &error);
        }
        let now = Instant::now();
        let rows = self.admit(rows, now);
        if !rows.is_empty() {
            let store = self.store.clone();
            let commit = move || store.lock().unwrap_or_else(PoisonError::into_inner).commit(rows);
            let Outcome { committed, failed } = spawn_blocking(commit).await.context("committing")?;
            let has_new_commits = |committed: &Committed| !committed.spans.is_empty();
            if let Some(begin) = begin.filter(|_| committed.iter().any(has_new_commits)) {
                metrics::GROUP_SECONDS.observe(begin.elapsed().as_secs_f64());
            }
            for committed in committed {
                self.announce(committed).await;
            }
            for failed in failed {
                self.stall(failed);
            }
            // A repository that was due and did not fail again stands still no longer.
            self.stalled.retain(|_, stall| stall.retry > now);
            self.show();
        }
        self.last = self.last.max(last);
        self.purge_committed();
        Ok(())
    }

    /// Returns the rows to be tried now: the new ones and those whose repository is due. Rows of repositories that
    /// stand still are put aside; beyond the limit they are left out, and their source publishes them again.
    fn admit(&mut self, rows: Vec<Queued>, now: Instant) -> Vec<Queued> {
        let mut admitted = Vec::new();
        for stall in self.stalled.values_mut().filter(|stall| stall.retry <= now) {
            admitted.append(&mut stall.rows);
        }
        for queued in rows {
            match self.stalled.get_mut(&queued.repository).filter(|stall| stall.retry > now) {
                None => admitted.push(queued),
                Some(stall) if stall.rows.len() < MAX_WAITING => stall.rows.push(queued),
                Some(_) => {
                    debug!(repository = %queued.repository, number = queued.row.number, "row left out: too many wait")
                }
            }
        }
        admitted
    }

    async fn announce(&mut self, committed: Committed) {
        let Committed { repository, tip, handled, version, spans } = committed;
        metrics::COMMITS.inc_by(spans.len() as u64);
        if !spans.is_empty() {
            // It got further, so whatever stops it now is new, and is tried again after the first, short pause.
            self.stalled.remove(&repository);
            self.mirrors.changed(&repository);
        }
        let message = proto::GitCommitted {
            commit: tip.to_string(),
            handled: handled.numbers().clone().into_iter().collect(),
            manifest_version: version.map_or(0, |version| version.get()),
        };
        // The message is about the tip, so it continues the trace of the last commit.
        let span = spans.last().cloned().unwrap_or_else(tracing::Span::none);
        let subject = Subject::git_committed(&repository);
        let sent = self.bus.signal(&subject, bus::encode(&message)).instrument(span).await;
        if let Err(error) = sent {
            // A signal may get lost: the outbox asks after a while, and git-observer looks at the tips by itself.
            warn!(%subject, error = %format!("{error:#}"), "commit not announced");
        }
    }

    fn stall(&mut self, failed: Failed) {
        let Failed { repository, error, rows } = failed;
        let pause = self.stalled.get(&repository).map_or(FIRST_RETRY, |stall| (stall.pause * 2).min(LAST_RETRY));
        warn!(%repository, error = &error as &dyn Error, ?pause, "the repository stands still");
        self.refusals.stalled(&repository, &error);
        self.stalled.insert(repository, Stall { rows, retry: Instant::now() + pause, pause });
    }

    /// Tells operators which repositories stand still: as refusals, as a metric, and by not being ready.
    fn show(&self) {
        let reasons = self.refusals.keep_stalled(|repository| self.stalled.contains_key(repository));
        metrics::STALLED.set(reasons.len() as i64);
        if reasons.is_empty() { self.readiness.ready() } else { self.readiness.not_ready(&reasons.join("; ")) }
    }

    /// Lets the log be purged up to the first row that waits for a repository that stands still. Everything before is
    /// committed, or was left out and will be published again by its source.
    fn purge_committed(&self) {
        let first_waiting = self.stalled.values().flat_map(|stall| &stall.rows).map(|queued| queued.sequence).min();
        let committed = first_waiting.map_or(self.last, |sequence| sequence - 1);
        self.purge.send_if_modified(|purged| {
            let further = committed > *purged;
            *purged = committed.max(*purged);
            further
        });
    }
}

/// Purges the log up to the sequence that was sent last. Runs beside the commits, and seldom: a purge syncs the hub's disk
/// several times, for which whatever follows from a commit would wait.
async fn purge(log: Stream<()>, mut committed: watch::Receiver<u64>) {
    while committed.changed().await.is_ok() {
        sleep(PURGE_PAUSE).await;
        let sequence = *committed.borrow_and_update();
        if let Err(error) = log.purge().sequence(sequence + 1).await {
            // The next, higher sequence purges these messages, too.
            warn!(error = &error as &dyn Error, "log not purged");
        }
    }
}
