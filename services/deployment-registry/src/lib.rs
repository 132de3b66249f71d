//! deployment-registry: the only writer of `assignments`, `orders` and `deployments`, and of `assignments/`,
//! `placements/` and the clients' repositories through git-writer.
//!
//! Answers `svc.deployment-registry.…`. An order is validated, placed, and its documents are built and checked whole;
//! then it, its deployments and its writes for Git are stored in one transaction, and only then it is accepted. From
//! there on it survives any crash: the outbox publishes what Git does not show yet. Places assignments on nodes that
//! come to match them, on a signal from node-capabilities and every minute.

mod config;
mod domain;
mod error;
mod evaluate;
mod git;
mod handler;
mod neighbours;
mod store;

use std::sync::Arc;

use anyhow::Context;
use bus::{Bus, Call, ServiceEndpoints, ServiceName};
use outbox::Outbox;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::{handler::Registry, neighbours::Neighbours, store::Store};

/// Runs the service until shutdown; then requests in work are finished.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Config { bus, readiness, tenant, database } = config;
    let pool = ::store::open(&database).await?;
    let outbox = Outbox::open(ServiceName::DeploymentRegistry, pool.clone()).await?;
    let store = Store::open(pool, outbox.clone(), tenant.clone()).await.context("preparing the database")?;
    let bus = Bus::connect(&bus).await?;
    readiness.needs(&bus);
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        () = bus.connected() => {}
    }
    let registry = Arc::new(Registry::new(tenant, store, outbox.clone(), Neighbours::new(bus.clone())));
    let endpoints = serve(&bus, &registry).await?;
    readiness.ready();

    // Requests end first: what they accept is still published.
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

async fn serve(bus: &Bus, registry: &Arc<Registry>) -> anyhow::Result<ServiceEndpoints> {
    let mut endpoints = bus.register(ServiceName::DeploymentRegistry).await?;
    endpoints.verb("create", bind(registry, Registry::create)).await?;
    endpoints.verb("update", bind(registry, Registry::update)).await?;
    endpoints.verb("remove", bind(registry, Registry::remove)).await?;
    endpoints.verb("get", bind(registry, Registry::get)).await?;
    endpoints.verb("list", bind(registry, Registry::list)).await?;
    endpoints.verb("orders", bind(registry, Registry::orders)).await?;
    endpoints.verb("deployments", bind(registry, Registry::deployments)).await?;
    endpoints.verb("evaluate", bind(registry, Registry::evaluate)).await?;
    Ok(endpoints)
}

fn bind<T, Fut>(
    registry: &Arc<Registry>,
    method: impl Fn(Arc<Registry>, Call<T>) -> Fut + Send + Sync + 'static,
) -> impl Fn(Call<T>) -> Fut + Send + Sync + 'static {
    let registry = registry.clone();
    move |call| method(registry.clone(), call)
}
