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

use std::{sync::Arc, time::Duration};

use ::store::Database;
use anyhow::{Context, ensure};
use bus::{Bus, Pattern, ServiceEndpoints, ServiceName, SiteVerb, Subject};
use identity::random_token;
use margo::Digest;
use oci::{
    ContentStore, RepositoryName,
    server::{Admission, Availability},
};
use outbox::Outbox;
use service::{Readers, TokenSecret};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::Config;

use crate::{
    handler::{Handler, Store},
    store::Catalogue,
    tickets::Tickets,
    uploads::Uploads,
};

/// When a site shall come again that nobody could judge, because identity does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(5);

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
    let secret = TokenSecret::new(&random_token().context("making the secret of the store's tokens")?);
    let (bus, front) = (config.base.connect().await?, config.base.connect_front().await?);
    let minter = Subject::service(ServiceName::Identity, "key");
    let sites = Sites(Readers::new(secret.clone(), bus.clone(), minter.clone()));
    let uploads = Uploads::new(tickets.clone(), catalogue.clone(), content.clone());
    let router = uploads.router().merge(oci::server::router(content, sites));
    let store = Store { url: url.trim_end_matches('/').to_owned(), secret, bus: bus.clone(), minter };

    let served = async {
        info!(%address, "uploads and the store are served");
        service::http::serve(listener, config.tls, router, shutdown.clone()).await
    };
    let answered = async {
        let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
        let handler = Arc::new(Handler { tickets, catalogue, store });
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

/// Who may read the store: each site with the token that `site.*.store` answers it, while its key is in force. The secret
/// of the tokens is made anew with each start, and a site that is refused asks again.
#[derive(Clone)]
struct Sites(Readers);

impl oci::server::Policy for Sites {
    async fn admit(&self, token: &str) -> Admission {
        Admission::of(self.0.admit(token).await, RETRY_AFTER)
    }

    async fn provide(&self, _: &RepositoryName, _: &Digest) -> Availability {
        Availability::Absent
    }
}
