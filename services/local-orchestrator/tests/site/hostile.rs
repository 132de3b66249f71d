//! A node that does with its key whatever its key allows.

use bus::{NodeVerb, Subject, proto, streams};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message as _;
use testkit::wait_for;

use crate::world::{World, node, report};

fn refusals_of(refusals: &[api::Refusal], name: &str) -> usize {
    let subject = Subject::Node(node(name), NodeVerb::Report).to_string();
    refusals.iter().filter(|refusal| refusal.subject == subject).count()
}

/// The last sequence of a stream of the site.
async fn written(world: &World, stream: &str) -> u64 {
    world.at_site.jetstream().get_stream(stream).await.unwrap().cached_info().state.last_sequence
}

#[tokio::test]
async fn a_node_that_is_refused_again_and_again_hides_nothing_of_others_and_has_little_written() {
    let mut world = World::started().await;
    let (press, ghost) = (world.node("press").await, world.node("ghost").await);
    assert!(!press.report_bytes(vec![0xff; 8]).await.refused.is_empty());
    wait_for("the refusal to be shown", async || {
        let refusals = world.status().await.refusals;
        if refusals_of(&refusals, "press") == 1 { Ok(()) } else { Err(refusals) }
    })
    .await;
    let before = written(&world, streams::STATE).await;
    for incarnation in 2..202 {
        assert!(!ghost.report(&report(incarnation, 1)).await.refused.is_empty());
    }
    let refusals = world.status().await.refusals;
    assert_eq!(refusals_of(&refusals, "press"), 1, "{refusals:?}");
    assert!((1..=5).contains(&refusals_of(&refusals, "ghost")), "{refusals:?}");
    let messages = written(&world, streams::STATE).await - before;
    assert!(messages <= 20, "200 refusals had the site say {messages} times how it is");
}

#[tokio::test]
async fn metrics_of_one_node_leave_room_for_those_of_others() {
    let mut world = World::started().await;
    let (press, ghost) = (world.node("press").await, world.node("ghost").await);
    let metric = |name: String| proto::Metric { name, value: 1.0 };
    let many = (0..500).map(|number| metric(format!("edgewright_edge_node_ghost_{number}"))).collect();
    let long = vec![metric(format!("edgewright_edge_node_{}", "x".repeat(100_000)))];
    for (metrics, sequence) in [(long, 1), (many, 2)] {
        assert!(ghost.report(&proto::ReportRequest { metrics, ..report(1, sequence) }).await.stored);
    }
    let metrics = vec![metric("edgewright_edge_node_of_the_press".to_owned())];
    assert!(press.report(&proto::ReportRequest { metrics, ..report(1, 1) }).await.stored);
    let names: Vec<_> = prometheus::gather().iter().map(|family| family.name().to_owned()).collect();
    assert!(names.iter().any(|name| name == "edgewright_edge_node_of_the_press"), "{names:?}");
    let longest = names.iter().map(String::len).max().unwrap();
    assert!(longest < 200, "a name of {longest} characters");
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

#[tokio::test]
async fn spans_of_a_node_carry_its_own_name_whatever_it_says() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut received) = tokio::sync::mpsc::channel(4);
    let receive = axum::routing::post(async move |body: axum::body::Bytes| sender.send(body).await.unwrap());
    tokio::spawn(axum::serve(listener, axum::Router::new().route("/v1/traces", receive)).into_future());
    let mut world = World::new().await;
    world.otlp_endpoint = Some(format!("http://{address}"));
    world.start().await;
    let press = world.node("press").await;
    let attributes = vec![text("service.name", "git-writer"), text("edgewright.node", "plant/oven")];
    let spans = vec![Span { name: "commit".into(), trace_id: vec![1; 16], span_id: vec![1; 8], ..Default::default() }];
    let spans = ResourceSpans {
        resource: Some(Resource { attributes, ..Default::default() }),
        scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
        ..Default::default()
    };
    let traces = ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec();
    assert!(press.report(&proto::ReportRequest { traces: b"\xff\xff".as_slice().into(), ..report(1, 1) }).await.stored);
    assert!(press.report(&proto::ReportRequest { traces: traces.into(), ..report(1, 2) }).await.stored);
    let sent = ExportTraceServiceRequest::decode(received.recv().await.unwrap()).unwrap();
    let [spans] = &sent.resource_spans[..] else { panic!("{sent:?}") };
    assert_eq!(spans.scope_spans[0].spans[0].name, "commit");
    let attributes = &spans.resource.as_ref().unwrap().attributes;
    assert_eq!(attributes[..], [text("service.name", "edge-node"), text("service.instance.id", "plant/press")]);
}
