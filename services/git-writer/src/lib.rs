//! git-writer: the only writer of the repositories.
//!
//! Reads the stream GIT_WRITES, the log, from its beginning, and purges it. A row of the log is committed when its number is
//! the next one of its source in its repository; it becomes one signed commit. The commits of a group of rows share one
//! sync, that of a journal, and one move of each branch. The tip of each repository says in its trailer `Handled` which
//! rows it holds, so nothing has to be remembered beside Git, and the process may die at any line. Announces
//! `git.committed.…`, answers `svc.git-writer.handled` and `svc.git-writer.refusals`.
//!
//! A repository that cannot be written stands still, which operators see, and is tried again; the others go on.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod config;
mod consume;
mod decode;
mod domain;
mod error;
mod handler;
mod inbox;
mod metrics;
mod refusals;
mod store;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use bus::{Bus, ServiceName, streams};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use crate::{
    config::{Config, Keys},
    domain::{ClientEdits, DeploymentEdit, Edits, Row},
    store::{Committed, Failed, Outcome, Queued, Store},
};
use crate::{
    consume::Committer,
    handler::{Answers, SharedStore},
    refusals::Refusals,
};

/// How often to look whether the log is still the same stream: the server tells nobody that a stream was deleted.
const LOOK: Duration = Duration::from_secs(5);

/// Commits what comes until shutdown. Returns an error when the keys cannot be read or another process writes the
/// repositories; a lost server or log is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bus = config.base.connect().await?;
    let readiness = config.base.readiness.clone();
    let store = spawn_blocking(move || Store::open(&config)).await.context("opening the repositories")??;
    let store: SharedStore = Arc::new(Mutex::new(store));
    let refusals = Refusals::default();

    let answers = Arc::new(Answers { store: store.clone(), refusals: refusals.clone() });
    let mut endpoints = bus.register(ServiceName::GitWriter, answers).await?;
    endpoints.verb("handled", Answers::handled).await?;
    endpoints.verb("refusals", Answers::refusals).await?;

    let read = || {
        let committer = Committer::new(bus.clone(), store.clone(), refusals.clone(), readiness.clone());
        read_log(&bus, committer, &shutdown)
    };
    service::reopening("the log", &bus, &readiness, &shutdown, read).await;
    endpoints.stop().await?;
    let rest = move || store.lock().unwrap_or_else(PoisonError::into_inner).rest();
    spawn_blocking(rest).await.context("resting")?.context("putting the repositories on the disk")
}

/// One life of the log's consumer: until shutdown, or until the log or the server is lost.
async fn read_log(bus: &Bus, committer: Committer, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let lost = lost(bus);
    committer.run(lost, shutdown).await
}

/// Returns when the log has to be opened again, with the reason. The consumer would not find out by itself: it would go
/// on asking for the messages of a stream that is gone.
async fn lost(bus: &Bus) -> anyhow::Error {
    let mut connections = bus.connections();
    connections.mark_unchanged();
    let mut identity = None;
    loop {
        tokio::select! {
            _ = connections.changed() => return anyhow!("the server was lost and is connected again"),
            () = tokio::time::sleep(LOOK) => {}
        }
        match bus.look_at(streams::GIT_WRITES).await {
            Ok(log) => {
                let found = streams::id(&log.config).to_owned();
                if *identity.get_or_insert_with(|| found.clone()) != found {
                    return anyhow!("the log was deleted and created again");
                }
            }
            // Not connected, or busy, or nobody makes it now: the next look will tell.
            Err(error) => debug!(error = format!("{error:#}"), "the log was not looked at"),
        }
    }
}
