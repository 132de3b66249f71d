//! What every service is told, whatever it does.

use std::sync::LazyLock;

use anyhow::Context;
use bus::{Bus, Dropped, Front, Login};
use margo::TenantName;
use prometheus::{IntCounterVec, register_int_counter_vec};

use crate::Readiness;

/// Requests of the tier below that were dropped without an answer, by reason. All services of a process count together.
static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "edgewright_bus_dropped_total",
        "Requests of sites or nodes that were dropped without an answer",
        &["reason"]
    )
    .expect("the name is registered once")
});

fn count_dropped(reason: Dropped) {
    DROPPED.with_label_values(&[reason.as_str()]).inc();
}

/// The part that the configurations of all services have in common.
#[derive(Clone)]
pub struct Base {
    /// How to connect to the NATS server of the hub or of the site, as the user that is this service's own.
    pub bus: Login,
    /// How to connect as the front of this service, on which it hears and answers the tier below. Only services that do so
    /// have one.
    pub front: Option<Login>,
    /// Told when the service can do its work, and when it cannot and why.
    pub readiness: Readiness,
    /// The only tenant that the service works for.
    pub tenant: TenantName,
}

impl Base {
    /// Connects to the NATS server. The service counts as not ready while this connection is lost. A server that is
    /// not there yet is no error; [`Bus::connected`] waits for it.
    pub async fn connect(&self) -> anyhow::Result<Bus> {
        let bus = Bus::connect(&self.bus).await?;
        self.readiness.needs(&bus);
        Ok(bus)
    }

    /// Connects to the same server as the front of this service. The service counts as not ready while this connection is
    /// lost. What is dropped there is counted (`edgewright_bus_dropped_total`). Fails when this service was given no front.
    pub async fn connect_front(&self) -> anyhow::Result<Front> {
        let login = self.front.as_ref().context("this service was given no login for its front")?;
        let front = Front::connect(login, count_dropped).await?;
        self.readiness.also_needs(front.bus());
        Ok(front)
    }
}
