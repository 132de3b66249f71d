//! An order's trace goes through the node: from the desired state's header to the report's, spans on the report itself.
//!
//! A program of its own, for it sets the subscriber of the whole process.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[path = "../agent/agent.rs"]
#[allow(dead_code, reason = "the tests of the agent use the rest")]
mod agent;
#[path = "../agent/site.rs"]
#[allow(dead_code, reason = "the tests of the agent use the rest")]
mod site;
#[path = "../../src/testing.rs"]
mod testing;

use std::collections::BTreeMap;

use edge_node::SpanBuffer;
use margo::State;
use opentelemetry::{global, trace::TracerProvider};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use prost::Message;
use tempfile::TempDir;
use testkit::wait_for;
use tracing_subscriber::layer::SubscriberExt;

use crate::{
    agent::{Agent, null},
    site::Site,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spans of our trace that came with reports so far, by id.
fn spans(site: &Site) -> BTreeMap<String, Span> {
    let requests = site.reports().into_iter().map(|report| report.traces);
    let requests = requests.map(|traces| ExportTraceServiceRequest::decode(traces).unwrap());
    let scopes = requests.flat_map(|request| request.resource_spans).flat_map(|resource| resource.scope_spans);
    let ours = scopes.flat_map(|scope| scope.spans).filter(|span| hex(&span.trace_id) == TRACE);
    ours.map(|span| (hex(&span.span_id), span)).collect()
}

#[tokio::test]
async fn the_trace_of_an_order_goes_on_in_the_node_and_in_its_report() {
    let buffer = SpanBuffer::default();
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder().with_simple_exporter(buffer.exporter()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();

    let site = Site::start().await;
    let (data, runtime) = (TempDir::new().unwrap(), null());
    let agent = Agent::start(&site, data.path(), &runtime, buffer);
    let hello = testing::entry(&testing::deployment("hello", site.artifact(b"component").await));
    site.publish(&testing::message(1, vec![hello]), &format!("00-{TRACE}-{PARENT}-01")).await;
    site.state(1, State::Installed).await;

    let spans = wait_for("the spans of every step", async || {
        let spans = spans(&site);
        let names: Vec<_> = spans.values().map(|span| span.name.clone()).collect();
        let whole = ["adopt", "reconcile", "prepare", "apply", "report"]
            .iter()
            .all(|step| names.iter().any(|name| name == step));
        if whole { Ok(spans) } else { Err(names) }
    })
    .await;
    for span in spans.values() {
        let parent = hex(&span.parent_span_id);
        let parent_name = spans.get(&parent).map(|parent| parent.name.as_str());
        match span.name.as_str() {
            "adopt" => assert_eq!(parent, PARENT),
            "reconcile" => assert_eq!(parent_name, Some("adopt")),
            "prepare" | "apply" | "report" => assert_eq!(parent_name, Some("reconcile")),
            other => panic!("an unexpected span {other}"),
        }
    }
    let carried = site.reports().into_iter().map(|report| report.traceparent);
    let carried: Vec<_> = carried.filter(|it| it.contains(TRACE)).collect();
    let report = spans.values().find(|span| span.name == "report").unwrap();
    assert!(carried.contains(&format!("00-{TRACE}-{}-01", hex(&report.span_id))), "{carried:?}");
    agent.stop().await.unwrap();
}
