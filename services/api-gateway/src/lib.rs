//! api-gateway: REST under `/api/v1` for people and programs. Owns the list of API tokens and nothing else.
//!
//! Each route is one request on the bus, on the caller's behalf, to the service that owns the matter. Only two answers
//! are put together here: a deployment, of what is wanted and what nodes say, and the status of the platform. An upload
//! streams through to app-registry over HTTP and never touches the bus.
//!
//! The attributes over the handlers are the one route table: router, OpenAPI document and the role that each route
//! demands are made from them (`routes.rs`). Nothing is kept in memory that a file or another service does not hold, so
//! the process may die at any time.

#![allow(
    missing_docs,
    reason = "nobody outside the workspace sees this crate; a doc comment is written where it says more than the name"
)]

mod access;
mod apps;
mod assignments;
mod calls;
mod config;
mod deployments;
mod discovery;
mod domain;
mod edge;
mod extract;
mod metrics;
mod routes;
mod sites;
mod status;
pub mod tokens;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use api::{Problem, TokenAsked, TokenHeld};
use bus::{Bus, Call, Caller, ServiceName, Subject, calls::Calls};
use bytes::Bytes;
use margo::TenantName;
use serde::{Serialize, de::DeserializeOwned};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::Config;
pub use routes::openapi;

use service::ProblemResponse;

use crate::tokens::Tokens;

/// How long to wait for a connection to app-registry. It stands in the same network, so a longer silence means that it
/// is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What every handler shares.
struct Gateway {
    bus: Bus,
    tenant: TenantName,
    /// For uploads to app-registry.
    http: reqwest::Client,
    tokens: Tokens,
    calls: Calls,
    /// The OpenAPI document as JSON.
    openapi: Bytes,
}

impl Gateway {
    /// Sends a request to a service on the caller's behalf and waits for its answer. A refusal of the service becomes
    /// the answer to the caller.
    async fn ask<T, R>(&self, service: ServiceName, verb: &str, body: &T, caller: &Caller) -> Result<R, ProblemResponse>
    where
        T: Serialize,
        R: DeserializeOwned,
    {
        let is_allowed = ServiceName::ApiGateway.service().asks.contains(&(service, verb));
        debug_assert!(is_allowed, "the table of services lets the gateway ask {service} for {verb}");
        Ok(self.bus.call(&Subject::service(service, verb), body, Some(caller)).await?)
    }

    /// Answers `svc.api-gateway.token`: whose token this is. Every token may read the repositories.
    async fn token(self: Arc<Self>, call: Call<TokenAsked>) -> Result<TokenHeld, Problem> {
        let held = self.tokens.find_digest(&call.body.digest);
        Ok(TokenHeld { name: held.map(|token| token.name.as_str().to_owned()) })
    }
}

/// Listens on the configured address and serves until shutdown. Fails when the address is taken or the list of tokens
/// cannot be read; a lost hub is waited for, and requests are refused meanwhile.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for REST", config.listen))?;
    serve(listener, config, shutdown).await
}

/// Serves on a listener that is bound already; `config.listen` is not used.
pub async fn serve(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let tokens = Tokens::open(&config.tokens)?;
    let (bus, front) = (config.base.connect().await?, config.base.connect_front().await?);
    let calls = Calls::new(bus.clone());
    // Without a proxy: one that the environment names would send uploads out of the platform's own network.
    let mut http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT);
    if let Some(tls) = &config.store_tls {
        http = http.tls_backend_preconfigured((**tls).clone());
    }
    let http = http.build().context("preparing HTTP requests to app-registry")?;
    let (router, document) = routes::router();
    let openapi = document.to_pretty_json().context("writing the OpenAPI document")?.into();
    let gateway =
        Arc::new(Gateway { bus: bus.clone(), tenant: config.base.tenant, http, tokens, calls: calls.clone(), openapi });
    let router = edge::wrap(router, &document, gateway.clone());
    info!(address = %listener.local_addr().context("asking for the address of REST")?, "REST is served");

    let served = service::http::serve(listener, config.tls, router, shutdown.clone());
    let registered = async {
        let Some(()) = shutdown.run_until_cancelled(bus.connected()).await else { return Ok(()) };
        let mut service = bus.register(ServiceName::ApiGateway, gateway).await?;
        service.verb("token", Gateway::token).await?;
        let parts = calls.take_parts(&front).await?;
        config.base.readiness.ready();
        shutdown.run_until_cancelled(parts).await;
        service.stop().await
    };
    process::within_grace(async { tokio::try_join!(served, registered).map(|_| ()) }, &shutdown).await
}
