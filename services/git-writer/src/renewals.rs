//! Which repositories have to be signed anew, so that a key can be revoked afterwards: those whose tip is signed by another
//! key than git-writer's, or carries another KEYS than the one in force. An order would put that right; a repository that
//! nobody orders anything for gets a commit that changes nothing else.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use git_state::{Repository, layout};
use identity::PublicKey;
use margo::{KeySet, RepositoryName, TenantName};
use tokio::{sync::Notify, task::spawn_blocking, time::Instant};
use tracing::{info, warn};

use crate::{config::Config, error::StoreError, metrics};

/// Repositories that are signed anew in one turn. Orders that come meanwhile are in the next one.
const AT_ONCE: usize = 32;

/// The pause before a repository is tried again that could not be signed, and before they are counted again.
const PAUSE: Duration = Duration::from_secs(60);

/// Returns the repositories that have to be signed anew before a key other than `own` is revoked: whose tip another key has
/// signed, or whose tip carries other KEYS. One that cannot be read is among them. Blocks.
pub fn outdated(
    folder: &Path,
    tenant: &TenantName,
    own: &PublicKey,
    keys: &[u8],
    keys_signature: &[u8],
) -> anyhow::Result<Vec<RepositoryName>> {
    let own = KeySet { tenant: tenant.clone(), number: 0, keys: vec![own.to_string()] };
    let is_current = |name: &RepositoryName| -> Result<bool, StoreError> {
        let Some(repository) = Repository::open(folder, tenant, name)? else { return Ok(true) };
        let Some(tip) = repository.tip()? else { return Ok(true) };
        if repository.verify(tip, &own).is_err() {
            return Ok(false);
        }
        let carries = |path, wanted: &[u8]| Ok::<_, StoreError>(repository.file(tip, path)?.as_deref() == Some(wanted));
        match name {
            RepositoryName::Fleet => Ok(true),
            RepositoryName::Client(_) => {
                Ok(carries(layout::KEYS, keys)? && carries(layout::KEYS_SIGNATURE, keys_signature)?)
            }
        }
    };
    let names = layout::repositories(folder, tenant).context("listing the repositories")?;
    Ok(names.into_iter().filter(|name| !is_current(name).unwrap_or(false)).collect())
}

fn outdated_of(config: &Config) -> anyhow::Result<Vec<RepositoryName>> {
    let (signing, keys) = config.read_keys()?;
    outdated(&config.repositories, &config.base.tenant, &signing.public(), &keys.bytes, &keys.signature)
}

/// The repositories that are still to be signed anew. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Renewals(Arc<State>);

#[derive(Default)]
struct State {
    /// When each is to be tried. `None` until they are counted.
    left: Mutex<Option<BTreeMap<RepositoryName, Instant>>>,
    counted: Notify,
}

impl Renewals {
    /// Finds out which repositories are to be signed anew, beside everything else. Returns when they are counted.
    pub async fn count(self, config: Config) {
        metrics::TO_SIGN.set(-1);
        loop {
            let config = config.clone();
            match spawn_blocking(move || outdated_of(&config)).await.context("looking at the repositories").flatten() {
                Ok(names) => {
                    info!(repositories = names.len(), "repositories are to be signed with the keys in force");
                    metrics::TO_SIGN.set(names.len() as i64);
                    let now = Instant::now();
                    self.with(|left| *left = Some(names.into_iter().map(|name| (name, now)).collect()));
                    self.0.counted.notify_one();
                    return;
                }
                Err(error) => warn!(error = format!("{error:#}"), "the repositories' signatures were not looked at"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until repositories are to be signed anew, and returns a few of them. Cancel-safe.
    pub async fn next(&self) -> Vec<RepositoryName> {
        loop {
            let (now, mut next) = (Instant::now(), None);
            let due: Vec<_> = self.with(|left| {
                let left = left.iter().flatten();
                let due = left.filter(|(_, at)| {
                    next = Some(next.map_or(**at, |next: Instant| next.min(**at)));
                    **at <= now
                });
                due.map(|(name, _)| name.clone()).take(AT_ONCE).collect()
            });
            if !due.is_empty() {
                return due;
            }
            tokio::select! {
                () = self.0.counted.notified() => {}
                () = process::due(next) => {}
            }
        }
    }

    /// A repository was committed to, and so signed with the keys in force.
    pub fn signed(&self, name: &RepositoryName) {
        let was_last = self.with(|left| {
            let Some(left) = left else { return false };
            left.remove(name).is_some() && left.is_empty()
        });
        if was_last {
            info!("every repository is signed with the keys in force: other keys may be revoked");
        }
    }

    /// A repository could not be signed now.
    pub fn failed(&self, name: &RepositoryName) {
        self.with(|left| {
            if let Some(at) = left.iter_mut().find_map(|left| left.get_mut(name)) {
                *at = Instant::now() + PAUSE;
            }
        });
    }

    /// How many are left; nobody knows before they are counted.
    pub fn left(&self) -> Option<usize> {
        self.with(|left| left.as_ref().map(BTreeMap::len))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Option<BTreeMap<RepositoryName, Instant>>) -> T) -> T {
        work(&mut self.0.left.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
