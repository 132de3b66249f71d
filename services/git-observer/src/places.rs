//! How much git-observer does at once, by kind of work, so that none takes what another needs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Looks that are on the way from the signal to the site. Their waits for disk and hub overlap. The next ones wait on the
/// agenda, where a commit goes before a round.
const LOOKS: usize = 16;

/// Commits that are read at once for looks. It is work for processors more than for the disk.
const READS: usize = 4;

/// Publications at once. The hub holds at most 50 open batches.
const PUBLISHING: usize = 16;

/// Publications whose messages are read and compressed at once.
const BUILDS: usize = 2;

/// Asks of sites for which files are read or answers compressed at once, however many sites ask.
const ASKS: usize = 2;

/// The places for each kind of work.
pub struct Places {
    pub looks: Arc<Semaphore>,
    pub reads: Arc<Semaphore>,
    pub publishing: Arc<Semaphore>,
    pub builds: Arc<Semaphore>,
    pub asks: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        let [looks, reads, publishing, builds, asks] =
            [LOOKS, READS, PUBLISHING, BUILDS, ASKS].map(|count| Arc::new(Semaphore::new(count)));
        Self { looks, reads, publishing, builds, asks }
    }
}

/// Does work that blocks as soon as there is a place for it, and tells how long it took. The place is taken until the work has
/// ended, also when nobody waits for it any more.
pub async fn blocking<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<(T, Duration)> {
    let place = places.clone().acquire_owned().await.context("waiting for a place")?;
    let work = move || {
        let begin = Instant::now();
        let done = work();
        drop(place);
        (done, begin.elapsed())
    };
    spawn_blocking(work).await.context("work on a thread of its own")
}
