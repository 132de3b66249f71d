//! Which services answer, by the NATS service API.

use std::time::Duration;

use api::ServiceStatus;
use bus::{Bus, ServiceName};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// How long answers are waited for in all.
const PATIENCE: Duration = Duration::from_secs(1);

/// Silence after which nobody else is expected. Answers take under a millisecond in one house.
const SILENCE: Duration = Duration::from_millis(200);

/// The services that belong to every platform's centre.
pub(crate) const CENTRAL: [ServiceName; 7] = [
    ServiceName::ApiGateway,
    ServiceName::AppRegistry,
    ServiceName::DeploymentRegistry,
    ServiceName::GitWriter,
    ServiceName::GitObserver,
    ServiceName::StatusCollector,
    ServiceName::NodeCapabilities,
];

/// An answer to `$SRV.STATS`.
#[derive(Deserialize)]
struct Stats {
    name: String,
    id: String,
    version: String,
    started: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    num_requests: u64,
    #[serde(default)]
    num_errors: u64,
}

impl From<Stats> for ServiceStatus {
    fn from(Stats { name, id, version, started, endpoints }: Stats) -> Self {
        let requests = endpoints.iter().map(|endpoint| endpoint.num_requests).sum();
        let errors = endpoints.iter().map(|endpoint| endpoint.num_errors).sum();
        Self { name, id, version, started, requests, errors }
    }
}

/// Asks everybody, and takes what comes within a bounded time; sorted by name.
pub(crate) async fn services(bus: &Bus) -> anyhow::Result<Vec<ServiceStatus>> {
    let inbox = bus.client().new_inbox();
    let mut answers = bus.client().subscribe(inbox.clone()).await?;
    bus.client().publish_with_reply("$SRV.STATS", inbox, Bytes::new()).await?;
    let end = Instant::now() + PATIENCE;
    let mut services: Vec<ServiceStatus> = Vec::new();
    loop {
        let all_there = CENTRAL.iter().all(|name| services.iter().any(|service| service.name == name.as_str()));
        let until = if all_there { end.min(Instant::now() + SILENCE) } else { end };
        let Ok(Some(answer)) = timeout_at(until, answers.next()).await else { break };
        match serde_json::from_slice::<Stats>(&answer.payload) {
            Ok(stats) => services.push(stats.into()),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "an answer to $SRV.STATS not understood"),
        }
    }
    services.sort_by(|left, right| (&left.name, &left.id).cmp(&(&right.name, &right.id)));
    Ok(services)
}

/// Those of [`CENTRAL`] that did not answer.
pub(crate) fn missing(services: &[ServiceStatus]) -> Vec<String> {
    let silent = CENTRAL.iter().filter(|name| services.iter().all(|service| service.name != name.as_str()));
    silent.map(ToString::to_string).collect()
}
