//! Local orchestrator: the head of a site, and the only writer of its streams DESIRED, STATE and EVENTS.
//!
//! Two connections: to the hub as the site, to the site's own server as its orchestrator.
//! - Down: pulls what the hub desires of this site, stages it, adopts it when it is exactly what a believed head was
//!   signed for, and writes the site's DESIRED from it (`adoption`).
//! - Up: stores the reports of its nodes (`report`) and relays them (`relay`).
//! - Its nodes: who may connect (`admission`), which life of them is the present one (`register`), who is heard
//!   (`health`).
//! - Answers `svc.local-orchestrator.store` and `.artifacts` at the site, and `GET /api/v1/status` without the hub.
//!
//! Its folder holds what is in force, what is staged, the number of the newest KEYS, the incarnations and the list of
//! nodes. It may die at any line, and lose that folder or any stream: the next look puts it right.

mod admission;
mod adoption;
mod config;
mod endpoints;
mod files;
mod health;
mod http;
mod incarnations;
mod metrics;
mod pull;
mod refusals;
mod register;
mod relay;
mod report;
mod site;
mod telemetry;

use std::sync::Arc;

use anyhow::Context;
use bus::Bus;
pub use config::Config;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admission, adoption::Adopter, health::Pulses, http::View, incarnations::Incarnations,
    register::Registrar, relay::Relay, report::Reporter, site::Site, telemetry::Telemetry,
};

/// Runs until shutdown.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for the site's status", config.listen))?;
    run_on(listener, config, shutdown).await
}

/// The same on a listener that is open already; `config.listen` is not used.
pub async fn run_on(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (bus, hub) = (Bus::connect(&config.bus).await?, Bus::connect(&config.hub).await?);
    let reloader = Bus::connect(&config.reloader).await?;
    // Its own server's: being without the hub is normal.
    config.readiness.needs(&bus);
    let site = Site::new(config.tenant, config.site, bus, hub);
    let data = &config.data;
    std::fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;

    let pulses = Pulses::new(config.unreachable_after);
    let incarnations = Arc::new(Incarnations::open(data.join("incarnations.json"))?);
    let registrar = Arc::new(Registrar {
        site: site.clone(),
        incarnations: incarnations.clone(),
        pulses: pulses.clone(),
        artifacts_url: config.artifacts_url,
        artifacts_token: config.artifacts_token,
        deciding: tokio::sync::Mutex::default(),
    });
    let (telemetry, forwarder) = Telemetry::new(site.client.clone(), config.otlp_endpoint.as_deref())?;
    let adopter = Adopter::open(site.clone(), &config.root_key, data)?;
    let list_file = data.join("nodes.json");
    let admission =
        Admission::open(site.clone(), pulses.clone(), reloader, config.users_file, config.own_users, list_file)?;
    let reporter = Reporter::new(site.clone(), incarnations.clone(), registrar.clone(), pulses.clone(), telemetry);
    let view = View { site: site.clone(), pulses: pulses.clone(), incarnations, token: config.status_token };

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    // A part that fails takes the others along, and the supervisor begins anew.
    let stop = shutdown.child_token();
    // Without the site's server nothing works but the status.
    parts.spawn(http::serve(listener, view, stop.clone()));
    parts.spawn(admission.run(stop.clone()));
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        Some(ended) = parts.join_next() => {
            stop.cancel();
            return ended.context("a part of the local orchestrator")?;
        }
        () = streams_are_there(&site) => {
            parts.spawn(adopter.run(stop.clone()));
            parts.spawn(registrar.run(stop.clone()));
            parts.spawn(reporter.run(stop.clone()));
            parts.spawn(health::run(site.clone(), pulses, stop.clone()));
            parts.spawn(Relay::of_events(site.clone()).run(stop.clone()));
            parts.spawn(Relay::of_state(site.clone()).run(stop.clone()));
            parts.spawn(endpoints::run(site.clone(), adoption::open_adopted(data)?, stop.clone()));
            if let Some(forwarder) = forwarder {
                parts.spawn(forwarder.run(stop.clone()));
            }
            config.readiness.ready();
        }
    }
    let all = async {
        while let Some(ended) = parts.join_next().await {
            let ended = ended.context("a part of the local orchestrator").flatten();
            if ended.is_err() || !shutdown.is_cancelled() {
                stop.cancel();
                ended?;
            }
        }
        Ok(())
    };
    service::within_grace(all, &shutdown).await
}

/// Waits for the site's server and makes its streams.
async fn streams_are_there(site: &Site) {
    let mut backoff = service::Backoff::new(std::time::Duration::from_millis(100), std::time::Duration::from_secs(5));
    loop {
        site.bus.connected().await;
        match site.ensure_streams().await {
            Ok(()) => return,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the site's streams"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}
