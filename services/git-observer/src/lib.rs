//! git-observer: the only writer of the stream DESIRED at the hub.
//!
//! Owns the stream and one durable consumer per client. The head on the bus is its only cursor: it is compared with the
//! tip of the client's repository at start, on every new connection, on `git.committed.…` and hourly, and the difference
//! is published. Nothing is published that the tenant's root key does not vouch for; what is refused is listed at
//! `svc.git-observer.refusals`, and the last good state stays. Answers `site.*.resync`.
//!
//! A stream that was deleted or changed by somebody else is made and filled again: it holds nothing that the repositories
//! do not.

mod agenda;
mod config;
mod domain;
mod handler;
mod hub;
mod metrics;
mod store;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, anyhow};
use api::Problem;
use async_nats::Subscriber;
use bus::{Bus, Call, Pattern, Repository, ServiceName, SiteVerb, Subject};
use futures::{FutureExt, StreamExt, stream};
use identity::PublicKey;
use margo::ClientName;
use service::Readiness;
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use crate::config::Config;
use crate::{
    agenda::Agenda,
    handler::{Look, Observer, Refusals},
    hub::Hub,
    store::Store,
};

/// Between looks at everything without a reason: what nobody signalled is found after this at the latest.
const LOOK_AT_EVERYTHING: Duration = Duration::from_secs(3600);

/// Between looks whether the stream is still the same one: nobody tells us that it was deleted.
const LOOK_AT_STREAM: Duration = Duration::from_secs(5);

/// Clients looked at together: their disk and network waits overlap, and the hub holds at most 50 open batches.
const TOGETHER: usize = 8;

/// Sites that asked for a resync and wait to be looked at. A full queue delays the answer to the next one.
const RESYNCS: usize = 64;

/// Keeps the hub's DESIRED equal to the repositories until shutdown.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let root = PublicKey::parse(&config.root_key).context("reading the root key")?;
    let bus = Bus::connect(&config.bus).await?;
    config.readiness.needs(&bus);
    let store = Store { folder: config.repositories, tenant: config.tenant };
    let refusals = Refusals::default();
    let hub = Hub::new(bus.clone());
    let (resynced, resyncs) = mpsc::channel(RESYNCS);

    // Before the first look, so that no signal falls between.
    let signals = bus.subscribe(Pattern::GitCommitted).await?;
    let mut endpoints = bus.register(ServiceName::GitObserver).await?;
    let listed = refusals.clone();
    endpoints.verb("refusals", move |_: Call<()>| std::future::ready(Ok(listed.list()))).await?;
    let (asked, known) = (hub.clone(), store.clone());
    let resync = move |call: Call<()>| resync(asked.clone(), known.clone(), resynced.clone(), call.subject);
    endpoints.answer("resync", Pattern::Sites(SiteVerb::Resync), resync).await?;

    let observer = Observer { hub, store, root, refusals, keys: Default::default() };
    let readiness = config.readiness;
    let (agenda, consumers) = (Agenda::default(), BTreeSet::new());
    let state = Loop { observer, bus, readiness, agenda, stream: None, consumers };
    state.run(signals, resyncs, &shutdown).await?;
    endpoints.stop().await
}

/// `site.<client>.resync`: everything is delivered again, and compared with the repository before.
async fn resync(hub: Hub, store: Store, resynced: mpsc::Sender<ClientName>, subject: Subject) -> Result<(), Problem> {
    let client = subject.client().cloned().ok_or_else(|| Problem::bad_request("the subject names no client"))?;
    let unavailable = |error: anyhow::Error| {
        warn!(%client, error = format!("{error:#}"), "not resynced");
        Problem::unavailable("the hub cannot resync now; ask again")
    };
    let clients = spawn_blocking(move || store.clients()).await.map_err(|error| unavailable(error.into()))?;
    if !clients.map_err(unavailable)?.contains(&client) {
        return Err(Problem::not_found(format!("{client} is no client; has the site been added?")));
    }
    hub.ensure_stream().await.map_err(unavailable)?;
    hub.recreate_consumer(&client).await.map_err(unavailable)?;
    info!(%client, "resync");
    resynced.send(client.clone()).await.map_err(|_| unavailable(anyhow!("shutting down")))
}

struct Loop {
    observer: Observer,
    bus: Bus,
    readiness: Readiness,
    agenda: Agenda,
    /// Identity of the stream that was filled last; `None`: to be looked at.
    stream: Option<String>,
    /// Clients that have a consumer on it.
    consumers: BTreeSet<ClientName>,
}

impl Loop {
    async fn run(
        mut self,
        mut signals: Subscriber,
        mut resyncs: mpsc::Receiver<ClientName>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut connections = self.bus.connections();
        let mut everything = interval(LOOK_AT_EVERYTHING);
        let mut stream = interval(LOOK_AT_STREAM);
        for timer in [&mut everything, &mut stream] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            // Their first ticks come at once: that is the look at start.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                Ok(()) = connections.changed() => self.stream = None,
                _ = everything.tick() => self.stream = None,
                _ = stream.tick() => {}
                Some(client) = resyncs.recv() => self.agenda.add(client, Look::Everything),
                signal = signals.next() => {
                    let signal = signal.context("the subscription to git.committed.> ended")?;
                    let mut committed: BTreeSet<_> = repository(&signal).into_iter().collect();
                    // A group of commits is one look at each client.
                    while let Some(Some(signal)) = signals.next().now_or_never() {
                        committed.extend(repository(&signal));
                    }
                    self.signalled(committed).await;
                }
                () = due(self.agenda.due()) => {}
            }
            if !self.bus.is_connected() {
                self.readiness.not_ready("the hub is not connected");
                continue;
            }
            match self.follow_stream().await {
                Ok(()) => {
                    self.look().await;
                    self.readiness.ready();
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    warn!(reason, "the stream DESIRED is not ready");
                    self.readiness.not_ready(&reason);
                }
            }
        }
    }

    /// Commits: their clients are looked at. One in `fleet.git` may have brought a client.
    async fn signalled(&mut self, committed: BTreeSet<Repository>) {
        for repository in committed {
            let consumers = match repository {
                Repository::Client(client) => {
                    self.agenda.add(client.clone(), Look::Changes);
                    self.ensure_consumers(&BTreeSet::from([client])).await
                }
                Repository::Fleet => match self.clients().await {
                    Ok(clients) => self.ensure_consumers(&clients).await,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = consumers {
                warn!(error = format!("{error:#}"), "no consumers for new clients yet");
                self.stream = None;
            }
        }
    }

    /// When the stream is not the one that was filled last, or that is not known: everything again.
    async fn follow_stream(&mut self) -> anyhow::Result<()> {
        if self.stream.is_some() && self.observer.hub.identity().await? == self.stream {
            return Ok(());
        }
        let identity = self.observer.hub.ensure_stream().await?;
        let clients = self.clients().await?;
        self.consumers.clear();
        self.ensure_consumers(&clients).await?;
        self.agenda.add_all(&clients, Look::Everything);
        self.stream = Some(identity);
        Ok(())
    }

    async fn clients(&self) -> anyhow::Result<BTreeSet<ClientName>> {
        let store = self.observer.store.clone();
        spawn_blocking(move || store.clients()).await.context("listing clients")?
    }

    async fn ensure_consumers(&mut self, clients: &BTreeSet<ClientName>) -> anyhow::Result<()> {
        for client in clients {
            if !self.consumers.contains(client) {
                self.observer.hub.ensure_consumer(client).await?;
                self.consumers.insert(client.clone());
            }
        }
        Ok(())
    }

    async fn look(&mut self) {
        let observer = &self.observer;
        let looks = stream::iter(self.agenda.take(Instant::now())).map(|(client, look)| async move {
            let result = observer.look(&client, look).await;
            (client, look, result)
        });
        let results: Vec<_> = looks.buffer_unordered(TOGETHER).collect().await;
        for (client, look, result) in results {
            match result {
                Ok(()) => self.agenda.done(&client),
                // Also a refused one: an operator may put it right without anybody signalling it.
                Err(_) => self.agenda.again(client, look, Instant::now()),
            }
        }
    }
}

/// The repository that an announcement is about.
fn repository(signal: &async_nats::Message) -> Option<Repository> {
    signal.subject.parse().ok().as_ref().and_then(Repository::of)
}

/// Waits until it is time; for ever when there is none.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
