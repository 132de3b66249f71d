//! Logs and traces of a test.

use std::sync::LazyLock;

use process::{
    args::{LogFormat, TelemetryArgs},
    telemetry::{Telemetry, init},
};

static TELEMETRY: LazyLock<Telemetry> = LazyLock::new(|| {
    let log = std::env::var("EDGEWRIGHT_LOG").unwrap_or_else(|_| "off".to_owned());
    let args = TelemetryArgs { log, log_format: LogFormat::Text, otlp_endpoint: None };
    init("test", &args).expect("nothing else in a test starts logs")
});

/// Starts traces for all tests of this process: spans have ids and travel on, as in production, and are exported
/// nowhere. With `EDGEWRIGHT_LOG=debug` the tests show what happens.
pub fn start_traces() {
    LazyLock::force(&TELEMETRY);
}
