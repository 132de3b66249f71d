//! api-gateway: REST under `/api/v1` for people and programs. Owns the list of API tokens, and nothing else.
//!
//! Each route is one request on the bus to the service that owns the matter, with the token's name as the actor. Two
//! things are put together here: a deployment, of what is wanted and what is, and the status of the platform. An upload
//! streams through to app-registry over HTTP and never touches the bus.
//!
//! The attributes over the handlers are the one route table: router, OpenAPI document and the role that each route
//! demands are made from them (`routes.rs`). Nothing is kept in memory that a file or another service does not hold, so
//! it may die at any time.

mod access;
mod apps;
mod assignments;
mod config;
mod deployments;
mod discovery;
mod domain;
mod edge;
mod error;
mod extract;
mod routes;
mod sites;
mod status;
pub mod tokens;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bus::{Bus, ServiceName, Subject};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::Config;
pub use routes::openapi;

use crate::{access::Caller, error::Refusal, tokens::Tokens};

/// app-registry is in the same house: who does not take a connection by then is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What every handler shares.
struct Gateway {
    bus: Bus,
    http: reqwest::Client,
    tokens: Tokens,
    openapi: Bytes,
}

impl Gateway {
    /// Asks a service on the caller's behalf.
    async fn ask<T, R>(&self, service: ServiceName, verb: &str, body: &T, caller: &Caller) -> Result<R, Refusal>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        Ok(self.bus.call(&Subject::service(service, verb), body, Some(caller.name.as_str())).await?)
    }
}

/// Listens, and serves until shutdown.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for REST", config.listen))?;
    serve(listener, config, shutdown).await
}

/// Serves on a listener that is bound already; `config.listen` is not used.
pub async fn serve(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let tokens = Tokens::open(&config.tokens)?;
    let bus = Bus::connect(&config.bus).await?;
    config.readiness.needs(&bus);
    // Ours alone: a proxy of the environment would send uploads out of the house.
    let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).build();
    let http = http.context("preparing HTTP requests to app-registry")?;
    let (router, document) = routes::router();
    let openapi = document.to_pretty_json().context("writing the OpenAPI document")?.into();
    let gateway = Arc::new(Gateway { bus: bus.clone(), http, tokens, openapi });
    let router = edge::wrap(router, &document, gateway);
    info!(address = %listener.local_addr().context("asking for the address of REST")?, "REST is served");

    let served = service::http::serve(listener, router, shutdown.clone());
    let registered = async {
        tokio::select! {
            () = bus.connected() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let service = bus.register(ServiceName::ApiGateway).await?;
        config.readiness.ready();
        shutdown.cancelled().await;
        service.stop().await
    };
    service::within_grace(async { tokio::try_join!(served, registered).map(|_| ()) }, &shutdown).await
}
