//! The loop over the log: groups of rows are committed, announced and purged. What cannot be committed now waits aside.

use std::{collections::BTreeSet, error::Error, sync::PoisonError, time::Duration};

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
use tracing::{Instrument, warn};

use crate::{
    aside::Aside,
    inbox::{Group, Inbox},
    levels::Levels,
    metrics,
    mirrors::Mirrors,
    refusals::Refusals,
    renewals::Renewals,
    store::{Behind, Committed, Failed, Outcome, SharedStore, Store},
    upkeep::Upkeep,
};

/// How long what is committed stays in the log. What a purge missed, because the process ended, is read again and found
/// to be committed.
const PURGE_PAUSE: Duration = Duration::from_secs(1);

/// Those who follow what is committed.
#[derive(Clone)]
pub struct Followers {
    pub renewals: Renewals,
    pub mirrors: Mirrors,
    pub upkeep: Upkeep,
}

impl Followers {
    /// A repository has a new commit.
    fn committed(&self, repository: &RepositoryName) {
        self.renewals.signed(repository);
        self.mirrors.changed(repository);
        self.upkeep.changed(repository);
    }
}

/// What there is to be done next.
enum Work {
    Group(Group),
    Renew(Vec<RepositoryName>),
    /// Nothing else is there, so what was begun is finished.
    Finish,
    /// The loop ends.
    Stop(anyhow::Result<()>),
}

/// The loop from the log to the repositories, for one life of the log's consumer.
///
/// All that it holds can be lost. A row that is neither committed nor in the log is published again by its source.
pub struct Committer {
    bus: Bus,
    store: SharedStore,
    levels: Levels,
    refusals: Refusals,
    readiness: Readiness,
    followers: Followers,
    aside: Aside,
    /// The group that was taken last, while its commits are not durable yet.
    begun: Option<Begun>,
    /// Sequence up to which the log may be purged: of the last message that was taken.
    purge: watch::Sender<u64>,
}

/// A group that was begun: its commits are made, and become durable while those of the next one are made.
struct Begun {
    repositories: BTreeSet<RepositoryName>,
    /// Sequence of its last message.
    last: u64,
    /// When its first message came.
    begin: Option<Instant>,
}

impl Committer {
    /// Knows of no repository that stands still: each is tried again.
    pub fn new(
        bus: Bus,
        store: SharedStore,
        levels: Levels,
        refusals: Refusals,
        readiness: Readiness,
        followers: Followers,
    ) -> Self {
        levels.begin_anew();
        let (aside, purge) = (Aside::default(), watch::Sender::new(0));
        Self { bus, store, levels, refusals, readiness, followers, aside, begun: None, purge }
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
            let renewals = self.followers.renewals.clone();
            let has_begun = self.begun.is_some();
            // Neither keeps the other from its turn, as one of the two that are ready is taken at random.
            let work = async {
                tokio::select! {
                    group = inbox.next_group() => group.map(Work::Group),
                    names = renewals.next() => Ok(Work::Renew(names)),
                }
            };
            let work = tokio::select! {
                biased;
                () = shutdown.cancelled() => Work::Stop(Ok(())),
                reason = &mut lost => Work::Stop(Err(reason)),
                () = process::due(self.aside.next_retry(Instant::now())) => Work::Group(Group::default()),
                work = work => work.unwrap_or_else(|error| Work::Stop(Err(error))),
                () = std::future::ready(()), if has_begun => Work::Finish,
            };
            // Outside `select!`: a group in hand is finished, never dropped half way.
            match work {
                Work::Group(group) => self.take(group).await?,
                Work::Renew(names) => self.renew(names).await?,
                Work::Finish => self.finish().await?,
                Work::Stop(reason) => {
                    self.finish().await?;
                    return reason;
                }
            }
        }
    }

    async fn take(&mut self, group: Group) -> anyhow::Result<()> {
        let Group { rows, undecodable, last, begin, .. } = group;
        for (subject, error) in undecodable {
            warn!(subject, error = &error as &dyn Error, "message left out");
            metrics::UNDECODABLE.inc();
            self.refusals.undecodable(subject, &error);
        }
        let rows = self.aside.admit(rows, Instant::now());
        if rows.is_empty() {
            match &mut self.begun {
                Some(begun) => begun.last = begun.last.max(last),
                None => self.purge(last),
            }
            return Ok(());
        }
        let repositories: BTreeSet<_> = rows.iter().map(|queued| queued.repository.clone()).collect();
        self.levels.begin(&repositories);
        let before = self.begun.replace(Begun { repositories, last, begin });
        let outcome = self.with_store(move |store| store.begin(rows)).await?;
        self.settle(outcome, before).await;
        Ok(())
    }

    /// Has the commits become durable that were made last.
    async fn finish(&mut self) -> anyhow::Result<()> {
        if let Some(before) = self.begun.take() {
            let outcome = self.with_store(Store::finish).await?;
            self.settle(outcome, Some(before)).await;
        }
        Ok(())
    }

    /// Signs a few repositories anew. One that cannot be signed is tried again later.
    async fn renew(&mut self, names: Vec<RepositoryName>) -> anyhow::Result<()> {
        self.finish().await?;
        let repositories: BTreeSet<_> = names.iter().cloned().collect();
        self.levels.begin(&repositories);
        let outcome = self.with_store(move |store| store.renew(&names)).await?;
        self.settle(outcome, Some(Begun { repositories, last: 0, begin: None })).await;
        Ok(())
    }

    async fn with_store(&self, work: impl FnOnce(&mut Store) -> Outcome + Send + 'static) -> anyhow::Result<Outcome> {
        let store = self.store.clone();
        let work = move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner));
        spawn_blocking(work).await.context("committing")
    }

    /// Takes what has become of a group, and of rows that cannot be committed now.
    async fn settle(&mut self, outcome: Outcome, done: Option<Begun>) {
        let Outcome { committed, unchanged, behind, failed } = outcome;
        let has_new_commits = |committed: &Committed| !committed.spans.is_empty();
        let begin = done.as_ref().and_then(|done| done.begin);
        if let Some(begin) = begin.filter(|_| committed.iter().any(has_new_commits)) {
            metrics::GROUP_SECONDS.observe(begin.elapsed().as_secs_f64());
        }
        for name in &unchanged {
            self.aside.goes_on(name);
        }
        for committed in committed {
            self.announce(committed).await;
        }
        for Behind { repository, rows } in behind {
            self.aside.waits_for_fleet(&repository, rows);
        }
        for failed in failed {
            self.stall(failed);
        }
        if let Some(done) = done {
            let in_work = self.begun.as_ref().map(|begun| &begun.repositories);
            let is_done = |name: &&RepositoryName| in_work.is_none_or(|in_work| !in_work.contains(*name));
            self.levels.end(done.repositories.iter().filter(is_done));
            self.purge(done.last);
        }
        self.show();
    }

    /// What waits for a repository is left to its sources, so that none of them keeps the log from being purged.
    fn purge(&self, last: u64) {
        self.purge.send_if_modified(|purged| {
            let further = last > *purged;
            *purged = last.max(*purged);
            further
        });
    }

    async fn announce(&mut self, committed: Committed) {
        self.levels.committed(&committed);
        let Committed { repository, tip, handled, version, spans } = committed;
        metrics::COMMITS.inc_by(spans.len() as u64);
        if !spans.is_empty() {
            // It got further, so whatever stops it now is new, and is tried again after the first, short pause.
            self.aside.goes_on(&repository);
            self.followers.committed(&repository);
        }
        if repository == RepositoryName::Fleet {
            self.aside.fleet_is_at(&handled);
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
        let pause = self.aside.stands_still(&repository, rows, Instant::now());
        warn!(%repository, error = &error as &dyn Error, ?pause, "the repository stands still");
        self.levels.stands_still(&repository);
        self.followers.renewals.failed(&repository);
        self.refusals.stalled(&repository, &error);
    }

    /// Tells operators which repositories stand still: as refusals, as a metric, and by not being ready.
    fn show(&self) {
        let reasons = self.refusals.keep_stalled(|repository| self.aside.is_still(repository));
        metrics::STALLED.set(reasons.len() as i64);
        metrics::WAITING_BYTES.set(self.aside.bytes() as i64);
        if let Some(left) = self.followers.renewals.left() {
            metrics::TO_SIGN.set(left as i64);
            self.refusals.to_sign(left);
        }
        if reasons.is_empty() { self.readiness.ready() } else { self.readiness.not_ready(&reasons.join("; ")) }
    }
}

/// Purges the log up to the sequence that was sent last. Runs beside the commits, and seldom: a purge syncs the hub's disk
/// several times, for which whatever follows from a commit would wait.
async fn purge(log: Stream<()>, mut taken: watch::Receiver<u64>) {
    while taken.changed().await.is_ok() {
        sleep(PURGE_PAUSE).await;
        let sequence = *taken.borrow_and_update();
        if let Err(error) = log.purge().sequence(sequence + 1).await {
            // The next, higher sequence purges these messages, too.
            warn!(error = &error as &dyn Error, "log not purged");
        }
    }
}
