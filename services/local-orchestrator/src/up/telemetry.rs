//! What rides on reports: the nodes' spans go on to the receiver of traces, their metrics become ours, by node.
//!
//! Both carry the name of the node that reports, whatever it says, and no node takes what others need of either.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bus::proto::Metric;
use bytes::Bytes;
use margo::{ClientName, NodeId, NodeName};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::ResourceSpans,
};
use process::{Account, Allowance};
use prometheus::{GaugeVec, Opts};
use prost::Message as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::TRACES_DROPPED;

/// Reports whose spans wait for the receiver. One that is away must not cost the site its memory.
const QUEUE: usize = 256;

/// How long the receiver may take for one request. There is one attempt: spans are not worth another.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of spans that one node may have sent on: what a node has after an outage, and then some of each order.
const SPANS_OF_A_NODE: Allowance = Allowance { burst: 2 << 20, per_day: 512 << 20 };

/// Names of metrics that nodes may bring, in all, and that one of them may bring: names come from outside, and each is a family
/// for ever.
const NAMES: usize = 200;
const NAMES_OF_A_NODE: usize = 20;

/// The longest name of a metric; those of our agents have half of it.
const LONGEST_NAME: usize = 100;

/// The families of the nodes' metrics, of all sites in this process: names are unique in it.
static FAMILIES: Mutex<Option<HashMap<String, Family>>> = Mutex::new(None);

struct Family {
    values: GaugeVec,
    /// The node that brought the name.
    of: NodeId,
}

pub struct Telemetry {
    client: ClientName,
    traces: Option<mpsc::Sender<Bytes>>,
    /// What each node may still have sent on.
    spans: Mutex<HashMap<NodeName, Account>>,
}

impl Telemetry {
    /// Without a receiver of traces, spans are dropped silently.
    pub fn new(client: ClientName, otlp_endpoint: Option<&str>) -> anyhow::Result<(Self, Option<Forwarder>)> {
        let Some(base) = otlp_endpoint else { return Ok((Self::of(client, None), None)) };
        let (traces, waiting) = mpsc::channel(QUEUE);
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().context("preparing to send traces on")?;
        let url = format!("{}/v1/traces", base.trim_end_matches('/'));
        let forwarder = Forwarder { client: client.clone(), http, url, waiting };
        Ok((Self::of(client, Some(traces)), Some(forwarder)))
    }

    fn of(client: ClientName, traces: Option<mpsc::Sender<Bytes>>) -> Self {
        Self { client, traces, spans: Mutex::default() }
    }

    /// Takes what a stored report brought.
    pub fn take(&self, node: &NodeId, traces: Bytes, metrics: &[Metric]) {
        if let Some(queue) = self.traces.as_ref().filter(|_| !traces.is_empty()) {
            let paid = self.pay(node, traces.len());
            let spans = Some(traces).filter(|_| paid).and_then(|traces| of_node(node, traces));
            if spans.is_none_or(|spans| queue.try_send(spans).is_err()) {
                TRACES_DROPPED.with_label_values(&[self.client.as_str()]).inc();
            }
        }
        for metric in metrics {
            if let Some(family) = family(&metric.name, node) {
                family.with_label_values(&[node.to_string()]).set(metric.value);
            }
        }
    }

    fn pay(&self, node: &NodeId, bytes: usize) -> bool {
        let now = Instant::now();
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let account = spans.entry(node.node.clone()).or_insert_with(|| Account::new(SPANS_OF_A_NODE, now));
        account.spend(SPANS_OF_A_NODE, bytes, now)
    }
}

/// The same spans as those of this node: else it could speak for other nodes, and for services. `None` when they do not decode.
fn of_node(node: &NodeId, traces: Bytes) -> Option<Bytes> {
    let request = ExportTraceServiceRequest::decode(traces).ok()?;
    let text = |key: &str, value: String| {
        let value = AnyValue { value: Some(Value::StringValue(value)) };
        KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
    };
    let attributes = vec![text("service.name", "edge-node".to_owned()), text("service.instance.id", node.to_string())];
    let resource = Some(Resource { attributes, ..Resource::default() });
    // As one resource: many empty ones would each get a name.
    let scope_spans = request.resource_spans.into_iter().flat_map(|spans| spans.scope_spans).collect();
    let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
    Some(ExportTraceServiceRequest { resource_spans }.encode_to_vec().into())
}

/// The family of this name, made when it is new, valid and ours, and the node may bring it.
fn family(name: &str, node: &NodeId) -> Option<GaugeVec> {
    // Nobody may write over the metrics of this process.
    if !name.starts_with("edgewright_edge_node_") || name.len() > LONGEST_NAME {
        return None;
    }
    let mut families = FAMILIES.lock().unwrap_or_else(PoisonError::into_inner);
    let families = families.get_or_insert_default();
    if let Some(family) = families.get(name) {
        return Some(family.values.clone());
    }
    let brought = families.values().filter(|family| family.of == *node).count();
    if families.len() == NAMES || brought == NAMES_OF_A_NODE {
        return None;
    }
    let family = GaugeVec::new(Opts::new(name, "Reported by nodes"), &["node"]).ok()?;
    if let Err(error) = prometheus::register(Box::new(family.clone())) {
        debug!(name, error = &error as &dyn Error, "a node's metric");
        return None;
    }
    families.insert(name.to_owned(), Family { values: family.clone(), of: node.clone() });
    Some(family)
}

/// Sends the spans that nodes report to a receiver of traces.
pub struct Forwarder {
    client: ClientName,
    http: reqwest::Client,
    url: String,
    waiting: mpsc::Receiver<Bytes>,
}

impl Forwarder {
    /// Sends until shutdown, or until nobody can bring spans any more. What the receiver does not take is dropped and
    /// counted.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            let spans = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                spans = self.waiting.recv() => spans,
            };
            let Some(spans) = spans else { return Ok(()) };
            let request = self.http.post(&self.url).header("content-type", "application/x-protobuf").body(spans);
            let sent = request.send().await.and_then(reqwest::Response::error_for_status);
            if let Err(error) = sent {
                TRACES_DROPPED.with_label_values(&[self.client.as_str()]).inc();
                warn!(error = &error as &dyn Error, "spans of a node not sent on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_metrics_carry_its_name_and_never_replace_ours() {
        let (telemetry, _) = Telemetry::new("plant".parse().unwrap(), None).unwrap();
        let metric = |name: &str| Metric { name: name.to_owned(), value: 7.5 };
        let metrics =
            [metric("edgewright_edge_node_workloads"), metric("process_cpu"), metric("edgewright_edge_node_a b")];
        telemetry.take(&"plant/press".parse().unwrap(), Bytes::new(), &metrics);
        let family = family("edgewright_edge_node_workloads", &"plant/press".parse().unwrap()).unwrap();
        assert_eq!(family.with_label_values(&["plant/press"]).get(), 7.5);
        let names: Vec<_> = prometheus::gather().iter().map(|it| it.name().to_owned()).collect();
        assert!(names.contains(&"edgewright_edge_node_workloads".to_owned()));
        assert!(!names.iter().any(|name| name == "process_cpu" || name.contains(' ')));
    }

    #[test]
    fn spans_of_one_node_leave_room_for_those_of_others() {
        let (telemetry, forwarder) = Telemetry::new("plant".parse().unwrap(), Some("http://127.0.0.1:1")).unwrap();
        let mut waiting = forwarder.unwrap().waiting;
        let spans = ResourceSpans { schema_url: "x".repeat(60 << 10), ..ResourceSpans::default() };
        let spans: Bytes = ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec().into();
        let (ghost, press) = ("plant/ghost".parse().unwrap(), "plant/press".parse().unwrap());
        (0..2 * QUEUE).for_each(|_| telemetry.take(&ghost, spans.clone(), &[]));
        telemetry.take(&press, spans, &[]);
        let mut of_press = 0;
        while let Ok(sent) = waiting.try_recv() {
            of_press += usize::from(String::from_utf8_lossy(&sent).contains("plant/press"));
        }
        assert_eq!(of_press, 1);
    }
}
