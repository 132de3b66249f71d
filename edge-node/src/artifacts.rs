//! Artifacts on this node's disk: pulled once from the site, verified before every use, then no network is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use margo::Digest;
use oci::{Client, ContentStore, Descriptor, PullError, StoreError, media};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{info, warn};

use process::Backoff;

use crate::{retry, status::Obstacle, wanted::ArtifactId};

/// Pulls at once: enough to hide the pauses of one, and the site has other nodes.
const CONCURRENCY: usize = 2;

/// Where artifacts are read.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// Base URL of the site's store.
    pub url: String,
    /// As a bearer token. A secret.
    pub token: String,
}

/// What is known of the site's store: the reporter learns it, the fetches use it.
#[derive(Default)]
pub struct SiteStore {
    access: watch::Sender<Option<Access>>,
    refused: Notify,
}

impl SiteStore {
    /// The site has said where to read.
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

/// A verified file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Where it is.
    pub path: PathBuf,
    /// sha256 of it.
    pub digest: Digest,
}

/// Why an artifact is not at hand.
struct Miss {
    obstacle: Obstacle,
    /// When the site says so.
    after: Option<Duration>,
}

enum Progress {
    Underway,
    Ready(Artifact),
    Missed { retry_at: Instant },
}

struct Known {
    progress: Progress,
    obstacle: Option<Obstacle>,
    backoff: Backoff,
}

/// The artifacts that workloads wait for.
pub struct Artifacts {
    store: ContentStore,
    site: Arc<SiteStore>,
    access: watch::Receiver<Option<Access>>,
    known: BTreeMap<ArtifactId, Known>,
    pulls: JoinSet<(ArtifactId, Result<Artifact, Miss>)>,
    slots: Arc<Semaphore>,
}

impl Artifacts {
    /// Artifacts in this store, pulled from this site.
    pub fn new(store: ContentStore, site: Arc<SiteStore>) -> Self {
        let access = site.access.subscribe();
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        Self { store, site, access, known: BTreeMap::new(), pulls: JoinSet::new(), slots }
    }

    /// Whether it is at hand. If not, it is fetched, unless the last attempt failed a moment ago.
    pub fn want(&mut self, id: &ArtifactId, now: Instant) -> bool {
        let fresh = || Known { progress: Progress::Missed { retry_at: now }, obstacle: None, backoff: retry::WORK };
        let known = self.known.entry(id.clone()).or_insert_with(fresh);
        match known.progress {
            Progress::Ready(_) => true,
            Progress::Missed { retry_at } if retry_at <= now => {
                known.progress = Progress::Underway;
                let access = self.access.borrow().clone();
                let (id, store, slots) = (id.clone(), self.store.clone(), self.slots.clone());
                self.pulls.spawn(async move {
                    let _slot = slots.acquire().await.expect("the semaphore is never closed");
                    let found = find(&store, access, &id).await;
                    (id, found)
                });
                false
            }
            Progress::Underway | Progress::Missed { .. } => false,
        }
    }

    /// Takes it when it is at hand; the next use verifies it again.
    pub fn take(&mut self, id: &ArtifactId) -> Option<Artifact> {
        match self.known.remove(id)? {
            Known { progress: Progress::Ready(artifact), .. } => Some(artifact),
            other => {
                self.known.insert(id.clone(), other);
                None
            }
        }
    }

    /// What the last attempt met.
    pub fn obstacle(&self, id: &ArtifactId) -> Option<&Obstacle> {
        self.known.get(id)?.obstacle.as_ref()
    }

    /// Forgets what nobody wants any more.
    pub fn retain(&mut self, wanted: &BTreeSet<&ArtifactId>) {
        self.known.retain(|id, _| wanted.contains(id));
    }

    /// When to ask again.
    pub fn retries(&self) -> impl Iterator<Item = Instant> {
        self.known.values().filter_map(|known| match known.progress {
            Progress::Missed { retry_at } => Some(retry_at),
            Progress::Underway | Progress::Ready(_) => None,
        })
    }

    /// Waits until asking again may help: an attempt ended, or the site said where to read. Cancel-safe.
    pub async fn changed(&mut self) {
        tokio::select! {
            Some(ended) = self.pulls.join_next() => match ended {
                Ok((id, found)) => self.ended(id, found),
                Err(error) => warn!(error = &error as &dyn std::error::Error, "a fetch ended by itself"),
            },
            Ok(()) = self.access.changed() => {
                for known in self.known.values_mut() {
                    if let Progress::Missed { retry_at } = &mut known.progress {
                        *retry_at = Instant::now();
                    }
                }
            }
        }
    }

    fn ended(&mut self, id: ArtifactId, found: Result<Artifact, Miss>) {
        let Some(known) = self.known.get_mut(&id) else { return };
        match found {
            Ok(artifact) => {
                known.progress = Progress::Ready(artifact);
                known.obstacle = None;
            }
            Err(Miss { obstacle, after }) => {
                warn!(artifact = %id.name, manifest = %id.manifest, code = obstacle.code, message = obstacle.message, "not fetched");
                if obstacle.code == "unauthorized" {
                    self.site.refused.notify_one();
                }
                let pause = known.backoff.pause();
                known.progress = Progress::Missed { retry_at: Instant::now() + after.unwrap_or(pause) };
                known.obstacle = Some(obstacle);
            }
        }
    }
}

/// From the disk if it is there, else from the site.
async fn find(store: &ContentStore, access: Option<Access>, id: &ArtifactId) -> Result<Artifact, Miss> {
    if let Ok(true) = store.holds(&id.name, &id.manifest).await
        && let Ok(artifact) = open(store, id).await
    {
        return Ok(artifact);
    }
    let Some(Access { url, token }) = access else {
        return Err(Miss::passing("fetch-failed", "the site has not yet said where artifacts are read"));
    };
    let client = Client::new(&url, token).map_err(|error| Miss::passing("fetch-failed", error))?;
    let bytes = client.pull(store, &id.name, &id.manifest).await?;
    info!(artifact = %id.name, manifest = %id.manifest, bytes, "fetched");
    open(store, id).await
}

/// The one file of a WebAssembly artifact, digested anew (DEV-28): it is about to be executed.
async fn open(store: &ContentStore, id: &ArtifactId) -> Result<Artifact, Miss> {
    let manifest = store.manifest(&id.manifest).await?;
    let [Descriptor { media_type, digest, .. }] = manifest.layers.as_slice() else {
        return Err(Miss::lasting("invalid-artifact", "the artifact must have exactly one layer"));
    };
    if media_type != media::WASM {
        let rule = format!("the artifact's layer must be {}, not {media_type}", media::WASM);
        return Err(Miss::lasting("invalid-artifact", rule));
    }
    Ok(Artifact { path: store.verified_path(digest).await?, digest: *digest })
}

impl Miss {
    fn passing(code: &'static str, message: impl ToString) -> Self {
        Self { obstacle: Obstacle { code, message: message.to_string(), lasting: false }, after: None }
    }

    fn lasting(code: &'static str, message: impl ToString) -> Self {
        Self { obstacle: Obstacle { code, message: message.to_string(), lasting: true }, after: None }
    }
}

impl From<StoreError> for Miss {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::WrongDigest { .. } => Self::lasting("digest-mismatch", error),
            StoreError::TooLarge { .. } => Self::lasting("digest-mismatch", error),
            StoreError::Manifest { .. } => Self::lasting("invalid-artifact", chain(&error)),
            StoreError::Absent(_) | StoreError::Io { .. } => Self::passing("fetch-failed", chain(&error)),
        }
    }
}

impl From<PullError> for Miss {
    fn from(error: PullError) -> Self {
        match error {
            PullError::Store(error) => error.into(),
            PullError::Unauthorized => Self::passing("unauthorized", error),
            PullError::Later(after) => Self { after: Some(after), ..Self::passing("fetch-failed", error) },
            PullError::Absent(_) | PullError::Status { .. } | PullError::Transport(_) => {
                Self::passing("fetch-failed", chain(&error))
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
