//! Groups of rows: committed, announced, purged; and the repositories that stand still meanwhile.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use api::{Problem, RefusalInfo};
use async_nats::jetstream::stream::Stream;
use bus::{Bus, Repository, proto};
use jiff::Timestamp;
use service::Readiness;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{Instrument, debug, warn};

use crate::{
    error::chain,
    inbox::{Group, Inbox},
    metrics,
    store::{Committed, Failed, Outcome, Queued, Store},
};

/// Until a repository that stands still is tried again: the first time, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Rows that wait in memory for one repository that stands still. Its sources publish the others again.
const MAX_WAITING: usize = 1_000;

/// Messages that could not be read, as operators see them.
const MAX_REFUSALS: usize = 20;

/// The store, for the loop and for requests. Locked only on threads that may block.
pub type SharedStore = Arc<Mutex<Store>>;

/// What operators see.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<Refused>>);

#[derive(Default)]
struct Refused {
    undecodable: VecDeque<RefusalInfo>,
    stalled: BTreeMap<Repository, RefusalInfo>,
}

impl Refusals {
    /// Newest last; what stands still now at the end.
    pub fn list(&self) -> Vec<RefusalInfo> {
        self.with(|refused| refused.undecodable.iter().chain(refused.stalled.values()).cloned().collect())
    }

    fn with<T>(&self, work: impl FnOnce(&mut Refused) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn refusal(subject: String, reason: String) -> RefusalInfo {
    RefusalInfo { subject, reason, at: Timestamp::now().to_string() }
}

/// How far a repository is: what `svc.git-writer.handled` answers.
pub async fn handled(store: SharedStore, repository: String) -> Result<api::Handled, Problem> {
    let name: Repository = repository.parse().map_err(|error: bus::InvalidSubject| {
        Problem::bad_request(format!("{error}: a repository is fleet or clients/NAME"))
    })?;
    let read = spawn_blocking(move || store.lock().unwrap_or_else(PoisonError::into_inner).handled(&name));
    match read.await {
        Ok(Ok((handled, tip))) => {
            Ok(api::Handled { commit: tip.map(|tip| tip.to_string()), handled: handled.numbers().clone() })
        }
        Ok(Err(error)) => Err(Problem::unavailable(format!("{repository} stands still: {}", chain(&error)))),
        Err(error) => {
            warn!(error = &error as &dyn Error, "reading a repository");
            Err(Problem::internal())
        }
    }
}

/// A repository that stands still.
struct Stall {
    rows: Vec<Queued>,
    retry: Instant,
    pause: Duration,
}

/// The loop from the log to the repositories, for one life of the log's consumer.
pub struct Committer {
    bus: Bus,
    store: SharedStore,
    refusals: Refusals,
    readiness: Readiness,
    stalled: BTreeMap<Repository, Stall>,
    /// The last message of the log that was taken.
    last: u64,
    purge: watch::Sender<u64>,
}

impl Committer {
    /// A loop that begins with the log, for which nothing stands still yet.
    pub fn new(bus: Bus, store: SharedStore, refusals: Refusals, readiness: Readiness) -> Self {
        Self { bus, store, refusals, readiness, stalled: BTreeMap::new(), last: 0, purge: watch::Sender::new(0) }
    }

    /// Commits what comes until shutdown, or until `lost` says why it has to begin anew.
    pub async fn run(
        mut self,
        stream: Stream,
        lost: impl Future<Output = anyhow::Error>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut inbox = Inbox::open(&stream).await?;
        // A purge that is cut off at the end is made up for by the first one of the next life.
        let _purging = AbortOnDropHandle::new(tokio::spawn(purge(stream, self.purge.subscribe())));
        self.show();
        tokio::pin!(lost);
        loop {
            let group = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                reason = &mut lost => return Err(reason),
                () = due(self.stalled.values().map(|stall| stall.retry).min()) => Group::default(),
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
            self.refusals.with(|refused| {
                if refused.undecodable.len() == MAX_REFUSALS {
                    refused.undecodable.pop_front();
                }
                refused.undecodable.push_back(refusal(subject, chain(&error)));
            });
        }
        let now = Instant::now();
        let rows = self.admit(rows, now);
        if !rows.is_empty() {
            let store = self.store.clone();
            let commit = move || store.lock().unwrap_or_else(PoisonError::into_inner).commit(rows);
            let Outcome { committed, failed } = spawn_blocking(commit).await.context("committing")?;
            if let Some(begin) = begin.filter(|_| committed.iter().any(|it| !it.spans.is_empty())) {
                metrics::GROUP_SECONDS.observe(begin.elapsed().as_secs_f64());
            }
            for committed in committed {
                self.announce(committed).await;
            }
            for failed in failed {
                self.stall(failed);
            }
            // What was due and has not failed again stands still no longer.
            self.stalled.retain(|_, stall| stall.retry > now);
            self.show();
        }
        self.last = self.last.max(last);
        self.purge_committed();
        Ok(())
    }

    /// The rows to be tried now: those of repositories that stand still wait, and come back when it is time.
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
                    debug!(repository = %queued.repository, number = queued.row.number, "row left out: it is not its turn")
                }
            }
        }
        admitted
    }

    async fn announce(&mut self, committed: Committed) {
        let Committed { repository, tip, handled, version, spans } = committed;
        metrics::COMMITS.inc_by(spans.len() as u64);
        if !spans.is_empty() {
            // It got further: what stops it now is tried again as soon as at first.
            self.stalled.remove(&repository);
        }
        let message = proto::GitCommitted {
            commit: tip.to_string(),
            handled: handled.numbers().clone().into_iter().collect(),
            manifest_version: version.map_or(0, |version| version.get()),
        };
        // The tip's trace: the last commit's.
        let span = spans.last().cloned().unwrap_or_else(tracing::Span::none);
        let subject = repository.committed_subject();
        let sent = self.bus.signal(&subject, bus::encode(&message)).instrument(span).await;
        if let Err(error) = sent {
            // Whoever waits for it asks, or looks again by itself.
            warn!(%subject, error = %format!("{error:#}"), "commit not announced");
        }
    }

    fn stall(&mut self, failed: Failed) {
        let Failed { repository, error, rows } = failed;
        let pause = self.stalled.get(&repository).map_or(FIRST_RETRY, |stall| (stall.pause * 2).min(LAST_RETRY));
        warn!(%repository, error = &error as &dyn Error, ?pause, "the repository stands still");
        self.refusals.with(|refused| {
            refused.stalled.insert(repository.clone(), refusal(repository.to_string(), chain(&error)));
        });
        self.stalled.insert(repository, Stall { rows, retry: Instant::now() + pause, pause });
    }

    /// Tells operators what stands still.
    fn show(&self) {
        let reasons = self.refusals.with(|refused| {
            refused.stalled.retain(|repository, _| self.stalled.contains_key(repository));
            let reasons = refused.stalled.values().map(|it| format!("{} stands still: {}", it.subject, it.reason));
            reasons.collect::<Vec<_>>()
        });
        metrics::STALLED.set(reasons.len() as i64);
        if reasons.is_empty() { self.readiness.ready() } else { self.readiness.not_ready(&reasons.join("; ")) }
    }

    /// What is committed everywhere has to be kept no longer.
    fn purge_committed(&self) {
        let open = self.stalled.values().flat_map(|stall| &stall.rows).map(|queued| queued.sequence).min();
        let committed = open.map_or(self.last, |open| open - 1);
        self.purge.send_if_modified(|position| {
            let further = committed > *position;
            *position = committed.max(*position);
            further
        });
    }
}

/// Waits until it is time; for ever when there is none.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Purges up to the last position that was told, beside the commits: a purge costs a sync, and delays nobody here.
async fn purge(stream: Stream, mut positions: watch::Receiver<u64>) {
    while positions.changed().await.is_ok() {
        let position = *positions.borrow_and_update();
        if let Err(error) = stream.purge().sequence(position + 1).await {
            // The next position purges this one, too.
            warn!(error = &error as &dyn Error, "log not purged");
        }
    }
}
