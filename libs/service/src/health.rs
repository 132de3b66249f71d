//! The addresses by which a process tells whether it lives and can work: `/healthz`, `/readyz` and `/metrics`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use bus::{Bus, ServiceName};
use prometheus::{Encoder, TextEncoder};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{ServerConfig, http};

/// What the services of this process say of themselves. Clones share what was said.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<ServiceName, Said>>>);

/// What one service says of itself.
#[derive(Default)]
struct Said {
    /// Why the service cannot do its work. `None` means that it can.
    not_ready: Option<String>,
    /// Whether the connection is up without which the service cannot work. It is not the connection itself, because
    /// that must end with the service that made it.
    needs: Vec<watch::Receiver<bool>>,
}

impl Said {
    fn state(&self) -> Option<String> {
        let lost = self.needs.iter().any(|up| !*up.borrow() || up.has_changed().is_err());
        self.not_ready.clone().or_else(|| lost.then(|| "not connected to NATS".to_owned()))
    }
}

impl Health {
    /// Adds a service, which is not ready until it says so.
    pub fn service(&self, name: ServiceName) -> Readiness {
        let readiness = Readiness { health: self.clone(), name };
        readiness.not_ready("starting");
        readiness
    }

    /// Returns whether every service is ready, and what each of them says.
    fn report(&self) -> (bool, Value) {
        let services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let states: BTreeMap<_, _> = services.iter().map(|(name, said)| (name, said.state())).collect();
        let ready = states.values().all(Option::is_none);
        (ready, json!({ "ready": ready, "services": states }))
    }

    /// Tells whether every service of this process is ready.
    pub fn is_ready(&self) -> bool {
        let services = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        services.values().all(|said| said.state().is_none())
    }
}

/// The means by which one service says whether it can do its work.
#[derive(Clone)]
pub struct Readiness {
    health: Health,
    name: ServiceName,
}

impl Readiness {
    /// Says that the service can do its work.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Says that the service cannot do its work, and why. `/readyz` shows the reason.
    pub fn not_ready(&self, why: &str) {
        self.set(Some(why.to_owned()));
    }

    /// Says that the service cannot work while this connection is lost. A connection that an earlier life of the
    /// service named no longer counts.
    pub fn needs(&self, bus: &Bus) {
        self.change(|said| said.needs = vec![bus.up()]);
    }

    /// Has the service count as not ready while this connection is lost, too.
    pub fn also_needs(&self, bus: &Bus) {
        self.change(|said| said.needs.push(bus.up()));
    }

    fn set(&self, state: Option<String>) {
        self.change(|said| said.not_ready = state);
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        let mut services = self.health.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(services.entry(self.name).or_default());
    }
}

/// Serves health and metrics until shutdown. `/healthz` answers 200 as long as the process lives. `/readyz` answers
/// 200 when every service is ready, and otherwise 503 with the reasons. `/metrics` answers with the default
/// registry as Prometheus text.
pub async fn serve(
    listen: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    health: Health,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("listening on {listen} for health checks"))?;
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health);
    http::serve(listener, tls, router, shutdown).await
}

async fn readyz(State(health): State<Health>) -> (StatusCode, Json<Value>) {
    let (ready, report) = health.report();
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(report))
}

async fn metrics() -> Result<Vec<u8>, StatusCode> {
    let mut text = Vec::new();
    TextEncoder::new().encode(&prometheus::gather(), &mut text).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(text)
}
