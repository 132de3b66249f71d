//! git-writer: the only writer of the repositories.
//!
//! Owns the stream GIT_WRITES and reads it from its begin. A row is applied when its number is the next one of its source
//! in its repository, and makes one signed commit; a group of rows shares one sync and one move of each branch. How far
//! each source is handled stands in the tip (`Handled`), so nothing here has to be remembered: it may die at any line.
//! Announces `git.committed.…`, answers `svc.git-writer.handled` and `svc.git-writer.refusals`.
//!
//! A repository that cannot be written stands still, visibly, and is tried again; the others go on.

mod config;
mod domain;
mod error;
mod handler;
mod inbox;
mod metrics;
mod store;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, anyhow};
use async_nats::jetstream::{
    ErrorCode,
    context::{GetStreamError, GetStreamErrorKind},
};
use bus::{Bus, Call, ServiceName, streams};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use crate::config::Config;
use crate::{
    handler::{Committer, Refusals, SharedStore},
    store::Store,
};

/// Before the log is opened again after it was lost.
const PAUSE: Duration = Duration::from_millis(200);

/// Between looks whether the log is still the same one: nobody tells us that it was deleted.
const LOOK: Duration = Duration::from_secs(5);

/// Commits what comes until shutdown.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bus = Bus::connect(&config.bus).await?;
    let readiness = config.readiness.clone();
    readiness.needs(&bus);
    let store = spawn_blocking(move || Store::open(&config)).await.context("opening the repositories")??;
    let store: SharedStore = Arc::new(Mutex::new(store));
    let refusals = Refusals::default();

    let mut endpoints = bus.register(ServiceName::GitWriter).await?;
    let asked = store.clone();
    let handled = move |call: Call<api::HandledRequest>| handler::handled(asked.clone(), call.body.repository);
    endpoints.verb("handled", handled).await?;
    let listed = refusals.clone();
    endpoints.verb("refusals", move |_: Call<()>| std::future::ready(Ok(listed.list()))).await?;

    while !shutdown.is_cancelled() {
        let committer = Committer::new(bus.clone(), store.clone(), refusals.clone(), readiness.clone());
        let Err(error) = read_log(&bus, committer, &shutdown).await else { break };
        let reason = format!("{error:#}");
        warn!(reason, "the log is lost; looking again");
        readiness.not_ready(&reason);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    endpoints.stop().await
}

/// One life of the log's consumer: until shutdown, or until the log or the server is lost.
async fn read_log(bus: &Bus, committer: Committer, shutdown: &CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = bus.connected() => {}
    }
    let lost = lost(bus);
    let stream = bus.jetstream().get_or_create_stream(streams::git_writes()).await.context("creating the log")?;
    committer.run(stream, lost, shutdown).await
}

/// Ends when the log has to be opened again, and says why. The consumer would go on looking for what it has lost.
async fn lost(bus: &Bus) -> anyhow::Error {
    let mut connections = bus.connections();
    connections.mark_unchanged();
    let mut identity = None;
    loop {
        tokio::select! {
            _ = connections.changed() => return anyhow!("the server was lost and is connected again"),
            () = tokio::time::sleep(LOOK) => {}
        }
        match bus.jetstream().get_stream(streams::GIT_WRITES).await {
            Ok(stream) => {
                let found = streams::id(&stream.cached_info().config).to_owned();
                if *identity.get_or_insert_with(|| found.clone()) != found {
                    return anyhow!("the log was deleted and created again");
                }
            }
            Err(error) if is_missing(&error) => return anyhow!("the log was deleted"),
            // Not connected, or busy: the next look will tell.
            Err(_) => {}
        }
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
