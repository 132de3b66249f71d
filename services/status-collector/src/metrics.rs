//! What Prometheus sees of status-collector.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Messages taken from STATE and EVENTS, by what became of them.
pub static MESSAGES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let name = "edgewright_status_collector_messages_total";
    register_int_counter_vec!(name, "Messages taken from STATE and EVENTS", &["outcome"]).expect(ONCE)
});

/// Transitions that nodes say they have dropped.
pub static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let name = "edgewright_status_collector_lost_transitions_total";
    register_int_counter!(name, "Transitions that nodes dropped because their spool was full").expect(ONCE)
});
