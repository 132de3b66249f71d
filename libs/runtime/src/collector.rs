//! Where workloads send their telemetry.

use std::collections::BTreeMap;

/// The collector of OpenTelemetry to which workloads of this node may send (DEV-33). Without one, they are told nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collector {
    /// The URL at which it takes OTLP over HTTP, as workloads reach it: from a container, not from the host.
    pub http: Option<String>,
    /// The URL at which it takes OTLP over gRPC, where it does.
    pub grpc: Option<String>,
}

impl Collector {
    /// Returns the variables that every workload gets. What the application sets by the same names counts more.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let Some(http) = &self.http else { return BTreeMap::new() };
        let set = [
            ("HTTP_OTEL_EXPORTER_OTLP_ENDPOINT", Some(http.as_str())),
            ("GRPC_OTEL_EXPORTER_OTLP_ENDPOINT", self.grpc.as_deref()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", Some("http/protobuf")),
        ];
        set.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_33_workloads_are_told_of_a_collector_where_there_is_one() {
        assert_eq!(Collector::default().variables(), BTreeMap::new());
        let http = Collector { http: Some("http://192.0.2.7:4318".to_owned()), grpc: None };
        let variables = http.variables();
        assert_eq!(variables["HTTP_OTEL_EXPORTER_OTLP_ENDPOINT"], "http://192.0.2.7:4318");
        assert_eq!((variables.len(), variables["OTEL_EXPORTER_OTLP_PROTOCOL"].as_str()), (2, "http/protobuf"));
        let both = Collector { grpc: Some("http://192.0.2.7:4317".to_owned()), ..http };
        assert_eq!(both.variables()["GRPC_OTEL_EXPORTER_OTLP_ENDPOINT"], "http://192.0.2.7:4317");
    }
}
