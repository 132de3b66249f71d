//! oci-fetcher: the only writer of a site's content store.
//!
//! The service asks its LO which artifacts the adopted manifest names, pulls those that are missing, from the platform's
//! store or from a registry that the operator has named, and serves all of them to the nodes. It looks again on every change of desired state, on every connection, when
//! a node asks for an artifact that is not here, and on a timer. While the hub is away it serves what it has and goes on
//! trying. The store on disk is all its memory, so it may die at any time.

#![allow(missing_docs, reason = "only the program that starts the service sees its items, and most names say enough")]

mod config;
mod fetcher;
mod hours;
mod metrics;
mod sources;

use std::sync::Arc;

use anyhow::Context;
use bus::ServiceName;
use oci::ContentStore;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::{Config, Downloads};
pub use hours::{Hours, InvalidWindow, Window};
pub use sources::{Mirror, RegistryAccess, read_credentials};

use crate::fetcher::{Fetcher, Nodes};

/// Listens at `config.listen`, and fetches and serves until shutdown.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for nodes", config.listen))?;
    serve(listener, config, shutdown).await
}

/// Like [`run`], but serves on a listener that is bound already, so that a test may let the system choose the port.
pub async fn serve(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let store = ContentStore::open(config.data).await?;
    let bus = config.base.connect().await?;
    let fetcher = Fetcher::new(bus.clone(), store.clone(), config.hub_tls, config.downloads)?;
    let router = oci::server::router(store, Nodes::new(fetcher.clone(), &config.secret));

    let served = async {
        info!(address = ?listener.local_addr(), "artifacts are served");
        service::http::serve(listener, config.tls, router, shutdown.clone()).await
    };
    let fetched = async {
        let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
        let registration = bus.register(ServiceName::OciFetcher, Arc::new(())).await?;
        config.base.readiness.ready();
        fetcher.run(&config.client, &shutdown).await?;
        registration.stop().await
    };
    process::within_grace(async { tokio::try_join!(served, fetched).map(|_| ()) }, &shutdown).await
}
