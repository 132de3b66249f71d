//! deployment-registry: the only writer of `assignments`, `orders` and `deployments`, and, through git-writer, of
//! `assignments/` and `placements/` in `fleet.git` and of the clients' repositories.
//!
//! Answers `svc.deployment-registry.…`. An order is validated and placed, and its documents are built and checked
//! whole. Then the order, its deployments and its writes for Git are stored in one transaction, and only then it is
//! accepted. From there on it survives any crash, because the outbox publishes what Git does not show yet. Places
//! assignments on nodes that come to match them, on a signal from node-capabilities and every minute.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod config;
mod domain;
mod error;
mod evaluate;
mod git;
mod handler;
mod metrics;
mod neighbours;
mod store;

use std::sync::Arc;

use ::store::Database;
use anyhow::Context;
use bus::{Bus, ServiceEndpoints, ServiceName};
use outbox::Outbox;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::{handler::Registry, neighbours::Neighbours, store::Store};

/// Runs the service until shutdown; then requests in work are finished, and what they accepted is published. Fails when
/// the database cannot be opened; a lost hub is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Config { base, database } = config;
    let database = Database::open(&database).await?;
    let outbox = Outbox::open(ServiceName::DeploymentRegistry, database.clone()).await?;
    let store = Store::open(database, outbox.clone(), base.tenant.clone()).await.context("preparing the database")?;
    let bus = base.connect().await?;
    let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
    let registry = Arc::new(Registry::new(base.tenant, store, Neighbours::new(bus.clone())));
    let endpoints = serve(&bus, &registry).await?;
    if let Some(()) = shutdown.run_until_cancelled(endpoints.reachable()).await {
        base.readiness.ready();
    }

    // Publishing ends after the requests, so that what the last of them accept is still published.
    let background = CancellationToken::new();
    let requests = async {
        shutdown.cancelled().await;
        let stopped = endpoints.stop().await;
        background.cancel();
        stopped
    };
    let evaluation = async {
        evaluate::run(&registry, &shutdown).await;
        Ok(())
    };
    let publishing = outbox.run(bus, background.clone());
    tokio::try_join!(requests, evaluation, publishing).map(|_| ())
}

async fn serve(bus: &Bus, registry: &Arc<Registry>) -> anyhow::Result<ServiceEndpoints<Registry>> {
    let mut endpoints = bus.register(ServiceName::DeploymentRegistry, registry.clone()).await?;
    endpoints.verb("create", Registry::create).await?;
    endpoints.verb("update", Registry::update).await?;
    endpoints.verb("remove", Registry::remove).await?;
    endpoints.verb("get", Registry::get).await?;
    endpoints.verb("list", Registry::list).await?;
    endpoints.verb("orders", Registry::orders).await?;
    endpoints.verb("deployment", Registry::deployment).await?;
    endpoints.verb("deployments", Registry::deployments).await?;
    endpoints.verb("evaluate", Registry::evaluate).await?;
    Ok(endpoints)
}
