//! The OpenTelemetry context (W3C trace context) in message headers, in commits and in outboxes.

use std::collections::HashMap;

use async_nats::HeaderMap;
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::TraceContextExt,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The name of the header that carries the context. Databases and commits keep its value as text.
pub const TRACEPARENT: &str = "traceparent";

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(async_nats::HeaderValue::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_ref()).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.insert(key, value.as_str());
    }
}

/// Returns headers that carry the current span.
pub fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    headers
}

/// Adds the current span to headers that go out.
pub fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeadersMut(headers)));
}

/// Makes the sender's span the parent of `span`. The trace's id is written into the field `trace_id` of `span`,
/// which has to be declared as `tracing::field::Empty`, so that logs can be found by it.
pub fn continue_from(span: &Span, headers: Option<&HeaderMap>) {
    let parent = headers.map(|headers| global::get_text_map_propagator(|it| it.extract(&Headers(headers))));
    adopt(span, parent);
}

/// Does the same as [`continue_from`] for a context that a database or a commit kept as text (`traceparent`).
pub fn continue_from_text(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    adopt(span, Some(global::get_text_map_propagator(|propagator| propagator.extract(&carrier))));
}

fn adopt(span: &Span, parent: Option<Context>) {
    if let Some(parent) = parent.filter(|parent| parent.span().span_context().is_valid()) {
        // The parent is refused only when the span is disabled or already ended, and then nobody looks at its parent.
        let _ = span.set_parent(parent);
    }
    if let Some(id) = id_of(&span.context()) {
        span.record("trace_id", id);
    }
}

fn id_of(context: &Context) -> Option<String> {
    let context = context.span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

/// Returns the current span as text (`traceparent`), for a database or a commit. It is `None` outside of a trace.
pub fn current_text() -> Option<String> {
    let mut carrier = HashMap::new();
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    carrier.remove(TRACEPARENT)
}

/// Returns the id of the current trace, 32 hex digits. It is `None` outside of a trace.
pub fn current_id() -> Option<String> {
    id_of(&Span::current().context())
}
