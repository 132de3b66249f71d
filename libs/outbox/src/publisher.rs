//! The one publisher of an outbox: publish what is due, close what Git shows, ask when nothing is heard.

use std::{collections::BTreeMap, error::Error, sync::LazyLock, time::Duration};

use ::store::StoreError;
use anyhow::Context;
use api::{Handled, HandledRequest, Problem};
use bus::{BatchError, Bus, MAX_BATCH, Outgoing, Pattern, ServiceName, Subject, proto, trace};
use futures::StreamExt;
use margo::RepositoryName;
use process::{Backoff, jittered};
use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    Outbox,
    progress::{Batch, Progress},
    store,
};

/// How often git-writer is asked while rows are open: announcements are signals and may get lost.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Repositories asked about at once: an answer is read from memory, the way there is what takes time.
const ASKED_AT_ONCE: usize = 16;

/// Rows looked at at once: at least one batch.
const PAGE: usize = 1_000;

/// Announcements heard together. What comes while one transaction closes rows is closed by the next one, so that many
/// commits in Git share a sync of the disk here.
const HEARD_AT_ONCE: usize = 1_000;

/// Between attempts after a failure: doubling, for the stream may not be there yet, or stream or disk be full for long.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

static OPEN_ROWS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Rows that are committed in SQL and do not stand in Git yet.";
    register_int_gauge_vec!("edgewright_outbox_open_rows", help, &["source"]).expect("registered once")
});

static FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Attempts to publish or close rows that failed and are repeated.";
    register_int_counter_vec!("edgewright_outbox_failures_total", help, &["source"]).expect("registered once")
});

/// Why an attempt failed. Each is repeated until it succeeds: the rows are safe, and nothing else can be done with them.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("publishing {rows} rows")]
    Bus { rows: usize, source: BatchError },
    /// Only the publisher closes rows, so somebody else has deleted this one.
    #[error("the open row at position {position} is gone")]
    Gone { position: u64 },
}

/// One of the things that the publisher repeats until they succeed.
struct Attempt {
    backoff: Backoff,
    /// The next attempt is not made before.
    at: Instant,
}

impl Attempt {
    fn new() -> Self {
        Self { backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY), at: Instant::now() }
    }

    fn succeeded(&mut self) {
        self.backoff.reset();
    }

    fn failed(&mut self, source: ServiceName, error: &PublishError) {
        let wait = self.backoff.pause();
        self.at = Instant::now() + wait;
        FAILURES.with_label_values(&[source.as_str()]).inc();
        warn!(?wait, error = error as &dyn Error, "the outbox waits");
    }
}

pub(crate) struct Publisher {
    outbox: Outbox,
    bus: Bus,
    progress: Progress,
    /// Numbers that Git shows as handled and that are not closed yet.
    heard: BTreeMap<RepositoryName, u64>,
    publishing: Attempt,
    closing: Attempt,
}

impl Publisher {
    pub(crate) fn new(outbox: Outbox, bus: Bus) -> Self {
        Self {
            outbox,
            bus,
            progress: Progress::default(),
            heard: BTreeMap::new(),
            publishing: Attempt::new(),
            closing: Attempt::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let committed = self.bus.subscribe(announcements(self.outbox.source)).await?;
        let mut committed = committed.ready_chunks(HEARD_AT_ONCE);
        let mut connections = self.bus.connections();
        let mut ask_at = Instant::now() + jittered(ASK_INTERVAL);
        if let Err(error) = self.measure().await {
            self.publishing.failed(self.outbox.source, &error);
        }
        loop {
            if self.progress.waiting().is_empty() {
                ask_at = Instant::now() + jittered(ASK_INTERVAL);
            }
            let retry_at = self.turn().await;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    // What the service's last requests have appended.
                    self.turn().await;
                    return Ok(());
                }
                messages = committed.next() => {
                    for message in messages.context("the connection to the bus was closed")? {
                        self.hear(&message);
                    }
                }
                () = self.outbox.woken.notified() => {}
                changed = connections.changed() => {
                    changed.context("the connection to the bus was closed")?;
                    self.publishing.at = Instant::now();
                }
                () = sleep_until(retry_at) => {}
                () = tokio::time::sleep_until(ask_at), if !self.progress.waiting().is_empty() => {
                    self.ask().await;
                    ask_at = Instant::now() + jittered(ASK_INTERVAL);
                }
            }
        }
    }

    /// Closes what was heard, then publishes what is due. Returns when to try again, if one of them has failed.
    async fn turn(&mut self) -> Option<Instant> {
        // Closing tells whether Git holds numbers that were never given here; then nothing may be published.
        match self.close_heard().await {
            Some(retry_at) => Some(retry_at),
            None => self.publish_due().await,
        }
    }

    /// Closes rows up to the numbers that Git shows as handled.
    async fn close_heard(&mut self) -> Option<Instant> {
        if !self.heard.is_empty() && Instant::now() >= self.closing.at {
            match self.close().await {
                Ok(()) => self.closing.succeeded(),
                Err(error) => self.closing.failed(self.outbox.source, &error),
            }
        }
        (!self.heard.is_empty()).then_some(self.closing.at)
    }

    async fn close(&mut self) -> Result<(), PublishError> {
        for foreign in store::close(&self.outbox.database, &self.heard).await? {
            error!(
                repository = %foreign.repository,
                handled = foreign.handled,
                last = foreign.last,
                "Git holds orders that this database never gave: an older one was put in its place; nothing is published \
                 until the right one is back"
            );
        }
        self.heard.clear();
        self.measure().await
    }

    /// Publishes what is due, batch by batch.
    async fn publish_due(&mut self) -> Option<Instant> {
        while Instant::now() >= self.publishing.at {
            match self.publish_next().await {
                Ok(true) => self.publishing.succeeded(),
                Ok(false) => {
                    self.publishing.succeeded();
                    return None;
                }
                Err(error) => self.publishing.failed(self.outbox.source, &error),
            }
        }
        Some(self.publishing.at)
    }

    /// Publishes the next batch. Returns whether there was one.
    async fn publish_next(&mut self) -> Result<bool, PublishError> {
        let page = store::open_rows(&self.outbox.database, self.progress.cursor(), PAGE).await?;
        if page.is_empty() {
            return Ok(false);
        }
        let batch = self.progress.next_batch(&page);
        if !batch.rows.is_empty() {
            self.publish(&batch).await?;
        }
        self.progress.published(&batch);
        self.measure().await?;
        Ok(true)
    }

    async fn publish(&self, batch: &Batch) -> Result<(), PublishError> {
        let mut payloads = store::payloads(&self.outbox.database, &batch.rows).await?;
        let mut messages = Vec::new();
        for row in &batch.rows {
            let payload = payloads.remove(&row.position).ok_or(PublishError::Gone { position: row.position })?;
            for (mut headers, part) in bus::into_parts(payload.bytes) {
                if let Some(traceparent) = &payload.traceparent {
                    headers.insert(trace::TRACEPARENT, traceparent.as_str());
                }
                messages.push(Outgoing { subject: Subject::git_write(&row.repository), headers, payload: part });
            }
        }
        let count = messages.len();
        let tell = |(at, message): (usize, Outgoing)| message.followed_by(count - at - 1);
        let messages: Vec<_> = messages.into_iter().enumerate().map(tell).collect();
        debug_assert!(messages.len() <= MAX_BATCH, "{} rows in {} messages", batch.rows.len(), messages.len());
        process::stop_point("outbox.before-publish");
        let rows = batch.rows.len();
        // The parts of a row have to follow each other, whatever other sources publish meanwhile. Whole rows need not: a
        // repository's rows are numbered, and those of several repositories do not depend on each other.
        let published = match messages.len() == rows {
            true => self.bus.publish_all(messages).await,
            false => self.bus.publish_batch(messages).await,
        };
        debug!(rows, published = published.is_ok(), "outbox");
        published.map(drop).map_err(|source| PublishError::Bus { rows, source })
    }

    /// Takes note of an announcement of git-writer.
    fn hear(&mut self, message: &async_nats::Message) {
        let repository = message.subject.parse::<Subject>().ok().and_then(|subject| subject.repository());
        let Some(repository) = repository else { return };
        match bus::decode::<proto::GitCommitted>(&message.payload) {
            Ok(committed) => {
                let handled = committed.handled.get(self.outbox.source.as_str()).copied();
                self.take_note(&repository, handled.unwrap_or(0));
            }
            Err(error) => {
                warn!(subject = %message.subject, error = &error as &dyn Error, "announcement not understood");
            }
        }
    }

    /// Takes note of how far Git is. Returns whether that was news.
    fn take_note(&mut self, repository: &RepositoryName, handled: u64) -> bool {
        let news = self.progress.handled(repository, handled);
        if news {
            self.heard.insert(repository.clone(), handled);
        }
        news
    }

    /// Asks git-writer how far it is with the repositories that wait.
    async fn ask(&mut self) {
        let waiting = self.progress.waiting();
        let (bus, source) = (self.bus.clone(), self.outbox.source);
        let mut answers = futures::stream::iter(waiting.into_iter().map(|repository| {
            let bus = bus.clone();
            async move {
                let answer = ask_one(&bus, source, &repository).await;
                (repository, answer)
            }
        }))
        .buffer_unordered(ASKED_AT_ONCE);
        while let Some((repository, answer)) = answers.next().await {
            match answer {
                Ok(handled) => {
                    if !self.take_note(&repository, handled) && self.progress.no_news(&repository) {
                        warn!(%repository, handled, "no progress in Git: publishing open rows again");
                    }
                }
                // The others would not be answered either, and the rows are safe in the stream.
                Err(problem) => {
                    warn!(%repository, %problem, "git-writer did not say how far it is");
                    return;
                }
            }
        }
    }

    async fn measure(&self) -> Result<(), PublishError> {
        let open = store::count_open(&self.outbox.database).await?;
        OPEN_ROWS.with_label_values(&[self.outbox.source.as_str()]).set(i64::try_from(open).unwrap_or(i64::MAX));
        Ok(())
    }
}

async fn ask_one(bus: &Bus, source: ServiceName, repository: &RepositoryName) -> Result<u64, Problem> {
    let subject = Subject::service(ServiceName::GitWriter, "handled");
    let request = HandledRequest { repository: repository.to_string() };
    let answer: Handled = bus.call(&subject, &request, None).await?;
    Ok(answer.handled.get(source.as_str()).copied().unwrap_or(0))
}

/// Only deployment-registry writes to clients' repositories; the others may not listen to them either.
fn announcements(source: ServiceName) -> Pattern {
    match source {
        ServiceName::DeploymentRegistry => Pattern::GitCommitted,
        _ => Subject::GitCommittedFleet.into(),
    }
}

/// Sleeps until a time, or for ever when there is none.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
