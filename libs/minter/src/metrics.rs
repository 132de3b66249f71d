//! What Prometheus sees of a minter. The label `server` says of which server, for several may run in one process.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, IntGaugeVec, register_int_counter_vec, register_int_gauge_vec};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Answers to those who asked for a JWT.
pub static ANSWERS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests for a JWT by the status of the answer";
    register_int_counter_vec!("edgewright_minter_answers_total", help, &["server", "status"]).expect(ONCE)
});

/// Keys that the server refuses.
pub static REVOKED: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Keys that are revoked at the server";
    register_int_gauge_vec!("edgewright_minter_revoked_keys", help, &["server"]).expect(ONCE)
});

/// Connections that were ended because their key had too many, had sent too much, or was revoked.
pub static ENDED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Connections ended because their key had more than three, had sent too much or was revoked";
    register_int_counter_vec!("edgewright_minter_ended_connections_total", help, &["server"]).expect(ONCE)
});

/// How often a key was cut off for a while because it sent too much.
pub static FLOODS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "How often a key was cut off for a while because it sent far more than anybody has to say";
    register_int_counter_vec!("edgewright_minter_floods_total", help, &["server"]).expect(ONCE)
});

/// The JWT among those of connected members that ends first, as a Unix time; 0 when none ends.
pub static NEXT_EXPIRY: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Unix time at which the first JWT of a connected member expires, 0 for never";
    register_int_gauge_vec!("edgewright_minter_next_expiry_timestamp_seconds", help, &["server"]).expect(ONCE)
});
