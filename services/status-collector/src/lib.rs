//! Status collector: what nodes say of their deployments, now and before.
//!
//! The only writer of its database (current status, history, refusals) and the keeper of the hub's streams STATE, EVENTS
//! and DEAD_LETTERS. Reads `state.*.node.*.status` and `event.>`, answers `svc.status-collector.list`, `.history` and
//! `.refusals`. Keeps nothing in memory that the database does not hold, and acknowledges only what the database holds,
//! so it may die at any time.

mod collect;
mod config;
mod decode;
mod domain;
mod error;
mod handler;
mod store;

use std::{error::Error, time::Duration};

use anyhow::Context;
use api::{ById, Problem};
use bus::{Bus, Call, ServiceEndpoints, ServiceName};
pub use config::Config;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{collect::collect, error::StoreError, store::Store};

/// Between a failure of the bus or the database and the next attempt.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Collects until shutdown. What is in hand then is finished; what is not acknowledged comes again at the next start.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pool = ::store::open(&config.database).await?;
    let store = Store::open(pool, config.tenant).await.context("preparing the database of statuses")?;
    let bus = Bus::connect(&config.bus).await?;
    config.readiness.needs(&bus);
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        () = bus.connected() => {}
    }
    let endpoints = answer(&bus, &store).await?;
    while let Err(failure) = collect(&bus, &store, &config.readiness, &shutdown).await {
        config.readiness.not_ready(&format!("{failure:#}"));
        warn!(error = &*failure as &dyn Error, "collecting was interrupted");
        let connected_again = async {
            tokio::time::sleep(RETRY_DELAY).await;
            bus.connected().await;
        };
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = connected_again => {}
        }
    }
    endpoints.stop().await
}

/// Answers what is asked of the database.
async fn answer(bus: &Bus, store: &Store) -> anyhow::Result<ServiceEndpoints> {
    let mut endpoints = bus.register(ServiceName::StatusCollector).await?;
    let of = store.clone();
    let list = move |_: Call<()>| {
        let store = of.clone();
        async move { store.list().await.map_err(problem) }
    };
    endpoints.verb("list", list).await?;
    let of = store.clone();
    let history = move |call: Call<ById>| {
        let store = of.clone();
        async move { store.history(call.body.id).await.map_err(problem) }
    };
    endpoints.verb("history", history).await?;
    let of = store.clone();
    let refusals = move |_: Call<()>| {
        let store = of.clone();
        async move { store.refusals().await.map_err(problem) }
    };
    endpoints.verb("refusals", refusals).await?;
    Ok(endpoints)
}

fn problem(failure: StoreError) -> Problem {
    error!(error = &failure as &dyn Error, "statuses not read");
    match failure {
        StoreError::Database(_) => Problem::unavailable("the database of statuses cannot be read now; try again"),
        StoreError::Corrupt { .. } => Problem::internal(),
    }
}
