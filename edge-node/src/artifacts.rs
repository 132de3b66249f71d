//! The content that workloads need, on this node's disk: pulled once from the site, verified before every use, then no
//! network is needed. Which content that is, the runtimes know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use identity::tls::ClientConfig;
use margo::{DeploymentId, Digest};
use oci::{Client, ContentStore, PullError, StoreError};
use process::{Backoff, chain};
use runtime::{Artifact, ContentKind, Need, Runtime, RuntimeError, Workload, WorkloadId};
use tokio::{
    sync::{Notify, Semaphore, oneshot, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    resolve::{Launch, Resolved},
    retry,
    status::Obstacle,
};

/// Fetches at once: enough to hide the pauses of one, and the site has other nodes. Content that is on the disk waits for
/// no fetch.
const CONCURRENCY: usize = 2;

/// How often content that has arrived may name more. An index names manifests and they name blobs: three would do.
const MAX_ROUNDS: usize = 10;

/// The site's store and the token for it, as the answer to a registration names them.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// Base URL of the site's store.
    pub url: String,
    /// The bearer token. A secret.
    pub token: String,
}

/// What is known of the site's store: the reporter learns it, the fetches use it.
#[derive(Default)]
pub struct SiteStore {
    access: watch::Sender<Option<Access>>,
    refused: Notify,
}

impl SiteStore {
    /// Takes what the site has said about where to read.
    pub fn set(&self, access: Access) {
        self.access.send_if_modified(|held| {
            let differs = held.as_ref() != Some(&access);
            *held = Some(access);
            differs
        });
    }

    /// Waits until the store refuses the token: the site has a new one.
    pub async fn refused(&self) {
        self.refused.notified().await;
    }
}

/// Why content is not at hand.
struct Miss {
    obstacle: Obstacle,
    /// When to ask again, where the site says so.
    after: Option<Duration>,
}

enum State {
    Underway,
    Ready(Box<Workload>),
    Missed { retry_at: Instant },
}

struct Fetch {
    digest: Digest,
    state: State,
    obstacle: Option<Obstacle>,
    backoff: Backoff,
}

type Found = (WorkloadId, Digest, Result<Workload, Miss>);

/// The content that workloads wait for.
pub struct Artifacts {
    source: Source,
    site: Arc<SiteStore>,
    access: watch::Receiver<Option<Access>>,
    fetches: BTreeMap<WorkloadId, Fetch>,
    tasks: JoinSet<Found>,
}

/// Where content comes from: the disk, else the site.
#[derive(Clone)]
struct Source {
    store: ContentStore,
    access: Option<Access>,
    /// What the certificate of the site's store is verified with.
    tls: Option<Arc<ClientConfig>>,
    slots: Arc<Semaphore>,
    underway: Arc<Mutex<BTreeMap<Digest, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Artifacts {
    /// Content in this store, pulled from this site.
    pub fn new(store: ContentStore, site: Arc<SiteStore>, tls: Option<Arc<ClientConfig>>) -> Self {
        let access = site.access.subscribe();
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let source = Source { store, access: None, tls, slots, underway: Arc::default() };
        Self { source, site, access, fetches: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Returns the workload when everything that it needs is at hand. If not, that is fetched, unless the last attempt
    /// failed a moment ago.
    pub fn want(
        &mut self,
        resolved: &Resolved,
        launch: &Launch,
        runtime: &Arc<dyn Runtime>,
        now: Instant,
    ) -> Option<&Workload> {
        self.begin(resolved, launch, runtime, now, None);
        match &self.fetches[&resolved.id].state {
            State::Ready(workload) => Some(workload),
            State::Underway | State::Missed { .. } => None,
        }
    }

    /// Begins to fetch and to verify what a workload needs, before anybody can want it. The receiver gets the workload
    /// once everything is at hand, and nothing when that was begun before or fails.
    pub fn want_early(
        &mut self,
        resolved: &Resolved,
        launch: &Launch,
        runtime: &Arc<dyn Runtime>,
        now: Instant,
    ) -> oneshot::Receiver<Workload> {
        let (ready, receiver) = oneshot::channel();
        self.begin(resolved, launch, runtime, now, Some(ready));
        receiver
    }

    fn begin(
        &mut self,
        resolved: &Resolved,
        launch: &Launch,
        runtime: &Arc<dyn Runtime>,
        now: Instant,
        ready: Option<oneshot::Sender<Workload>>,
    ) {
        let fresh = || Fetch {
            digest: resolved.digest,
            state: State::Missed { retry_at: now },
            obstacle: None,
            backoff: retry::WORK,
        };
        let fetch = self.fetches.entry(resolved.id.clone()).or_insert_with(fresh);
        if fetch.digest != resolved.digest {
            *fetch = fresh();
        }
        if matches!(fetch.state, State::Missed { retry_at } if retry_at <= now) {
            fetch.state = State::Underway;
            let source = Source { access: self.access.borrow().clone(), ..self.source.clone() };
            let (id, digest) = (resolved.id.clone(), resolved.digest);
            let (launch, runtime) = (launch.clone(), runtime.clone());
            self.tasks.spawn(async move {
                let found = source.find(id.clone(), digest, launch, &*runtime).await;
                if let (Some(ready), Ok(workload)) = (ready, &found) {
                    // Nobody waits any more when a newer desired state was adopted.
                    let _unwanted = ready.send(workload.clone());
                }
                (id, digest, found)
            });
        }
    }

    /// Takes note of all attempts that have ended, without waiting for more.
    pub fn settle(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            self.joined(ended);
        }
    }

    /// Takes a workload whose content is at hand; the next use verifies it again.
    pub fn take(&mut self, id: &WorkloadId) -> Option<Box<Workload>> {
        match self.fetches.remove(id)? {
            Fetch { state: State::Ready(workload), .. } => Some(workload),
            other => {
                self.fetches.insert(id.clone(), other);
                None
            }
        }
    }

    /// Returns what the last attempt met.
    pub fn obstacle(&self, id: &WorkloadId) -> Option<&Obstacle> {
        self.fetches.get(id)?.obstacle.as_ref()
    }

    /// Forgets what nobody wants any more.
    pub fn retain(&mut self, wanted: &BTreeMap<&WorkloadId, &Digest>) {
        self.fetches.retain(|id, fetch| wanted.get(id).copied() == Some(&fetch.digest));
    }

    /// Returns the times at which to ask again.
    pub fn retries(&self) -> impl Iterator<Item = Instant> {
        self.fetches.values().filter_map(|fetch| match fetch.state {
            State::Missed { retry_at } => Some(retry_at),
            State::Underway | State::Ready(_) => None,
        })
    }

    /// Has what is missing of a deployment asked for again at once.
    pub fn retry(&mut self, deployment: &DeploymentId, now: Instant) {
        for (_, fetch) in self.fetches.iter_mut().filter(|(id, _)| id.deployment == *deployment) {
            if let State::Missed { retry_at } = &mut fetch.state {
                *retry_at = now;
            }
        }
    }

    /// Waits until asking again may help: an attempt ended, or the site said where to read. Cancel-safe.
    pub async fn changed(&mut self) {
        tokio::select! {
            Some(ended) = self.tasks.join_next() => self.joined(ended),
            Ok(()) = self.access.changed() => {
                for fetch in self.fetches.values_mut() {
                    if let State::Missed { retry_at } = &mut fetch.state {
                        *retry_at = Instant::now();
                    }
                }
            }
        }
    }

    fn joined(&mut self, ended: Result<Found, JoinError>) {
        match ended {
            Ok(found) => self.ended(found),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "a fetch ended by itself"),
        }
    }

    fn ended(&mut self, (id, digest, found): Found) {
        let Some(fetch) = self.fetches.get_mut(&id).filter(|fetch| fetch.digest == digest) else { return };
        match found {
            Ok(workload) => {
                fetch.state = State::Ready(Box::new(workload));
                fetch.obstacle = None;
            }
            Err(Miss { obstacle, after }) => {
                warn!(workload = %id, code = %obstacle.code, message = obstacle.message, "not fetched");
                if obstacle.code == UNAUTHORIZED {
                    self.site.refused.notify_one();
                }
                let pause = fetch.backoff.pause();
                fetch.state = State::Missed { retry_at: Instant::now() + after.unwrap_or(pause) };
                fetch.obstacle = Some(obstacle);
            }
        }
    }
}

const UNAUTHORIZED: &str = "unauthorized";

impl Source {
    /// Brings everything that a workload needs onto the disk, verified.
    async fn find(
        &self,
        id: WorkloadId,
        digest: Digest,
        launch: Launch,
        runtime: &dyn Runtime,
    ) -> Result<Workload, Miss> {
        let Launch { artifact, values, images, settings, .. } = launch;
        let manifest = Need {
            repository: artifact.name.clone(),
            kind: ContentKind::Manifest,
            digest: artifact.manifest,
            size: oci::MAX_MANIFEST,
        };
        self.bring(&manifest).await?;
        let content = self.store.manifest(&artifact.manifest).await?;
        let artifact = Artifact { repository: artifact.name, digest: artifact.manifest, manifest: content };
        let workload = Workload { id, digest, artifact, values, images, settings, content: self.store.clone() };
        let mut brought = BTreeSet::new();
        for _ in 0..MAX_ROUNDS {
            let needs = runtime.needs(&workload).await?;
            let missing: Vec<_> = needs.into_iter().filter(|need| !brought.contains(&need.digest)).collect();
            if missing.is_empty() {
                return Ok(workload);
            }
            for need in missing {
                self.bring(&need).await?;
                brought.insert(need.digest);
            }
        }
        Err(Miss::lasting("invalid-artifact", "content names more content again and again"))
    }

    /// Has this content on the disk, digested anew (DEV-28): it is about to be executed.
    async fn bring(&self, need: &Need) -> Result<(), Miss> {
        match self.store.verified_path(&need.digest).await {
            Ok(_) => return Ok(()),
            // What was damaged is removed by now.
            Err(StoreError::Absent(_) | StoreError::WrongDigest { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(Access { url, token }) = &self.access else {
            return Err(Miss::passing("fetch-failed", "the site has not yet said where artifacts are read"));
        };
        // Two workloads may need the same content: the second finds it on the disk.
        let alone = self.alone(need.digest);
        let _alone = alone.lock().await;
        let _slot = self.slots.acquire().await.map_err(|closed| Miss::passing("fetch-failed", closed))?;
        let client =
            Client::new(url, token.clone(), self.tls.as_ref()).map_err(|error| Miss::passing("fetch-failed", error))?;
        let Need { repository, kind, digest, size } = need;
        let bytes = match kind {
            ContentKind::Manifest => client.pull_manifest(&self.store, repository, digest).await?,
            ContentKind::Blob => client.pull_blob(&self.store, repository, digest, *size).await?,
        };
        info!(repository = %repository, %digest, bytes, "fetched");
        Ok(())
    }

    /// Returns what the fetches of one digest take turns with.
    fn alone(&self, digest: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        underway.retain(|_, turn| turn.strong_count() > 0);
        let held = underway.get(&digest).and_then(Weak::upgrade);
        let turn = held.unwrap_or_default();
        underway.insert(digest, Arc::downgrade(&turn));
        turn
    }
}

impl Miss {
    fn passing(code: &'static str, message: impl ToString) -> Self {
        Self { obstacle: Obstacle::passing(code, message), after: None }
    }

    fn lasting(code: &'static str, message: impl ToString) -> Self {
        Self { obstacle: Obstacle::lasting(code, message), after: None }
    }
}

impl From<RuntimeError> for Miss {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::Invalid(rule) => Self::lasting("invalid-artifact", rule),
            error => Self::passing("runtime", chain(&error)),
        }
    }
}

impl From<StoreError> for Miss {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::WrongDigest { .. } | StoreError::TooLarge { .. } => Self::lasting("digest-mismatch", error),
            StoreError::Manifest { .. } => Self::lasting("invalid-artifact", chain(&error)),
            StoreError::Absent(_) | StoreError::NoSpace { .. } | StoreError::Io { .. } => {
                Self::passing("fetch-failed", chain(&error))
            }
        }
    }
}

impl From<PullError> for Miss {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Store(error) => error.into(),
            PullError::Unauthorized => Self::passing(UNAUTHORIZED, error),
            PullError::Later(after) => {
                Self { after: Some(after.min(retry::LONGEST)), ..Self::passing("fetch-failed", error) }
            }
            PullError::Absent(_) | PullError::Status { .. } | PullError::Transport(_) | PullError::Registry(_) => {
                Self::passing("fetch-failed", chain(&error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_site_that_says_never_is_asked_again_within_minutes() {
        let Miss { after, .. } = PullError::Later(Duration::MAX).into();
        let now = Instant::now();
        assert!(now + after.unwrap() <= now + Duration::from_secs(300));
    }
}
