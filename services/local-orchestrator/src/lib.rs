//! local-orchestrator: the head of a site, and the only writer of its streams DESIRED, STATE and EVENTS.
//!
//! Three connections: to the hub as the site, and to the site's own server as its orchestrator and as the front that nodes ask.
//! - `down`: a road brings what is desired of this site; it comes into force when it is exactly what a believed head was
//!   signed for, and the site's DESIRED is written from it.
//! - `up`: stores the reports of its nodes, and relays them.
//! - `nodes`: who may connect, which life of a node is the present one, who is heard; the hub's calls to them and their answers.
//!   It is the minter of its nodes' logins.
//! - `answers`: `svc.local-orchestrator.store`, `.artifacts`, `.artifact` and `.key` at the site; over HTTP and without the hub
//!   `GET /api/v1/status`, and `GET /v1/jwt/…` for nodes.
//!
//! Its folder holds what is in force with the number of the newest KEYS, what was fetched of the next set, and the incarnations.
//! It may die at any line, and lose that folder or any stream: the next look puts it right.
//!
//! The road is the bus; tests take others by [`run_by`].

mod answers;
mod config;
mod down;
mod metrics;
mod nodes;
mod pull;
mod refusals;
mod reported;
mod site;
mod up;

use std::{path::Path, sync::Arc};

use anyhow::Context;
use bus::{Bus, Members};
pub use config::Config;
use minter::Minter;
use renewal::Renewal;
use service::{BearerToken, TokenSecret};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use crate::down::{
    NodeDesired, Objection, Verdict,
    road::{Documents, Offer, Road, SignedHead, Traces, Wanted},
};
use crate::{
    answers::View,
    down::{Adopted, Adopter, Trust, roads::bus::BusRoad},
    nodes::{Admission, Incarnations, Pulses, Registrar},
    site::Site,
    up::{Relay, Reporter, Telemetry},
};

/// Runs the service until shutdown, with the bus as its only road. Fails when it cannot listen on `config.listen`, or
/// when a part of the service fails; the caller then starts it again.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await;
    let listener = listener.with_context(|| format!("listening on {} for the site's status", config.listen))?;
    run_on(listener, config, shutdown).await
}

/// Runs until shutdown on a listener that is open already; `config.listen` is not used.
pub async fn run_on(listener: TcpListener, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bus_road = |site: &Arc<Site>, adopted: &Adopted, data: &Path| {
        let road: Box<dyn Road> = Box::new(BusRoad::open(site.clone(), adopted.watch(), data)?);
        Ok(vec![road])
    };
    start(listener, config, bus_road, shutdown).await
}

/// Runs until shutdown with these roads and no others.
pub async fn run_by(
    roads: Vec<Box<dyn Road>>,
    listener: TcpListener,
    config: Config,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    start(listener, config, |_, _, _| Ok(roads), shutdown).await
}

async fn start(
    listener: TcpListener,
    config: Config,
    roads: impl FnOnce(&Arc<Site>, &Adopted, &Path) -> anyhow::Result<Vec<Box<dyn Road>>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // Readiness needs the site's own server alone: being without the hub is normal.
    let (bus, front) = (config.base.connect().await?, config.base.connect_front().await?);
    let (hub, minting) = (Bus::connect(&config.hub).await?, Bus::connect(&config.minter).await?);
    let data = &config.data;
    disk::make_private_folder(data).with_context(|| format!("making {}", data.display()))?;
    let adopted = Adopted::open(data)?;
    let site = Site::new(config.base.tenant, config.site, bus, front, hub);

    let in_force = adopted.watch();
    let pulses = Pulses::new(config.unreachable_after);
    let incarnations = Arc::new(Incarnations::open(data.join("incarnations")));
    let (admission, roll) = Admission::new(site.clone(), pulses.clone(), in_force.clone());
    let settings = minter::Settings {
        authority: config.authority,
        members: Members::Nodes,
        services: config.services,
        life: None,
        server: site.name.to_string(),
    };
    let minter = Minter::new(settings, roll);
    let registrar = Arc::new(Registrar {
        site: site.clone(),
        incarnations: incarnations.clone(),
        pulses: pulses.clone(),
        artifacts_url: config.artifacts_url,
        artifacts_secret: TokenSecret::new(&config.artifacts_secret),
        in_force: in_force.clone(),
        minter: minter.clone(),
    });
    let (telemetry, forwarder) = Telemetry::new(site.client.clone(), config.otlp_endpoint.as_deref())?;
    let trust = Trust::new(&config.root_key, site.tenant.clone(), site.client.clone())?;
    let roads = roads(&site, &adopted, data)?;
    let adopter = Adopter::new(site.clone(), trust, adopted, roads)?;
    let renewal = Renewal::new(&config.hub, &config.hub_minter, config.hub_minter_tls)?;
    let reporter = Reporter::new(site.clone(), registrar.clone(), pulses.clone(), telemetry);
    let view = View {
        site: site.clone(),
        in_force: in_force.clone(),
        pulses: pulses.clone(),
        incarnations: incarnations.clone(),
        login_expires: renewal.as_ref().map(Renewal::expires),
        token: BearerToken::new(&config.status_token),
    };

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    // A part that fails takes the others along, and the supervisor begins anew.
    let stop = shutdown.child_token();
    // Without the site's server nothing works but the status.
    parts.spawn(answers::http(listener, config.tls, view, minter.router(), stop.clone()));
    parts.spawn(admission.run(stop.clone()));
    parts.spawn(minter.run(minting, stop.clone()));
    if let Some(renewal) = renewal {
        parts.spawn(renewal.run(site.hub.clone(), stop.clone()));
    }
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        Some(ended) = parts.join_next() => {
            stop.cancel();
            return ended.context("a part of the local orchestrator")?;
        }
        () = streams_are_there(&site) => {
            parts.spawn(adopter.run(stop.clone()));
            parts.spawn(nodes::answer_desired(site.clone(), in_force.clone(), stop.clone()));
            parts.spawn(nodes::pass_calls(site.clone(), stop.clone()));
            parts.spawn(registrar.run(stop.clone()));
            parts.spawn(reporter.run(stop.clone()));
            parts.spawn(nodes::watch(site.clone(), pulses, in_force.clone(), stop.clone()));
            parts.spawn(nodes::learn(site.clone(), incarnations.clone(), stop.clone()));
            parts.spawn(Relay::new(site.clone(), incarnations).run(stop.clone()));
            parts.spawn(answers::endpoints(site.clone(), in_force, config.base.readiness, stop.clone()));
            if let Some(forwarder) = forwarder {
                parts.spawn(forwarder.run(stop.clone()));
            }
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
    process::within_grace(all, &shutdown).await
}

/// Waits for the site's server and makes its streams.
async fn streams_are_there(site: &Site) {
    let mut backoff = process::Backoff::new(bus::streams::FIRST_PAUSE, std::time::Duration::from_secs(5));
    loop {
        site.bus.connected().await;
        // Looked at before anybody writes, so that one that has lost something is found.
        let looked = async {
            site.ensure_streams().await?;
            site.look_at_state(Vec::new()).await
        };
        match looked.await {
            Ok(()) => return,
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the site's streams"),
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}
