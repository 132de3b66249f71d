//! Where workloads send their telemetry.

use std::{collections::BTreeMap, path::PathBuf};

use margo::Destination;

/// The folder in which a workload finds the certificate of the collector.
pub const CERTIFICATE_FOLDER: &str = "/etc/edgewright";
/// The name of the certificate's file there.
pub const CERTIFICATE: &str = "collector.pem";

/// The collector of OpenTelemetry to which workloads of this node may send (DEV-33). Without one, they are told nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collector {
    /// The URL at which it takes OTLP over HTTP, as workloads reach it: from a container, not from the host.
    pub http: Option<String>,
    /// The URL at which it takes OTLP over gRPC, where it does.
    pub grpc: Option<String>,
    /// The folder of the host that holds nothing but [`CERTIFICATE`], by which workloads know the collector. `None` when its
    /// certificate is one that everybody believes, or when it has none.
    pub certificate: Option<PathBuf>,
}

impl Collector {
    /// Returns the variables that every workload gets. What the application sets by the same names counts more.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let Some(http) = &self.http else { return BTreeMap::new() };
        let certificate = self.certificate.as_ref().map(|_| format!("{CERTIFICATE_FOLDER}/{CERTIFICATE}"));
        let set = [
            ("HTTP_OTEL_EXPORTER_OTLP_ENDPOINT", Some(http.as_str())),
            ("GRPC_OTEL_EXPORTER_OTLP_ENDPOINT", self.grpc.as_deref()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", certificate.as_deref()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", Some("http/protobuf")),
        ];
        set.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect()
    }

    /// Returns where workloads connect to when they send.
    pub fn destinations(&self) -> Vec<Destination> {
        self.http.iter().chain(&self.grpc).filter_map(|url| destination_of(url)).collect()
    }
}

/// Returns where one connects to who follows this URL of HTTP; `None` when it is none.
pub fn destination_of(url: &str) -> Option<Destination> {
    let (rest, port) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
        (Some(rest), _) => (rest, 80),
        (None, rest) => (rest?, 443),
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    authority.parse().or_else(|_| format!("{authority}:{port}").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_33_workloads_are_told_of_a_collector_where_there_is_one() {
        assert_eq!(Collector::default().variables(), BTreeMap::new());
        let http = Collector { http: Some("http://192.0.2.7:4318".to_owned()), ..Collector::default() };
        let variables = http.variables();
        assert_eq!(variables["HTTP_OTEL_EXPORTER_OTLP_ENDPOINT"], "http://192.0.2.7:4318");
        assert_eq!((variables.len(), variables["OTEL_EXPORTER_OTLP_PROTOCOL"].as_str()), (2, "http/protobuf"));
        let both = Collector { grpc: Some("http://192.0.2.7:4317".to_owned()), ..http };
        assert_eq!(both.variables()["GRPC_OTEL_EXPORTER_OTLP_ENDPOINT"], "http://192.0.2.7:4317");
        let known = Collector { certificate: Some("/var/lib/edge-node/collector".into()), ..both };
        assert_eq!(known.variables()["OTEL_EXPORTER_OTLP_CERTIFICATE"], "/etc/edgewright/collector.pem");
        let texts: Vec<_> = known.destinations().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.7:4318", "192.0.2.7:4317"]);
    }

    #[test]
    fn the_destination_of_a_url_is_its_host_and_port() {
        for (url, destination) in [
            ("http://collector.example", "collector.example:80"),
            ("https://collector.example/v1?a#b", "collector.example:443"),
            ("https://[2001:db8::7]", "[2001:db8::7]:443"),
            ("http://[2001:db8::7]:4318/", "[2001:db8::7]:4318"),
            ("http://192.0.2.7:4318/otlp", "192.0.2.7:4318"),
        ] {
            assert_eq!(destination_of(url).map(|to| to.to_string()).as_deref(), Some(destination), "{url}");
        }
        for url in ["", "collector:4318", "ftp://a", "http://", "http:///a", "http://u@a", "http://a:0", "http://a:b"] {
            assert_eq!(destination_of(url), None, "{url}");
        }
    }
}
