//! The one publisher of an outbox: publish what is due, close what Git shows, ask when nothing is heard.

use std::{collections::BTreeMap, error::Error, sync::LazyLock, time::Duration};

use ::store::StoreError;
use anyhow::Context;
use api::{Handled, HandledRequest, Problem};
use bus::{BatchError, Bus, MAX_BATCH, Outgoing, Pattern, ServiceName, Subject, proto, service::GitFolders, trace};
use futures::StreamExt;
use margo::RepositoryName;
use process::{Backoff, due, jittered};
use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    Outbox,
    progress::{Batch, News, Progress},
    store,
};

/// How often git-writer is asked while rows are open: announcements are signals and may get lost.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Repositories asked about at once: an answer is read from memory, the way there is what takes time.
const ASKED_AT_ONCE: usize = 16;

/// Rows and bytes of one batch. With messages of at least 512 KiB wherever a row is divided, these stay far below the
/// 1,000 messages that the server takes; a row that alone is larger goes alone.
const MAX_ROWS: u64 = 500;
const MAX_BYTES: u64 = 8 << 20;

/// The most announcements that are taken note of before something is published or closed again.
const HEARD_AT_ONCE: usize = 1_000;

/// How long rows that stand in Git stay open: nobody waits for their end, so many commits share a transaction and a sync
/// of the disk, and none of them stands in the way of the orders behind it.
const CLOSE_AFTER: Duration = Duration::from_millis(100);

/// How old the gauge of open rows may be. Counting looks at every repository.
const MEASURE_AFTER: Duration = Duration::from_secs(2);

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

/// Numbers that Git shows as handled and that are not closed yet.
struct Heard {
    numbers: BTreeMap<RepositoryName, u64>,
    /// When they are closed.
    close_at: Instant,
    /// Whether a number among them may never have been given here. Only closing tells, and until then nothing is
    /// published.
    surprised: bool,
}

pub(crate) struct Publisher {
    outbox: Outbox,
    bus: Bus,
    progress: Progress,
    heard: Option<Heard>,
    publishing: Attempt,
    closing: Attempt,
    /// When open rows are counted again, if their number may have changed.
    measure_at: Option<Instant>,
}

impl Publisher {
    pub(crate) fn new(outbox: Outbox, bus: Bus) -> Self {
        Self {
            outbox,
            bus,
            progress: Progress::default(),
            heard: None,
            publishing: Attempt::new(),
            closing: Attempt::new(),
            measure_at: Some(Instant::now()),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let committed = self.bus.subscribe(announcements(self.outbox.source)).await?;
        let mut committed = committed.ready_chunks(HEARD_AT_ONCE);
        let mut connections = self.bus.connections();
        let mut ask_at = Instant::now() + jittered(ASK_INTERVAL);
        loop {
            if self.progress.waiting().is_empty() {
                ask_at = Instant::now() + jittered(ASK_INTERVAL);
            }
            let turn_at = self.turn().await;
            // Here, where announcements that never end cannot keep it from its turn.
            if self.measure_at.is_some_and(|at| at <= Instant::now()) {
                self.measure().await;
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    // What the service's last requests have appended, and what Git shows of all others.
                    if let Some(heard) = &mut self.heard {
                        heard.close_at = Instant::now();
                    }
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
                () = due(turn_at) => {}
                () = due(self.measure_at) => {}
                () = tokio::time::sleep_until(ask_at), if !self.progress.waiting().is_empty() => {
                    self.ask().await;
                    ask_at = Instant::now() + jittered(ASK_INTERVAL);
                }
            }
        }
    }

    /// Closes what was heard and publishes what is due, each when its time has come. Returns when to do that again.
    async fn turn(&mut self) -> Option<Instant> {
        let close_at = self.close_heard().await;
        let surprised = self.heard.as_ref().is_some_and(|heard| heard.surprised);
        let publish_at = if surprised { None } else { self.publish_due().await };
        close_at.into_iter().chain(publish_at).min()
    }

    /// Closes rows up to the numbers that Git shows as handled, when it is time.
    async fn close_heard(&mut self) -> Option<Instant> {
        let heard = self.heard.as_ref()?;
        let at = heard.close_at.max(self.closing.at);
        if at > Instant::now() {
            return Some(at);
        }
        match self.close(&heard.numbers).await {
            Ok(()) => {
                self.closing.succeeded();
                self.heard = None;
                self.is_to_measure();
                None
            }
            Err(error) => {
                self.closing.failed(self.outbox.source, &error);
                Some(self.closing.at)
            }
        }
    }

    async fn close(&self, handled: &BTreeMap<RepositoryName, u64>) -> Result<(), PublishError> {
        for foreign in store::close(&self.outbox.database, handled).await? {
            error!(
                repository = %foreign.repository,
                handled = foreign.handled,
                last = foreign.last,
                "Git holds orders that this database never gave: an older one was put in its place; nothing is published \
                 until the right one is back"
            );
        }
        Ok(())
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
        let page = store::open_rows(&self.outbox.database, self.progress.cursor(), MAX_ROWS, MAX_BYTES).await?;
        if page.is_empty() {
            return Ok(false);
        }
        let batch = self.progress.next_batch(page);
        if !batch.rows.is_empty() {
            self.publish(&batch).await?;
        }
        self.progress.published(&batch);
        self.is_to_measure();
        Ok(true)
    }

    async fn publish(&self, batch: &Batch) -> Result<(), PublishError> {
        let mut messages = Vec::new();
        for row in &batch.rows {
            for (mut headers, part) in bus::into_parts(row.payload.clone()) {
                if let Some(traceparent) = &row.traceparent {
                    headers.insert(trace::TRACEPARENT, traceparent.as_str());
                }
                messages.push(Outgoing {
                    subject: Subject::git_write(self.outbox.source, &row.repository),
                    headers,
                    payload: part,
                });
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
        let (surprised, close_after) = match self.progress.handled(repository, handled) {
            News::None => return false,
            News::Progress => (false, CLOSE_AFTER),
            News::Surprise => (true, Duration::ZERO),
        };
        let close_at = Instant::now() + close_after;
        let heard = self.heard.get_or_insert_with(|| Heard { numbers: BTreeMap::new(), close_at, surprised });
        heard.close_at = heard.close_at.min(close_at);
        heard.surprised |= surprised;
        heard.numbers.insert(repository.clone(), handled);
        true
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

    /// Notes that the number of open rows may have changed.
    fn is_to_measure(&mut self) {
        self.measure_at.get_or_insert_with(|| Instant::now() + MEASURE_AFTER);
    }

    async fn measure(&mut self) {
        self.measure_at = None;
        match store::count_open(&self.outbox.database).await {
            Ok(open) => {
                let open = i64::try_from(open).unwrap_or(i64::MAX);
                OPEN_ROWS.with_label_values(&[self.outbox.source.as_str()]).set(open);
            }
            Err(error) => {
                warn!(error = &error as &dyn Error, "open rows are not counted");
                self.is_to_measure();
            }
        }
    }
}

async fn ask_one(bus: &Bus, source: ServiceName, repository: &RepositoryName) -> Result<u64, Problem> {
    let subject = Subject::service(ServiceName::GitWriter, "handled");
    let request = HandledRequest { repository: repository.to_string() };
    let answer: Handled = bus.call(&subject, &request, None).await?;
    Ok(answer.handled.get(source.as_str()).copied().unwrap_or(0))
}

/// Who writes to `fleet.git` alone may not listen to the repositories of clients either.
fn announcements(source: ServiceName) -> Pattern {
    match source.service().git {
        GitFolders::FleetAndClients(_) => Pattern::GitCommitted,
        GitFolders::Fleet(_) | GitFolders::None => Subject::GitCommittedFleet.into(),
    }
}
