//! What Prometheus sees of api-gateway.

use std::sync::LazyLock;

use prometheus::{HistogramVec, IntCounterVec, register_histogram_vec, register_int_counter_vec};

const ONCE: &str = "each metric is registered once, under a valid name";

/// Requests that were answered, refused ones included.
pub static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests answered.";
    register_int_counter_vec!("edgewright_api_gateway_requests_total", help, &["method", "route", "status"])
        .expect(ONCE)
});

/// From the head of a request to the head of its answer.
pub static REQUEST_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "From a request to its answer.";
    register_histogram_vec!("edgewright_api_gateway_request_seconds", help, &["method", "route"]).expect(ONCE)
});
