//! The one publisher of an outbox: publish what is due, close what Git shows, ask when nothing is heard.

use std::{collections::BTreeMap, error::Error, sync::LazyLock, time::Duration};

use ::store::StoreError;
use anyhow::Context;
use bus::{BatchError, Bus, MAX_BATCH, Outgoing, Pattern, ServiceName, Subject, proto, service::GitFolders, trace};
use futures::StreamExt;
use margo::RepositoryName;
use process::{Backoff, due};
use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    Outbox,
    asking::{Answer, Asking},
    progress::{Batch, News, Progress},
    store,
};

/// Bytes of one batch; a row that alone is larger goes alone.
const MAX_BYTES: u64 = 8 << 20;

/// How often the database is asked how far all repositories are, for what nobody has told.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The most announcements that are taken note of before something is published or closed again.
const HEARD_AT_ONCE: usize = 1_000;

/// How long rows that stand in Git stay open: nobody waits for their end, so many commits share a transaction and a sync
/// of the disk, and none of them stands in the way of the orders behind it.
const CLOSE_AFTER: Duration = Duration::from_millis(100);

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
}

pub(crate) struct Publisher {
    outbox: Outbox,
    bus: Bus,
    progress: Progress,
    asking: Asking,
    heard: Option<Heard>,
    looking: Attempt,
    /// Whether the database has said how far the repositories are. Nothing is published before.
    has_looked: bool,
    publishing: Attempt,
    closing: Attempt,
}

impl Publisher {
    pub(crate) fn new(outbox: Outbox, bus: Bus) -> Self {
        Self {
            asking: Asking::new(bus.clone(), outbox.source),
            outbox,
            bus,
            progress: Progress::default(),
            heard: None,
            looking: Attempt::new(),
            has_looked: false,
            publishing: Attempt::new(),
            closing: Attempt::new(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let committed = self.bus.subscribe(announcements(self.outbox.source)).await?;
        let mut committed = committed.ready_chunks(HEARD_AT_ONCE);
        let mut connections = self.bus.connections();
        let outbox = self.outbox.clone();
        loop {
            let turn_at = self.turn().await;
            let ask_at = self.ask();
            self.show();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    self.finish().await;
                    return Ok(());
                }
                messages = committed.next() => {
                    for message in messages.context("the connection to the bus was closed")? {
                        self.hear(&message);
                    }
                }
                changed = connections.changed() => {
                    changed.context("the connection to the bus was closed")?;
                    self.publishing.at = Instant::now();
                }
                answer = self.asking.answer() => self.take_answer(answer),
                () = outbox.woken.told() => {}
                () = due(turn_at) => {}
                () = due(ask_at) => {}
            }
        }
    }

    /// Publishes what the service's last requests have appended, and closes what Git shows of all others.
    async fn finish(&mut self) {
        if let Some(heard) = &mut self.heard {
            heard.close_at = Instant::now();
        }
        while self.turn().await.is_some_and(|at| at <= Instant::now()) {}
        self.show();
    }

    /// Takes note of what was appended, closes what was heard and publishes one batch of what is due, each when its time
    /// has come. Returns when to do that again.
    async fn turn(&mut self) -> Option<Instant> {
        for (repository, last) in self.outbox.woken.take() {
            self.progress.appended(&repository, last);
        }
        let look_at = self.look().await;
        let close_at = self.close_heard().await;
        let publish_at = if self.has_looked { self.publish_due().await } else { None };
        [Some(look_at), close_at, publish_at].into_iter().flatten().min()
    }

    /// Asks the database how far the repositories are: at the start, and then seldom, for rows that were committed and of
    /// which nobody told.
    async fn look(&mut self) -> Instant {
        if self.looking.at <= Instant::now() {
            match store::levels(&self.outbox.database).await {
                Ok(levels) => {
                    for (repository, level) in levels {
                        self.progress.learn(&repository, level);
                    }
                    self.has_looked = true;
                    self.looking.succeeded();
                    self.looking.at = Instant::now() + LOOK_INTERVAL;
                }
                Err(error) => self.looking.failed(self.outbox.source, &error.into()),
            }
        }
        self.looking.at
    }

    /// Closes rows up to the numbers that Git shows as handled, when it is time.
    async fn close_heard(&mut self) -> Option<Instant> {
        let heard = self.heard.take()?;
        let at = heard.close_at.max(self.closing.at);
        if at > Instant::now() {
            self.heard = Some(heard);
            return Some(at);
        }
        match store::close(&self.outbox.database, &heard.numbers).await {
            Ok(levels) => {
                self.closing.succeeded();
                for (repository, level) in levels {
                    if level.foreign {
                        error!(
                            %repository,
                            handled = heard.numbers.get(&repository),
                            last = level.last,
                            "Git holds orders that this database never gave: an older one was put in its place; nothing is \
                             published until the right one is back"
                        );
                    }
                    self.progress.checked(&repository, level);
                }
                None
            }
            Err(error) => {
                self.heard = Some(heard);
                self.closing.failed(self.outbox.source, &error.into());
                Some(self.closing.at)
            }
        }
    }

    /// Publishes the next batch, when there is one and it is time. Returns when to do that again.
    async fn publish_due(&mut self) -> Option<Instant> {
        if self.publishing.at > Instant::now() {
            return Some(self.publishing.at);
        }
        match self.publish_next().await {
            Ok(more) => {
                self.publishing.succeeded();
                more.then(Instant::now)
            }
            Err(error) => {
                self.publishing.failed(self.outbox.source, &error);
                Some(self.publishing.at)
            }
        }
    }

    /// Publishes the next batch. Returns whether there was something due.
    async fn publish_next(&mut self) -> Result<bool, PublishError> {
        let wanted = self.progress.wanted();
        if wanted.keys.is_empty() {
            return Ok(false);
        }
        let found = store::open_rows(&self.outbox.database, &wanted.keys, wanted.fleet, MAX_BYTES).await?;
        let batch = self.progress.choose(&wanted, found);
        for (repository, number) in &batch.missing {
            error!(%repository, number, "an open row is not in the database: nothing is published behind it");
        }
        if !batch.rows.is_empty() {
            self.publish(&batch).await?;
        }
        self.progress.published(&batch, Instant::now());
        Ok(true)
    }

    async fn publish(&self, batch: &Batch) -> Result<(), PublishError> {
        let mut messages = Vec::new();
        for row in &batch.rows {
            for (mut headers, part) in bus::into_parts(row.payload.clone().unwrap_or_default()) {
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
        // The parts of a row have to follow each other, whatever other sources publish meanwhile. Whole rows need not: they are
        // numbered, and a client's row names the one that it follows.
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
                let news = self.progress.handled(&repository, handled.unwrap_or(0), Instant::now());
                self.take_note(repository, handled.unwrap_or(0), news);
            }
            Err(error) => {
                warn!(subject = %message.subject, error = &error as &dyn Error, "announcement not understood");
            }
        }
    }

    /// Has rows closed that Git shows as handled. A number that may never have been given here is looked up at once.
    fn take_note(&mut self, repository: RepositoryName, handled: u64, news: News) {
        let close_after = match news {
            News::None => return,
            News::Progress => CLOSE_AFTER,
            News::Surprise => Duration::ZERO,
        };
        let close_at = Instant::now() + close_after;
        let heard = self.heard.get_or_insert_with(|| Heard { numbers: BTreeMap::new(), close_at });
        heard.close_at = heard.close_at.min(close_at);
        heard.numbers.insert(repository, handled);
    }

    /// Asks git-writer about the repositories of which nothing was heard for long. Returns when to do that again, except
    /// while as many questions are in work as may be.
    fn ask(&mut self) -> Option<Instant> {
        while self.asking.has_room() {
            match self.progress.ask(Instant::now()) {
                Some(repository) => self.asking.ask(repository),
                None => return self.progress.ask_at(),
            }
        }
        None
    }

    fn take_answer(&mut self, (repository, answer): Answer) {
        let now = Instant::now();
        match answer {
            Ok(handled) => {
                let (news, again) = self.progress.answered(&repository, handled, now);
                if again {
                    warn!(%repository, handled, "no progress in Git: publishing open rows again");
                }
                self.take_note(repository, handled, news);
            }
            Err(problem) => {
                // The rows are safe here and in the stream.
                warn!(%repository, %problem, "git-writer did not say how far it is");
                self.progress.unanswered(&repository, now);
            }
        }
    }

    fn show(&self) {
        let open = i64::try_from(self.progress.open()).unwrap_or(i64::MAX);
        OPEN_ROWS.with_label_values(&[self.outbox.source.as_str()]).set(open);
    }
}

/// Who writes to `fleet.git` alone may not listen to the repositories of clients either.
fn announcements(source: ServiceName) -> Pattern {
    match source.service().git {
        GitFolders::FleetAndClients(_) => Pattern::GitCommitted,
        GitFolders::Fleet(_) | GitFolders::None => Subject::GitCommittedFleet.into(),
    }
}
