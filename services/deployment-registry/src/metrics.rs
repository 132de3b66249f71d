//! What Prometheus sees of deployment-registry.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, register_int_counter_vec};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Orders that were accepted since the start, by kind.
pub static ORDERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Orders that were accepted.";
    register_int_counter_vec!("edgewright_deployment_registry_orders_total", help, &["kind"]).expect(ONCE)
});
