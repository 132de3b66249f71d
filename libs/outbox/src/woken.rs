//! What transactions have appended since the publisher looked last.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use margo::RepositoryName;
use tokio::sync::Notify;

/// The last number of each repository that was told: never more than one entry for each, however many rows there are.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    last: Mutex<BTreeMap<RepositoryName, u64>>,
    notify: Notify,
}

impl Woken {
    /// Tells the publisher of committed rows.
    pub fn tell(&self, appended: &[(RepositoryName, u64)]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for (repository, number) in appended {
            let told = last.entry(repository.clone()).or_default();
            *told = (*told).max(*number);
        }
        drop(last);
        self.notify.notify_one();
    }

    /// Takes what was told.
    pub fn take(&self) -> BTreeMap<RepositoryName, u64> {
        std::mem::take(&mut self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something was told since the last wait. Cancel-safe.
    pub async fn told(&self) {
        self.notify.notified().await;
    }
}
