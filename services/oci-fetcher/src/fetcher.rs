//! From what is wanted to what is here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use api::{Problem, StoreAccess, WantedArtifact, WantedArtifacts};
use bus::{Bus, Pattern, ServiceName, Subject, trace};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use margo::{ClientName, Digest};
use oci::{
    Client, ContentStore, PullError, RepositoryName,
    server::{Availability, Policy},
};
use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};
use service::{Backoff, jittered};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info, info_span, warn};

/// A store that restarts is back within seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A hub that was away for days is found again within a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Between looks when nothing signals: a lost signal costs this much time.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Between looks that nodes cause: they ask again and again for what the hub cannot give.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// Artifacts pulled at once: enough to fill a line, few enough that each gets on.
const PULLS: usize = 4;

/// How long a node's request waits for its artifact. Below the client's own patience with a silent server (30 s).
const WAIT: Duration = Duration::from_secs(10);

/// When a node shall ask again for what is wanted and not here.
const RETRY_AFTER: Duration = Duration::from_secs(5);

static PULLED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("edgewright_oci_fetcher_pulled_bytes_total", "Bytes pulled from the platform's store")
        .expect("the metric is registered once")
});

static MISSING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("edgewright_oci_fetcher_missing_artifacts", "Artifacts that are wanted and not here")
        .expect("the metric is registered once")
});

/// Pulls what is wanted. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher(Arc<Shared>);

struct Shared {
    bus: Bus,
    store: ContentStore,
    /// The platform's store as the LO last named it.
    hub: tokio::sync::Mutex<Option<Client>>,
    /// As the LO last said.
    wanted: Mutex<Option<BTreeSet<WantedArtifact>>>,
    /// How often each artifact could not be pulled since it last could. Changes with every end of a pull.
    failures: watch::Sender<BTreeMap<WantedArtifact, u64>>,
    look_again: Notify,
    places: Semaphore,
}

impl Fetcher {
    /// Pulls into this store.
    pub fn new(bus: Bus, store: ContentStore) -> Self {
        Self(Arc::new(Shared {
            bus,
            store,
            hub: tokio::sync::Mutex::default(),
            wanted: Mutex::default(),
            failures: watch::Sender::default(),
            look_again: Notify::new(),
            places: Semaphore::new(PULLS),
        }))
    }

    /// Looks and pulls until shutdown. A pull that is cut off there goes on at the next start, blob by blob.
    pub async fn run(&self, client: &ClientName, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut signals = self.0.bus.subscribe(Pattern::ChangedOf(client.clone())).await?;
        let mut connections = self.0.bus.connections();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut missing = BTreeSet::new();
        let mut in_work = BTreeSet::new();
        let mut pulls = FuturesUnordered::new();
        let mut looked = Instant::now();
        let mut next_look = looked;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some((artifact, pulled)) = pulls.next() => {
                    in_work.remove(&artifact);
                    if pulled {
                        missing.remove(&artifact);
                        backoff.reset();
                    } else {
                        next_look = next_look.min(Instant::now() + backoff.pause());
                    }
                    MISSING.set(missing.len() as i64);
                    continue;
                }
                () = self.0.look_again.notified() => {
                    next_look = next_look.min(looked + SHORTEST_PAUSE);
                    continue;
                }
                signal = signals.next() => {
                    signal.context("the subscription to changes of desired state ended")?;
                    // One adoption signals once for each node.
                    while signals.next().now_or_never().flatten().is_some() {}
                }
                changed = connections.changed() => changed.context("the connection to the bus ended")?,
                () = sleep_until(next_look) => {}
            }
            looked = Instant::now();
            match self.missing().await {
                Ok(found) => {
                    missing = found;
                    next_look = looked + jittered(LOOK_AGAIN);
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "what is wanted is not known; trying again");
                    next_look = looked + backoff.pause();
                }
            }
            MISSING.set(missing.len() as i64);
            for artifact in &missing {
                if in_work.insert(artifact.clone()) {
                    pulls.push(self.pull(artifact.clone()));
                }
            }
        }
    }

    /// What is wanted and not here.
    async fn missing(&self) -> anyhow::Result<BTreeSet<WantedArtifact>> {
        let mut missing = BTreeSet::new();
        for artifact in self.ask_wanted().await.context("asking the LO for artifacts")? {
            // One that cannot be had must not keep the others from coming: its pull tells why.
            if !self.holds(&artifact).await.unwrap_or(false) {
                missing.insert(artifact);
            }
        }
        Ok(missing)
    }

    async fn holds(&self, artifact: &WantedArtifact) -> anyhow::Result<bool> {
        Ok(self.0.store.holds(&artifact.name.parse()?, &artifact.digest).await?)
    }

    async fn ask_wanted(&self) -> Result<BTreeSet<WantedArtifact>, Problem> {
        let subject = Subject::service(ServiceName::LocalOrchestrator, "artifacts");
        let answer: WantedArtifacts = self.0.bus.call(&subject, &(), None).await?;
        let wanted: BTreeSet<_> = answer.artifacts.into_iter().collect();
        *self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted.clone());
        Ok(wanted)
    }

    /// Pulls one artifact and says whether it is here now.
    async fn pull(&self, artifact: WantedArtifact) -> (WantedArtifact, bool) {
        let span = info_span!("pull", name = artifact.name, digest = %artifact.digest, trace_id = Empty);
        trace::continue_from(&span, None);
        let pulled = async {
            let _place = self.0.places.acquire().await.context("waiting for a place")?;
            self.try_pull(&artifact).await
        };
        let pulled = async {
            match pulled.await {
                Ok(bytes) => {
                    PULLED.inc_by(bytes);
                    info!(bytes, "artifact pulled");
                    true
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "artifact not pulled; trying again");
                    false
                }
            }
        }
        .instrument(span)
        .await;
        self.0.failures.send_modify(|failures| {
            if pulled {
                failures.remove(&artifact);
            } else {
                *failures.entry(artifact.clone()).or_default() += 1;
            }
        });
        (artifact, pulled)
    }

    async fn try_pull(&self, artifact: &WantedArtifact) -> anyhow::Result<u64> {
        let name = artifact.name.parse()?;
        let first = self.hub().await?.pull(&self.0.store, &name, &artifact.digest).await;
        if first.is_err() {
            // Whatever it was: the store may have moved, or another process with another token stands in its place.
            *self.0.hub.lock().await = None;
        }
        match first {
            Err(PullError::Unauthorized) => Ok(self.hub().await?.pull(&self.0.store, &name, &artifact.digest).await?),
            other => Ok(other?),
        }
    }

    /// The platform's store. Asked for once, until it fails.
    async fn hub(&self) -> anyhow::Result<Client> {
        let mut hub = self.0.hub.lock().await;
        if let Some(client) = &*hub {
            return Ok(client.clone());
        }
        let subject = Subject::service(ServiceName::LocalOrchestrator, "store");
        let access: StoreAccess =
            self.0.bus.call(&subject, &(), None).await.context("asking the LO for the platform's store")?;
        let client = Client::new(&access.url, access.token)?;
        *hub = Some(client.clone());
        Ok(client)
    }

    /// Has an artifact pulled that a node asks for, and waits for it, for a while.
    async fn provide(&self, artifact: WantedArtifact) -> Availability {
        let mut failures = self.0.failures.subscribe();
        let before = failures.borrow_and_update().get(&artifact).copied();
        // Asked anew: the node may know of an adoption before its signal came here.
        let wanted = match self.ask_wanted().await {
            Ok(wanted) => Some(wanted),
            Err(_) => self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        match wanted {
            None => return Availability::Later(RETRY_AFTER),
            Some(wanted) if !wanted.contains(&artifact) => return Availability::Absent,
            Some(_) => self.0.look_again.notify_one(),
        }
        let arrival = async {
            loop {
                match self.holds(&artifact).await {
                    Ok(true) => return Availability::Here,
                    Ok(false) => {}
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "the store cannot be read");
                        return Availability::Later(RETRY_AFTER);
                    }
                }
                let ended = failures.changed().await;
                if ended.is_err() || failures.borrow_and_update().get(&artifact).copied() > before {
                    return Availability::Later(RETRY_AFTER);
                }
            }
        };
        timeout(WAIT, arrival).await.unwrap_or(Availability::Later(RETRY_AFTER))
    }
}

/// The nodes of the site: they all have the token that their LO gives them when they register.
#[derive(Clone)]
pub struct Nodes {
    fetcher: Fetcher,
    token: Digest,
}

impl Nodes {
    /// Admits this token.
    pub fn new(fetcher: Fetcher, token: &str) -> Self {
        Self { fetcher, token: Digest::of(token.as_bytes()) }
    }
}

impl Policy for Nodes {
    fn admits(&self, token: &str) -> bool {
        // Digests, so that the time of the comparison tells nothing of the token.
        Digest::of(token.as_bytes()) == self.token
    }

    async fn provide(&self, name: &RepositoryName, digest: &Digest) -> Availability {
        self.fetcher.provide(WantedArtifact { name: name.to_string(), digest: *digest }).await
    }
}
