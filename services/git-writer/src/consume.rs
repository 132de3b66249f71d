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
    store::{Behind, Committed, Failed, Outcome, Queued, SharedStore, Store},
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
    /// Sequence up to which the log may be purged: of the last message that was taken.
    purge: watch::Sender<u64>,
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
        Self { bus, store, levels, refusals, readiness, followers, aside, purge }
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
            // Neither keeps the other from its turn, as one of the two that are ready is taken at random.
            let work = async {
                tokio::select! {
                    group = inbox.next_group() => group.map(Work::Group),
                    names = renewals.next() => Ok(Work::Renew(names)),
                }
            };
            let work = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                reason = &mut lost => return Err(reason),
                () = process::due(self.aside.next_retry(Instant::now())) => Work::Group(Group::default()),
                work = work => work?,
            };
            // Outside `select!`: a group in hand is finished, never dropped half way.
            match work {
                Work::Group(group) => self.take(group).await?,
                Work::Renew(names) => self.renew(names).await?,
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
        if !rows.is_empty() {
            self.commit(rows, begin).await?;
            self.show();
        }
        // What waits for a repository is left to its sources, so that none of them keeps the log from being purged.
        self.purge.send_if_modified(|purged| {
            let further = last > *purged;
            *purged = last.max(*purged);
            further
        });
        Ok(())
    }

    async fn commit(&mut self, rows: Vec<Queued>, begin: Option<Instant>) -> anyhow::Result<()> {
        let repositories = rows.iter().map(|queued| queued.repository.clone()).collect();
        self.carry_out(repositories, begin, move |store| store.commit(rows)).await
    }

    /// Signs a few repositories anew. One that cannot be signed is tried again later.
    async fn renew(&mut self, names: Vec<RepositoryName>) -> anyhow::Result<()> {
        let repositories: BTreeSet<_> = names.iter().cloned().collect();
        self.carry_out(repositories, None, move |store| store.renew(&names)).await?;
        self.show();
        Ok(())
    }

    /// Does something with the store, and takes what becomes of these repositories.
    async fn carry_out(
        &mut self,
        repositories: BTreeSet<RepositoryName>,
        begin: Option<Instant>,
        work: impl FnOnce(&mut Store) -> Outcome + Send + 'static,
    ) -> anyhow::Result<()> {
        self.levels.begin(&repositories);
        let store = self.store.clone();
        let commit = move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner));
        let Outcome { committed, behind, failed } = spawn_blocking(commit).await.context("committing")?;
        let has_new_commits = |committed: &Committed| !committed.spans.is_empty();
        if let Some(begin) = begin.filter(|_| committed.iter().any(has_new_commits)) {
            metrics::GROUP_SECONDS.observe(begin.elapsed().as_secs_f64());
        }
        let mut waits: BTreeSet<_> = failed.iter().map(|failed| &failed.repository).collect();
        waits.extend(behind.iter().map(|behind| &behind.repository));
        for name in repositories.iter().filter(|name| !waits.contains(name)) {
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
        self.levels.end(&repositories);
        Ok(())
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
