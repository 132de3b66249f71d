//! git-writer: the only writer of the repositories.
//!
//! Reads the stream GIT_WRITES, the log, from its beginning, and purges it. A row of the log is committed when its number is
//! the next one of its source in its repository; it becomes one signed commit. The commits of a group of rows share one
//! sync, that of a journal, and one move of each branch. The tip of each repository says in its trailer `Handled` which
//! rows it holds, so nothing has to be remembered beside Git, and the process may die at any line. Announces
//! `git.committed.…`, answers `svc.git-writer.handled`, `.refusals` and `.access`, and serves the repositories for reading.
//!
//! A client's row is committed together with the row of `fleet.git` that it follows from, or after it.
//!
//! Repositories whose tip was signed by another key, or carries other KEYS, are signed anew after a start, a few at a time
//! beside orders, so that the other key can be revoked.
//!
//! A repository that cannot be written stands still, which operators see, and is tried again; the others go on. What waits
//! for it is kept in memory as far as there is room, and not in the log: its sources publish it again until it is committed.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod aside;
mod config;
mod consume;
mod decode;
mod domain;
mod error;
mod git;
mod handler;
mod inbox;
mod levels;
mod metrics;
mod mirrors;
mod reader;
mod refusals;
mod renewals;
mod serve;
mod store;
mod upkeep;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use bus::{Bus, ServiceName, streams};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::debug;

pub use crate::{
    config::{Config, Keys},
    domain::{ClientEdits, DeploymentEdit, Edits, Row},
    inbox::MAX_ROWS,
    mirrors::{Layout, Mirror},
    renewals::outdated,
    serve::Serving,
    store::{Committed, Failed, Outcome, Queued, Store},
    upkeep::gather,
};
use crate::{
    consume::{Committer, Followers},
    handler::{Answers, READS},
    levels::Levels,
    mirrors::Mirrors,
    refusals::Refusals,
    renewals::Renewals,
    serve::Server,
    store::SharedStore,
    upkeep::Upkeep,
};

/// How often to look whether the log is still the same stream: the server tells nobody that a stream was deleted.
const LOOK: Duration = Duration::from_secs(5);

/// Commits what comes, and serves the repositories, until shutdown. Returns an error when the keys cannot be read, another process
/// writes the repositories, or the address is taken; a lost server or log is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bus = config.base.connect().await?;
    let readiness = config.base.readiness.clone();
    let (folder, tenant) = (config.repositories.clone(), config.base.tenant.clone());
    let (server, access) = Server::listen(&config.serving, folder.clone(), tenant.clone(), bus.clone()).await?;
    let (refusals, levels) = (Refusals::default(), Levels::default());
    let mirrors = Mirrors::new(config.mirrors.clone(), folder.clone(), tenant.clone(), refusals.clone());
    let renewals = Renewals::default();
    let count = renewals.clone().count(config.clone());
    let (store, reader) = spawn_blocking(move || {
        let store = Store::open(&config)?;
        let reader = store.reader(&config);
        anyhow::Ok((store, reader))
    })
    .await
    .context("opening the repositories")??;
    let store: SharedStore = Arc::new(Mutex::new(store));
    let upkeep = Upkeep::new(folder, tenant, store.clone(), refusals.clone());
    let followers = Followers { renewals: renewals.clone(), mirrors: mirrors.clone(), upkeep: upkeep.clone() };

    let answers = Answers {
        levels: levels.clone(),
        reader: Arc::new(reader),
        reads: Arc::new(Semaphore::new(READS)),
        refusals: refusals.clone(),
        access,
    };
    let answers = Arc::new(answers);
    let mut endpoints = bus.register(ServiceName::GitWriter, answers).await?;
    endpoints.verb("handled", Answers::handled).await?;
    endpoints.verb("refusals", Answers::refusals).await?;
    endpoints.verb("access", Answers::access).await?;

    let _counting = AbortOnDropHandle::new(tokio::spawn(count));
    let read = || {
        let (refusals, followers) = (refusals.clone(), followers.clone());
        let committer =
            Committer::new(bus.clone(), store.clone(), levels.clone(), refusals, readiness.clone(), followers);
        read_log(&bus, committer, &shutdown)
    };
    let served = async { server.run(shutdown.clone()).await.context("serving the repositories") };
    let committed = async {
        service::reopening("the log", &bus, &readiness, &shutdown, read).await;
        Ok(())
    };
    let mirrored = async { mirrors.clone().run(shutdown.clone()).await.context("pushing to mirrors") };
    let kept = async { upkeep.run(shutdown.clone()).await.context("looking after the repositories") };
    tokio::try_join!(served, committed, mirrored, kept)?;
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
