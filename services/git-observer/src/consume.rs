//! The loop over signals and timers: which clients are looked at, and when.
//!
//! A signal only says "look again": what the look finds decides. A lost signal costs time and nothing else, for every
//! client is looked at on each new connection and every hour.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::Subscriber;
use bus::{Bus, Subject, streams::FIRST_PAUSE};
use futures::{FutureExt, StreamExt};
use margo::{ClientName, RepositoryName};
use process::Backoff;
use service::Readiness;
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    agenda::{Agenda, Reason},
    observer::{Look, LookError, Observer},
};

/// How often everything is looked at without a signal: what nobody signalled is found after this at the latest.
const LOOK_AT_EVERYTHING: Duration = Duration::from_secs(3600);

/// How often to look whether the stream is still the same one: the server tells nobody that a stream was deleted.
const LOOK_AT_STREAM: Duration = Duration::from_secs(5);

/// The longest pause before a stream that is not ready is tried again.
const STREAM_RETRY: Duration = Duration::from_secs(1);

/// Looks that have begun and not ended. Nearly all of them wait for the hub's disk, and hold no more than a name meanwhile.
const BEGUN: usize = 1_024;

/// A look that has ended, with how long the client's commit was read.
struct Looked {
    client: ClientName,
    look: Look,
    result: Result<Duration, LookError>,
}

/// Keeps the stream as the repositories want it. What it holds in memory is found again by looking at the hub.
pub struct Loop {
    observer: Arc<Observer>,
    bus: Bus,
    readiness: Readiness,
    agenda: Agenda,
    looks: JoinSet<Looked>,
    /// Clients that were not looked at since the stream was filled or found anew.
    unseen: BTreeSet<ClientName>,
    /// Identity of the stream that was filled last; `None` when that is not known, so that everything is looked at.
    stream: Option<String>,
    /// Whether the stream may be another one by now.
    stream_in_doubt: bool,
    /// When the stream is tried again that was not ready; nothing else that waits for its time comes before.
    retry: Option<Instant>,
    backoff: Backoff,
}

impl Loop {
    pub fn new(observer: Arc<Observer>, bus: Bus, readiness: Readiness) -> Self {
        Self {
            observer,
            bus,
            readiness,
            agenda: Agenda::default(),
            looks: JoinSet::new(),
            unseen: BTreeSet::new(),
            stream: None,
            stream_in_doubt: true,
            retry: None,
            backoff: Backoff::new(FIRST_PAUSE, STREAM_RETRY),
        }
    }

    /// Looks at clients on signals, when a site asks about one, and when it is time, until shutdown. Fails only when `signals` end.
    pub async fn run(
        mut self,
        mut signals: Subscriber,
        mut wanted: mpsc::Receiver<ClientName>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut connections = self.bus.connections();
        let mut everything = interval(LOOK_AT_EVERYTHING);
        let mut stream = interval(LOOK_AT_STREAM);
        for timer in [&mut everything, &mut stream] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            // Without a connection there is nothing to do before the next one, which `connections` tell.
            let connected = self.bus.is_connected();
            let due = self.retry.or_else(|| self.agenda.due()).filter(|_| connected);
            let places = self.observer.places.looks.clone();
            let waits = connected && self.retry.is_none() && self.agenda.is_ready() && self.looks.len() < BEGUN;
            // The first tick of an interval comes at once, so the service begins with a look at everything.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Ok(()) = connections.changed() => self.stream = None,
                signal = signals.next() => {
                    let signal = signal.context("the subscription to git.committed.> ended")?;
                    let mut committed: BTreeSet<_> = repository(&signal).into_iter().collect();
                    // git-writer announces a group of commits at once: all signals that are there are taken together,
                    // so that each client is looked at once.
                    while let Some(Some(signal)) = signals.next().now_or_never() {
                        committed.extend(repository(&signal));
                    }
                    self.signalled(committed);
                }
                Some(looked) = self.looks.join_next() => self.looked(looked.context("a look died")?),
                Ok(_) = places.acquire(), if waits => {}
                _ = everything.tick() => self.stream = None,
                _ = stream.tick() => self.stream_in_doubt = true,
                Some(client) = wanted.recv() => {
                    self.agenda.add(&client, Look::Changes, Reason::Asked, Instant::now());
                }
                () = process::due(due) => {}
            }
            if !self.bus.is_connected() {
                self.readiness.not_ready("the hub is not connected");
                continue;
            }
            match self.follow_stream().await {
                Ok(()) => {
                    self.retry = None;
                    self.backoff.reset();
                    self.begin();
                    if self.unseen.is_empty() {
                        self.readiness.ready();
                    }
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    warn!(reason, "the stream DESIRED is not ready");
                    self.retry = Some(Instant::now() + self.backoff.pause());
                    self.readiness.not_ready(&reason);
                }
            }
        }
    }

    /// Notes which repositories were committed to. A new client is signalled by its own first commit.
    fn signalled(&mut self, committed: BTreeSet<RepositoryName>) {
        for repository in committed {
            if let RepositoryName::Client(client) = repository {
                self.agenda.add(&client, Look::Changes, Reason::Asked, Instant::now());
            }
        }
    }

    /// Looks at the stream, where that has to be done, and puts every client on the agenda unless the stream is still the one
    /// that was filled last.
    async fn follow_stream(&mut self) -> anyhow::Result<()> {
        if self.stream.is_some() && !self.stream_in_doubt {
            return Ok(());
        }
        let identity = Some(self.observer.hub.identity().await?);
        if self.stream != identity {
            let clients = self.clients().await?;
            let now = Instant::now();
            clients.iter().for_each(|client| self.agenda.add(client, Look::Everything, Reason::Round, now));
            self.unseen = clients;
        }
        (self.stream, self.stream_in_doubt) = (identity, false);
        Ok(())
    }

    async fn clients(&self) -> anyhow::Result<BTreeSet<ClientName>> {
        let store = self.observer.store.clone();
        spawn_blocking(move || store.clients()).await.context("listing clients")?
    }

    /// Begins looks as long as there are places for them. Nobody waits for a look of another client.
    fn begin(&mut self) {
        self.agenda.wake(Instant::now());
        while self.looks.len() < BEGUN
            && let Ok(place) = self.observer.places.looks.clone().try_acquire_owned()
            && let Some((client, look)) = self.agenda.take()
        {
            let observer = self.observer.clone();
            self.looks.spawn(async move {
                let result = observer.look(&client, look, place).await;
                Looked { client, look, result }
            });
        }
    }

    /// Notes what became of a look.
    fn looked(&mut self, Looked { client, look, result }: Looked) {
        self.unseen.remove(&client);
        match result {
            Ok(read) => self.agenda.done(&client, read, Instant::now()),
            Err(error) => {
                // A publication that failed may have left the new head beside old messages of nodes. A tip that was
                // refused is looked at again, too: an operator may put it right without anybody signalling it.
                let look = if matches!(error, LookError::Failed(_)) { Look::Everything } else { look };
                self.stream_in_doubt = true;
                self.agenda.again(&client, look, Instant::now());
            }
        }
    }
}

/// The repository that a signal of git-writer is about; `None` when the subject names none.
fn repository(signal: &async_nats::Message) -> Option<RepositoryName> {
    signal.subject.parse::<Subject>().ok().and_then(|subject| subject.repository())
}
