//! Fetching: which artifacts are wanted, which of them are missing, and the pulls that bring them here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use api::{IsWanted, Problem, StoreAccess, WantedArtifact, WantedArtifacts};
use bus::{Bus, Pattern, ServiceName, Subject, trace};
use futures::{FutureExt, StreamExt};
use margo::{ClientName, Digest};
use oci::{
    Client, ContentStore, Limits, Platform, PullError, Registry, RepositoryName,
    registry::Pace,
    server::{Admission, Availability, Policy},
};
use process::{Backoff, jittered};
use service::{ClientConfig, Readers, TokenSecret};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty, info, info_span, warn};

use crate::{
    config::Downloads,
    hours::Hours,
    metrics,
    sources::{PULLS, Source, sources},
};

/// The pause after a first failed pull: a store that restarts is back within seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between pulls: a hub that was away for days is found again within a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The pause between two looks when nothing signals, and so the time that a lost signal costs.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// The shortest pause between two looks that nodes cause, because they ask again and again for what the hub cannot give.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest wait for hours that begin or end, after which the clock is asked again: it may have been set.
const ASK_CLOCK_AGAIN: Duration = Duration::from_secs(60);

/// How long a node's request waits for its artifact: less than the 30 s after which a node gives up a silent server.
const WAIT: Duration = Duration::from_secs(10);

/// After this time a node shall ask again for an artifact that is wanted but not here.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Pulls into the site's store what is wanted. A clone is cheap and shares everything.
#[derive(Clone)]
pub struct Fetcher(Arc<Shared>);

struct Shared {
    bus: Bus,
    store: ContentStore,
    /// What the certificate of the platform's store is verified with.
    hub_tls: Option<Arc<ClientConfig>>,
    /// A client of the platform's store as the LO last named it; `None` before the first pull and after a failed one.
    hub: tokio::sync::Mutex<Option<Client>>,
    /// The artifacts that the LO last named; `None` before its first answer.
    wanted: Mutex<Option<BTreeSet<WantedArtifact>>>,
    /// How often the pull of each manifest has failed since it last succeeded. Every end of a pull changes this, so whoever
    /// waits for an artifact looks again.
    failures: watch::Sender<BTreeMap<Manifest, u64>>,
    /// Told when a node asks for an artifact that is not here.
    look_again: Notify,
    /// Limits the pulls from the platform's store that run at the same time.
    places: Semaphore,
    limits: Limits,
    pace: Option<Arc<Pace>>,
    hours: Hours,
    platforms: Vec<Platform>,
    registries: BTreeMap<Registry, Source>,
}

/// A manifest by its name at the site and its digest, whichever registry it comes from.
type Manifest = (String, Digest);

fn manifest_of(artifact: &WantedArtifact) -> Manifest {
    (artifact.name.clone(), artifact.digest)
}

/// Why a pull has ended.
enum Ended {
    Pulled(u64),
    /// While the pull waited for its hours, the artifact ceased to be wanted.
    Unwanted,
    Failed(anyhow::Error),
}

impl Fetcher {
    /// Fails when the registries are described wrongly.
    pub fn new(
        bus: Bus,
        store: ContentStore,
        hub_tls: Option<Arc<ClientConfig>>,
        downloads: Downloads,
    ) -> anyhow::Result<Self> {
        let Downloads { limits, bytes_per_second, hours, platforms, registries } = downloads;
        let pace = bytes_per_second.map(|rate| Arc::new(Pace::new(rate)));
        let registries = sources(&registries, limits, pace.as_ref())?;
        Ok(Self(Arc::new(Shared {
            bus,
            store,
            hub_tls,
            hub: tokio::sync::Mutex::default(),
            wanted: Mutex::default(),
            failures: watch::Sender::default(),
            look_again: Notify::new(),
            places: Semaphore::new(PULLS),
            limits,
            pace,
            hours,
            platforms,
            registries,
        })))
    }

    /// Looks and pulls until shutdown. The blobs of a pull that shutdown cuts off are not pulled again at the next start.
    pub async fn run(&self, client: &ClientName, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut signals = self.0.bus.subscribe(Pattern::ChangedOf(client.clone())).await?;
        let mut connections = self.0.bus.connections();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut missing = BTreeSet::new();
        let mut in_work = BTreeSet::new();
        // Tasks of their own, so that no pull waits while the LO is asked, and several processors digest what comes.
        let mut pulls = JoinSet::new();
        let mut looked = Instant::now();
        let mut next_look = looked;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = pulls.join_next() => {
                    let (artifact, pulled): (WantedArtifact, bool) = ended.context("a pull ended by itself")?;
                    in_work.remove(&artifact);
                    if pulled {
                        missing.remove(&artifact);
                        backoff.reset();
                    } else {
                        next_look = next_look.min(Instant::now() + backoff.pause());
                    }
                    metrics::MISSING.set(missing.len() as i64);
                    continue;
                }
                () = self.0.look_again.notified() => {
                    next_look = next_look.min(looked + SHORTEST_PAUSE);
                    continue;
                }
                signal = signals.next() => {
                    signal.context("the subscription to changes of desired state ended")?;
                    // One adoption signals once for each node; one look serves them all.
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
            metrics::MISSING.set(missing.len() as i64);
            for artifact in &missing {
                if in_work.insert(artifact.clone()) {
                    let (fetcher, artifact) = (self.clone(), artifact.clone());
                    pulls.spawn(async move { fetcher.pull(artifact).await });
                }
            }
        }
    }

    /// The artifacts that are wanted and not here. Fails when the LO does not answer.
    async fn missing(&self) -> anyhow::Result<BTreeSet<WantedArtifact>> {
        let mut missing = BTreeSet::new();
        for artifact in self.ask_wanted().await.context("asking the LO for artifacts")? {
            // An artifact that cannot be looked up must not keep the others from coming; its pull tells why.
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

    /// Whether an artifact is wanted; `None` when nobody knows.
    async fn is_wanted(&self, artifact: &WantedArtifact) -> Option<bool> {
        // The LO is asked anew, because the node may know of an adoption before the signal of it came here.
        let subject = Subject::service(ServiceName::LocalOrchestrator, "artifact");
        match self.0.bus.call::<_, IsWanted>(&subject, artifact, None).await {
            Ok(answer) => Some(answer.wanted),
            Err(_) => self.was_wanted(artifact),
        }
    }

    /// Whether an artifact was wanted when the LO last named all; `None` when it never did.
    fn was_wanted(&self, artifact: &WantedArtifact) -> Option<bool> {
        let wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = wanted.as_ref()?;
        Some(wanted.iter().any(|one| one.name == artifact.name && one.digest == artifact.digest))
    }

    /// Pulls one artifact when there is a place, and returns whether nothing is left to do about it.
    async fn pull(&self, artifact: WantedArtifact) -> (WantedArtifact, bool) {
        let span = info_span!("pull", name = artifact.name, digest = %artifact.digest, trace_id = Empty);
        trace::continue_from(&span, None);
        let done = async {
            match self.pull_in_hours(&artifact).await {
                Ended::Pulled(bytes) => {
                    metrics::PULLED.inc_by(bytes);
                    info!(bytes, "artifact pulled");
                    true
                }
                Ended::Unwanted => true,
                Ended::Failed(error) => {
                    warn!(error = format!("{error:#}"), "artifact not pulled; trying again");
                    false
                }
            }
        }
        .instrument(span)
        .await;
        self.0.failures.send_modify(|failures| {
            if done {
                failures.remove(&manifest_of(&artifact));
            } else {
                *failures.entry(manifest_of(&artifact)).or_default() += 1;
            }
        });
        (artifact, done)
    }

    /// Pulls one artifact in the hours that are for it. What has come when they end stays, and the pull goes on with it when
    /// they begin again.
    async fn pull_in_hours(&self, artifact: &WantedArtifact) -> Ended {
        loop {
            if self.opened().await && self.was_wanted(artifact) == Some(false) {
                return Ended::Unwanted;
            }
            tokio::select! {
                pulled = self.try_pull(artifact) => return pulled.map_or_else(Ended::Failed, Ended::Pulled),
                () = self.closed() => info!("the hours for downloads are over; the rest waits for the next ones"),
            }
        }
    }

    /// Waits for the hours in which downloads are allowed. Returns whether there was something to wait for.
    async fn opened(&self) -> bool {
        let mut waited = false;
        loop {
            let wait = self.0.hours.until_open(second_of_day());
            if wait.is_zero() {
                return waited;
            }
            waited = true;
            sleep(wait.min(ASK_CLOCK_AGAIN)).await;
        }
    }

    /// Waits for the end of the hours in which downloads are allowed.
    async fn closed(&self) {
        loop {
            match self.0.hours.until_closed(second_of_day()) {
                None => std::future::pending().await,
                Some(Duration::ZERO) => return,
                Some(wait) => sleep(wait.min(ASK_CLOCK_AGAIN)).await,
            }
        }
    }

    async fn try_pull(&self, artifact: &WantedArtifact) -> anyhow::Result<u64> {
        let name: RepositoryName = artifact.name.parse()?;
        match &artifact.registry {
            None => {
                let _place = self.0.places.acquire().await.context("waiting for a place")?;
                self.pull_from_hub(&name, &artifact.digest).await
            }
            Some(registry) => {
                let registry: Registry = registry.parse()?;
                let source = self.0.registries.get(&registry);
                let source = source.with_context(|| {
                    format!("a deployment names registry {registry}, which is not among the [registries] of site.toml")
                })?;
                let _place = source.pulls.acquire().await.context("waiting for a place")?;
                source.pull(&self.0.store, &name, &artifact.digest, &self.0.platforms).await
            }
        }
    }

    async fn pull_from_hub(&self, name: &RepositoryName, digest: &Digest) -> anyhow::Result<u64> {
        let Shared { store, platforms, .. } = &*self.0;
        let first = self.hub().await?.pull_for(store, name, name, digest, platforms).await;
        if first.is_err() {
            // Whatever the reason: the store may have moved, or may have been given another token. The LO knows.
            *self.0.hub.lock().await = None;
        }
        match first {
            Err(PullError::Unauthorized) => {
                Ok(self.hub().await?.pull_for(store, name, name, digest, platforms).await?)
            }
            other => Ok(other?),
        }
    }

    /// A client of the platform's store. The LO is asked for its address and token once, until a pull fails.
    async fn hub(&self) -> anyhow::Result<Client> {
        let mut hub = self.0.hub.lock().await;
        if let Some(client) = &*hub {
            return Ok(client.clone());
        }
        let subject = Subject::service(ServiceName::LocalOrchestrator, "store");
        let access: StoreAccess =
            self.0.bus.call(&subject, &(), None).await.context("asking the LO for the platform's store")?;
        let client = Client::new(&access.url, access.token, self.0.hub_tls.as_ref())?;
        let client = client.limited(self.0.limits).paced(self.0.pace.clone());
        *hub = Some(client.clone());
        Ok(client)
    }

    /// Has an artifact pulled that a node asks for, and waits until it is here, its pull has failed, or [`WAIT`] is over.
    async fn provide(&self, artifact: WantedArtifact) -> Availability {
        let mut failures = self.0.failures.subscribe();
        let manifest = manifest_of(&artifact);
        let before = failures.borrow_and_update().get(&manifest).copied();
        match self.is_wanted(&artifact).await {
            None => return Availability::Later(RETRY_AFTER),
            Some(false) => return Availability::Absent,
            Some(true) => self.0.look_again.notify_one(),
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
                if ended.is_err() || failures.borrow_and_update().get(&manifest).copied() > before {
                    return Availability::Later(RETRY_AFTER);
                }
            }
        };
        timeout(WAIT, arrival).await.unwrap_or(Availability::Later(RETRY_AFTER))
    }
}

/// The second of the day in UTC.
#[expect(clippy::disallowed_methods, reason = "the hours in which a site may download are those of the wall clock")]
fn second_of_day() -> u32 {
    let second = jiff::Timestamp::now().as_second().rem_euclid(24 * 3600);
    u32::try_from(second).expect("a day has fewer seconds than 32 bits hold")
}

/// Decides who may read the store: each node of the site with the token that its LO gave it, while its key is in force.
#[derive(Clone)]
pub struct Nodes {
    fetcher: Fetcher,
    readers: Readers,
}

impl Nodes {
    pub fn new(fetcher: Fetcher, secret: &str) -> Self {
        let minter = Subject::service(ServiceName::LocalOrchestrator, "key");
        let readers = Readers::new(TokenSecret::new(secret), fetcher.0.bus.clone(), minter);
        Self { fetcher, readers }
    }
}

impl Policy for Nodes {
    async fn admit(&self, token: &str) -> Admission {
        Admission::of(self.readers.admit(token).await, RETRY_AFTER)
    }

    async fn provide(&self, name: &RepositoryName, digest: &Digest) -> Availability {
        self.fetcher.provide(WantedArtifact { name: name.to_string(), digest: *digest, registry: None }).await
    }
}
