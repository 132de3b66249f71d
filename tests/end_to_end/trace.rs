//! One trace leads from the HTTP request to the status of what runs.

use std::collections::BTreeSet;

use testkit::wait_for;

use crate::receiver::{Receiver, Span, Spans};
use end_to_end::Platform;

/// The services and the agent, as an order passes through them.
const PATH: [&str; 7] = [
    "api-gateway",
    "deployment-registry",
    "git-writer",
    "git-observer",
    "local-orchestrator",
    "edge-node",
    "status-collector",
];

#[tokio::test]
async fn one_trace_leads_from_the_request_to_the_status() {
    let receiver = Receiver::start().await;
    let platform = Platform::with_sample(Some(receiver.endpoint())).await;
    platform.all_installed().await;
    wait_for("one trace through every service, each a child of the one before", async || {
        let spans = receiver.spans();
        let root =
            spans.values().find(|span| span.service == PATH[0] && span.name.starts_with("POST /api/v1/assignments"));
        let Some(root) = root else { return Err(names(spans.values())) };
        let trace: Vec<_> = spans.values().filter(|span| span.trace == root.trace).collect();
        if trace.iter().any(|span| reaches_from_end(span, root, &spans)) { Ok(()) } else { Err(names(trace)) }
    })
    .await;
    let order = platform.edgectl_json(&["co", "list", "orders"])[0].clone();
    let trace = order["trace"].as_str().expect("an order knows its trace");
    assert!(receiver.spans().values().any(|span| hex(&span.trace) == trace));
}

/// Whether this span is one of the last service on the path, and its ancestors lead through all the others up to the root.
fn reaches_from_end(span: &Span, root: &Span, spans: &Spans) -> bool {
    let mut services = vec![span.service.as_str()];
    let mut at = span;
    while at.id != root.id {
        let Some(parent) = spans.get(&at.parent) else { return false };
        if services.last() != Some(&parent.service.as_str()) {
            services.push(&parent.service);
        }
        at = parent;
    }
    // The report passes through local-orchestrator once more on its way up.
    let passed: BTreeSet<_> = services.iter().copied().collect();
    services.first() == PATH.last() && PATH.iter().all(|service| passed.contains(service))
}

fn names<'a>(spans: impl IntoIterator<Item = &'a Span>) -> BTreeSet<String> {
    spans
        .into_iter()
        .map(|span| format!("{}: {} ({} < {})", span.service, span.name, hex(&span.id), hex(&span.parent)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
