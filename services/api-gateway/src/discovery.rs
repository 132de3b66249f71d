//! Which services answer, asked with the NATS service API (`$SRV.STATS`).

use std::time::Duration;

use api::ServiceStatus;
use bus::{Bus, ServiceName, Tier};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

/// How long to wait for answers, in all.
const PATIENCE: Duration = Duration::from_secs(1);

/// After this silence no further answer is waited for, once all services have answered: only second processes of them
/// could still come. An answer takes less than a millisecond on one machine.
const SILENCE: Duration = Duration::from_millis(200);

/// An answer to `$SRV.STATS`, as far as it is shown.
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

/// Asks all services at once and returns what they answer within a second, sorted by name. A service that runs in
/// several processes is in it several times.
#[expect(
    clippy::disallowed_methods,
    reason = "this is an interface of every NATS service, of which `Subject` knows nothing"
)]
pub(crate) async fn services(bus: &Bus) -> anyhow::Result<Vec<ServiceStatus>> {
    let inbox = bus.client().new_inbox();
    let mut answers = bus.client().subscribe(inbox.clone()).await?;
    bus.client().publish_with_reply("$SRV.STATS", inbox, Bytes::new()).await?;
    let end = Instant::now() + PATIENCE;
    let mut services: Vec<ServiceStatus> = Vec::new();
    loop {
        let all_there =
            ServiceName::at(Tier::Hub).all(|name| services.iter().any(|service| service.name == name.as_str()));
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

/// The names of the central services that are not among those that answered.
pub(crate) fn missing(services: &[ServiceStatus]) -> Vec<String> {
    let silent = ServiceName::at(Tier::Hub).filter(|name| services.iter().all(|service| service.name != name.as_str()));
    silent.map(|name| name.to_string()).collect()
}
