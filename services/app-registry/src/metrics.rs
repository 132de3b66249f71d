//! What Prometheus sees of app-registry.

use std::sync::LazyLock;

use prometheus::{IntCounterVec, register_int_counter_vec};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Uploads that were answered, by HTTP status; refused ones are counted too.
pub static UPLOADS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("edgewright_app_registry_uploads_total", "Uploads by HTTP status", &["status"])
        .expect(ONCE)
});
