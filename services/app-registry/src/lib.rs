//! app-registry: the only writer of the table `apps`, of `apps/` in `fleet.git`, and of the platform's OCI store.
//!
//! Answers `svc.app-registry.…` and `site.*.store`. Uploads come over HTTP, each with a ticket that was asked for on
//! the bus; the same port serves the store to the sites. An upload is staged and checked whole before anything of it
//! counts. Then its content is moved into the store, and after that its row and its entry of the outbox are written in
//! one transaction. A crash in between leaves only content that nothing names, and the same upload again completes it.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod config;
mod domain;
mod error;
mod git;
mod handler;
mod metrics;
mod store;
mod tickets;
mod uploads;

use std::sync::Arc;

use ::store::Database;
use anyhow::{Context, ensure};
use api::StoreAccess;
use bus::{Bus, Pattern, ServiceEndpoints, ServiceName, SiteVerb};
use identity::random_token;
use margo::Digest;
use oci::{ContentStore, RepositoryName, server::Availability};
use outbox::Outbox;
use service::BearerToken;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::Config;

use crate::{handler::Handler, store::Catalogue, tickets::Tickets, uploads::Uploads};

/// Listens on the configured address and serves until shutdown. Fails when the address is taken or the database cannot
/// be opened; a lost hub is waited for.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for uploads and sites", config.listen))?;
    serve(listener, config, shutdown).await
}

/// Serves on a listener that is bound already; `config.listen` is not used.
pub async fn serve(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let address = listener.local_addr().context("asking for the address of the store")?;
    ensure!(
        config.public_url.is_some() || !address.ip().is_unspecified(),
        "app-registry listens on {address}, which is no address for sites: give the URL under which they reach it"
    );
    let url = config.public_url.unwrap_or_else(|| match config.tls {
        Some(_) => format!("https://{address}"),
        None => format!("http://{address}"),
    });

    let database = Database::open(&config.database).await?;
    let outbox = Outbox::open(ServiceName::AppRegistry, database.clone()).await?;
    let catalogue = Catalogue::open(database, outbox.clone(), config.base.tenant.clone()).await?;
    let content = ContentStore::open(config.store).await?;
    let tickets = Arc::new(Tickets::default());
    let token = random_token().context("making the token of the store")?;
    let readers = Readers(BearerToken::new(&token));
    let uploads = Uploads::new(tickets.clone(), catalogue.clone(), content.clone());
    let router = uploads.router().merge(oci::server::router(content, readers));
    let access = StoreAccess { url: url.trim_end_matches('/').to_owned(), token };
    let (bus, front) = (config.base.connect().await?, config.base.connect_front().await?);

    let served = async {
        info!(%address, "uploads and the store are served");
        service::http::serve(listener, config.tls, router, shutdown.clone()).await
    };
    let answered = async {
        let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
        let handler = Arc::new(Handler { tickets, catalogue, access });
        let endpoints = answer(&bus, handler.clone()).await?;
        let _sites = front.answer(Pattern::Sites(SiteVerb::Store), handler, Handler::store).await?;
        let reachable = async { tokio::join!(endpoints.reachable(), front.reachable()) };
        if shutdown.run_until_cancelled(reachable).await.is_some() {
            config.base.readiness.ready();
        }
        shutdown.cancelled().await;
        endpoints.stop().await
    };
    let published = outbox.run(bus.clone(), shutdown.clone());
    process::within_grace(async { tokio::try_join!(served, answered, published).map(|_| ()) }, &shutdown).await
}

/// Answers `svc.app-registry.…` until the returned endpoints are stopped.
async fn answer(bus: &Bus, handler: Arc<Handler>) -> anyhow::Result<ServiceEndpoints<Handler>> {
    let mut endpoints = bus.register(ServiceName::AppRegistry, handler).await?;
    endpoints.verb("upload", Handler::upload).await?;
    endpoints.verb("list", Handler::list).await?;
    endpoints.verb("get", Handler::get).await?;
    Ok(endpoints)
}

/// Who may read the store: whoever has the token that `site.*.store` answers, so every site. The token is made anew
/// with each start, and a site that is refused asks for it again.
#[derive(Clone)]
struct Readers(BearerToken);

impl oci::server::Policy for Readers {
    fn admits(&self, token: &str) -> bool {
        self.0.is(token)
    }

    async fn provide(&self, _: &RepositoryName, _: &Digest) -> Availability {
        Availability::Absent
    }
}
