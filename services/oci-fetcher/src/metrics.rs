//! What Prometheus sees of oci-fetcher.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Bytes that came from the platform's store.
pub static PULLED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("edgewright_oci_fetcher_pulled_bytes_total", "Bytes pulled from the platform's store")
        .expect(ONCE)
});

/// Artifacts that are wanted and not in the site's store yet.
pub static MISSING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("edgewright_oci_fetcher_missing_artifacts", "Artifacts that are wanted and not here")
        .expect(ONCE)
});
