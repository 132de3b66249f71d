//! status-collector: what nodes report of their deployments, now and before.
//!
//! The service is the only writer of its database (current status, history, refusals) and keeps the hub's streams STATE,
//! EVENTS and DEAD_LETTERS in being. It reads `state.*.node.*.status` and `event.>`, and answers
//! `svc.status-collector.list`, `.history` and `.refusals`. It keeps nothing in memory that the database does not hold, and
//! acknowledges only what the database holds, so it may die at any time.

#![allow(missing_docs, reason = "only the program that starts the service sees its items, and most names say enough")]

mod batch;
mod config;
mod consume;
mod decode;
mod domain;
mod error;
mod handler;
mod metrics;
mod store;

use std::sync::Arc;

use ::store::Database;
use anyhow::Context;
use bus::{Bus, ServiceEndpoints, ServiceName};
pub use config::Config;
use tokio_util::sync::CancellationToken;

use crate::{consume::collect, store::Store};

/// Collects and answers until shutdown. A batch in hand is finished first; what is not acknowledged comes again at the next
/// start.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Config { base, database } = config;
    let database = Database::open(&database).await?;
    let store = Store::open(database, base.tenant.clone()).await.context("preparing the database of statuses")?;
    let bus = base.connect().await?;
    let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
    let endpoints = answer(&bus, &store).await?;
    let collect = || collect(&bus, &store, &base.readiness, &shutdown);
    service::reopening("reports of nodes", &bus, &base.readiness, &shutdown, collect).await;
    endpoints.stop().await
}

/// Registers the service on the bus; it answers from the database until the returned endpoints are stopped.
async fn answer(bus: &Bus, store: &Store) -> anyhow::Result<ServiceEndpoints<Store>> {
    let mut endpoints = bus.register(ServiceName::StatusCollector, Arc::new(store.clone())).await?;
    endpoints.verb("list", handler::list).await?;
    endpoints.verb("history", handler::history).await?;
    endpoints.verb("refusals", handler::refusals).await?;
    Ok(endpoints)
}
