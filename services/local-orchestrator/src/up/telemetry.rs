//! What rides on reports: the nodes' spans go on to the receiver of traces, their metrics become ours, by node.

use std::{
    collections::HashMap,
    error::Error,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use bus::proto::Metric;
use bytes::Bytes;
use margo::{ClientName, NodeId};
use prometheus::{GaugeVec, Opts};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::metrics::TRACES_DROPPED;

/// Reports whose spans wait for the receiver. One that is away must not cost the site its memory.
const QUEUE: usize = 256;

/// How long the receiver may take for one request. There is one attempt: spans are not worth another.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Names of metrics that nodes may bring, in all: names come from outside, and each is a family for ever.
const NAMES: usize = 200;

/// The families of the nodes' metrics, of all sites in this process: names are unique in it.
static FAMILIES: Mutex<Option<HashMap<String, GaugeVec>>> = Mutex::new(None);

pub struct Telemetry {
    client: ClientName,
    traces: Option<mpsc::Sender<Bytes>>,
}

impl Telemetry {
    /// Without a receiver of traces, spans are dropped silently.
    pub fn new(client: ClientName, otlp_endpoint: Option<&str>) -> anyhow::Result<(Self, Option<Forwarder>)> {
        let Some(base) = otlp_endpoint else { return Ok((Self { client, traces: None }, None)) };
        let (traces, waiting) = mpsc::channel(QUEUE);
        let http = reqwest::Client::builder().timeout(TIMEOUT).build().context("preparing to send traces on")?;
        let url = format!("{}/v1/traces", base.trim_end_matches('/'));
        let forwarder = Forwarder { client: client.clone(), http, url, waiting };
        Ok((Self { client, traces: Some(traces) }, Some(forwarder)))
    }

    /// Takes what a stored report brought.
    pub fn take(&self, node: &NodeId, traces: Bytes, metrics: &[Metric]) {
        if let Some(queue) = self.traces.as_ref().filter(|_| !traces.is_empty())
            && queue.try_send(traces).is_err()
        {
            TRACES_DROPPED.with_label_values(&[self.client.as_str()]).inc();
        }
        for metric in metrics {
            if let Some(family) = family(&metric.name) {
                family.with_label_values(&[node.to_string()]).set(metric.value);
            }
        }
    }
}

/// The family of this name, made when it is new, valid and ours.
fn family(name: &str) -> Option<GaugeVec> {
    // Nobody may write over the metrics of this process.
    if !name.starts_with("edgewright_edge_node_") {
        return None;
    }
    let mut families = FAMILIES.lock().unwrap_or_else(PoisonError::into_inner);
    let families = families.get_or_insert_default();
    if let Some(family) = families.get(name) {
        return Some(family.clone());
    }
    if families.len() == NAMES {
        return None;
    }
    let family = GaugeVec::new(Opts::new(name, "Reported by nodes"), &["node"]).ok()?;
    if let Err(error) = prometheus::register(Box::new(family.clone())) {
        debug!(name, error = &error as &dyn Error, "a node's metric");
        return None;
    }
    families.insert(name.to_owned(), family.clone());
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
        let family = family("edgewright_edge_node_workloads").unwrap();
        assert_eq!(family.with_label_values(&["plant/press"]).get(), 7.5);
        let names: Vec<_> = prometheus::gather().iter().map(|it| it.name().to_owned()).collect();
        assert!(names.contains(&"edgewright_edge_node_workloads".to_owned()));
        assert!(!names.iter().any(|name| name == "process_cpu" || name.contains(' ')));
    }
}
