//! What Prometheus is told of a local orchestrator. The label `site` says which, for several may run in one process.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};

pub static MANIFEST_VERSION: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Manifest version in force at the site";
    register_int_gauge_vec!("edgewright_local_orchestrator_manifest_version", help, &["site"])
        .expect("the name is valid and registered once")
});

/// Messages that the hub has acknowledged.
pub static RELAYED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Messages of the site that the hub has stored";
    register_int_counter_vec!("edgewright_local_orchestrator_relayed_messages_total", help, &["site", "stream"])
        .expect("the name is valid and registered once")
});

/// Reports of nodes: stored, refused, or neither (the node sends them again).
pub static REPORTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Reports of nodes by what became of them";
    register_int_counter_vec!("edgewright_local_orchestrator_reports_total", help, &["site", "outcome"])
        .expect("the name is valid and registered once")
});

/// Groups of spans that were not sent on.
pub static TRACES_DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Reports whose spans the receiver of traces did not get";
    register_int_counter_vec!("edgewright_local_orchestrator_traces_dropped_total", help, &["site"])
        .expect("the name is valid and registered once")
});
