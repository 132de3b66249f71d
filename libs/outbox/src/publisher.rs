//! The one publisher of an outbox: publish what is due, close what Git shows, ask when nothing is heard.

use std::{sync::LazyLock, time::Duration};

use anyhow::Context;
use api::{Handled, HandledRequest, Problem};
use bus::{BatchError, Bus, MAX_BATCH, Outgoing, Pattern, Repository, ServiceName, Subject, proto, trace};
use futures::StreamExt;
use prometheus::{IntGaugeVec, register_int_gauge_vec};
use service::{Backoff, jittered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    Outbox,
    progress::{Batch, Progress},
    store::{self, Close},
};

/// How often git-writer is asked while rows are open: announcements are signals and may get lost.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Repositories asked about at once: an answer is read from memory, the way there is what takes time.
const ASKED_AT_ONCE: usize = 16;

/// Rows looked at at once: at least one batch.
const PAGE: usize = 1_000;

/// Between attempts to publish: doubling, for the stream may not be there yet or be full for long.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

static OPEN_ROWS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Rows that are committed in SQL and do not stand in Git yet.";
    register_int_gauge_vec!("edgewright_outbox_open_rows", help, &["source"]).expect("registered once")
});

pub(crate) struct Publisher {
    outbox: Outbox,
    bus: Bus,
    progress: Progress,
    backoff: Backoff,
    /// Not to publish before.
    retry_at: Instant,
}

impl Publisher {
    pub(crate) fn new(outbox: Outbox, bus: Bus) -> Self {
        Self {
            outbox,
            bus,
            progress: Progress::default(),
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
            retry_at: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut committed = self.bus.subscribe(announcements(self.outbox.source)).await?;
        let mut connections = self.bus.connections();
        let mut ask_at = Instant::now() + jittered(ASK_INTERVAL);
        loop {
            if self.progress.waiting().is_empty() {
                ask_at = Instant::now() + jittered(ASK_INTERVAL);
            }
            let retry = self.publish_due().await?;
            self.measure().await?;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {
                    // What the service's last requests have appended.
                    return self.publish_due().await.map(|_| ());
                }
                message = committed.next() => {
                    let message = message.context("the connection to the bus was closed")?;
                    self.hear(&message).await?;
                }
                () = self.outbox.woken.notified() => {}
                changed = connections.changed() => {
                    changed.context("the connection to the bus was closed")?;
                    self.retry_at = Instant::now();
                }
                () = tokio::time::sleep_until(self.retry_at), if retry => {}
                () = tokio::time::sleep_until(ask_at), if !self.progress.waiting().is_empty() => {
                    self.ask().await?;
                    ask_at = Instant::now() + jittered(ASK_INTERVAL);
                }
            }
        }
    }

    /// Publishes what is due, batch by batch. Gives whether something is left for a later attempt.
    async fn publish_due(&mut self) -> anyhow::Result<bool> {
        loop {
            if Instant::now() < self.retry_at {
                return Ok(true);
            }
            let page = store::open_rows(&self.outbox.pool, self.progress.cursor(), PAGE).await;
            let page = page.context("reading the outbox")?;
            if page.is_empty() {
                return Ok(false);
            }
            let batch = self.progress.next_batch(&page);
            match self.publish(&batch).await? {
                Ok(()) => {
                    self.backoff.reset();
                    self.progress.published(&batch);
                }
                Err(error) => {
                    let wait = self.backoff.pause();
                    self.retry_at = Instant::now() + wait;
                    warn!(
                        rows = batch.rows.len(),
                        ?wait,
                        error = &error as &dyn std::error::Error,
                        "outbox not published"
                    );
                }
            }
        }
    }

    async fn publish(&self, batch: &Batch) -> anyhow::Result<Result<(), BatchError>> {
        let mut messages = Vec::new();
        for row in &batch.rows {
            let payload = store::payload(&self.outbox.pool, row.position).await.context("reading the outbox")?;
            // Only this task closes rows, and it is here.
            let (payload, traceparent) = payload.with_context(|| format!("row {} is gone", row.position))?;
            for (mut headers, part) in bus::into_parts(payload) {
                if let Some(traceparent) = &traceparent {
                    headers.insert(trace::TRACEPARENT, traceparent.as_str());
                }
                messages.push(Outgoing { subject: row.repository.write_subject(), headers, payload: part });
            }
        }
        if messages.is_empty() {
            return Ok(Ok(()));
        }
        debug_assert!(messages.len() <= MAX_BATCH, "{} rows in {} messages", batch.rows.len(), messages.len());
        service::stop_point("outbox.before-publish");
        let published = self.bus.publish_batch(messages).await;
        debug!(rows = batch.rows.len(), published = published.is_ok(), "outbox");
        Ok(published.map(|_| ()))
    }

    /// An announcement of git-writer.
    async fn hear(&mut self, message: &async_nats::Message) -> anyhow::Result<()> {
        let repository = message.subject.parse().ok().as_ref().and_then(Repository::of);
        let Some(repository) = repository else { return Ok(()) };
        match bus::decode::<proto::GitCommitted>(&message.payload) {
            Ok(committed) => {
                let handled = committed.handled.get(self.outbox.source.as_str()).copied();
                self.close(&repository, handled.unwrap_or(0)).await?;
            }
            Err(error) => {
                warn!(subject = %message.subject, error = &error as &dyn std::error::Error, "announcement not understood");
            }
        }
        Ok(())
    }

    /// Asks git-writer how far it is with the repositories that wait.
    async fn ask(&mut self) -> anyhow::Result<()> {
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
                    if !self.close(&repository, handled).await? && self.progress.no_news(&repository) {
                        warn!(%repository, handled, "no progress in Git: publishing open rows again");
                    }
                }
                // The others would not be answered either, and the rows are safe in the stream.
                Err(problem) => {
                    warn!(%repository, %problem, "git-writer did not say how far it is");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Closes rows up to a number that Git shows as handled. Gives whether that was news.
    async fn close(&mut self, repository: &Repository, handled: u64) -> anyhow::Result<bool> {
        if !self.progress.handled(repository, handled) {
            return Ok(false);
        }
        let closed =
            store::close(&self.outbox.pool, repository, handled).await.context("closing rows of the outbox")?;
        if let Close::Foreign { last } = closed {
            error!(
                %repository,
                handled,
                last,
                "Git holds orders that this database never gave: an older one was put in its place; nothing is published \
                 until the right one is back"
            );
        }
        Ok(true)
    }

    async fn measure(&self) -> anyhow::Result<()> {
        let open = store::count_open(&self.outbox.pool).await.context("counting the outbox")?;
        OPEN_ROWS.with_label_values(&[self.outbox.source.as_str()]).set(open);
        Ok(())
    }
}

async fn ask_one(bus: &Bus, source: ServiceName, repository: &Repository) -> Result<u64, Problem> {
    let subject = Subject::service(ServiceName::GitWriter, "handled");
    let request = HandledRequest { repository: repository.to_string() };
    let answer: Handled = bus.call(&subject, &request, Some(source.as_str())).await?;
    Ok(answer.handled.get(source.as_str()).copied().unwrap_or(0))
}

/// Only deployment-registry writes to clients' repositories; the others may not listen to them either.
fn announcements(source: ServiceName) -> Pattern {
    match source {
        ServiceName::DeploymentRegistry => Pattern::GitCommitted,
        _ => Subject::GitCommittedFleet.into(),
    }
}
