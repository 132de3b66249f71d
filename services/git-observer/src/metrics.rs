//! What Prometheus sees of git-observer.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Messages of nodes and heads that the hub has on its disk.
pub static PUBLISHED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("edgewright_git_observer_published_messages_total", "Messages published.").expect(ONCE)
});

/// Clients whose tip is refused now, so that what was published before stays in force.
pub static REFUSED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("edgewright_git_observer_refused_clients", "Clients whose tip is refused.").expect(ONCE)
});
