//! What Prometheus sees of local-orchestrator. The label `site` says which, for several may run in one process.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};

const ONCE: &str = "each metric is registered once, under a valid name";

/// The version of the manifest that is in force.
pub static MANIFEST_VERSION: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Manifest version in force at the site";
    register_int_gauge_vec!("edgewright_local_orchestrator_manifest_version", help, &["site"]).expect(ONCE)
});

/// Messages that the hub was asked to store, by what it answered.
pub static RELAYED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Messages of the site that the hub was asked to store, by its answer";
    let labels = &["site", "stream", "outcome"];
    register_int_counter_vec!("edgewright_local_orchestrator_relayed_messages_total", help, labels).expect(ONCE)
});

/// Reports of nodes: stored, refused, or neither (the node sends them again).
pub static REPORTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Reports of nodes by what became of them";
    register_int_counter_vec!("edgewright_local_orchestrator_reports_total", help, &["site", "outcome"]).expect(ONCE)
});

/// Groups of spans that were not sent on.
pub static TRACES_DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Reports whose spans the receiver of traces did not get";
    register_int_counter_vec!("edgewright_local_orchestrator_traces_dropped_total", help, &["site"]).expect(ONCE)
});
