//! OpenTelemetry context (W3C trace context) in message headers, commits and outboxes.

use std::collections::HashMap;

use async_nats::HeaderMap;
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::TraceContextExt,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header, the trailer and the column that carry the context.
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

/// Headers that carry the current span.
pub fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    headers
}

/// Adds the current span to headers.
pub fn inject(headers: &mut HeaderMap) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeadersMut(headers)));
}

/// Makes the sender's span the parent of `span`, and writes the trace's id into its field `trace_id` (declare it
/// `tracing::field::Empty`), so that logs can be found by it.
pub fn continue_from(span: &Span, headers: Option<&HeaderMap>) {
    let parent = headers.map(|headers| global::get_text_map_propagator(|it| it.extract(&Headers(headers))));
    adopt(span, parent);
}

/// The same for a context kept as text (`traceparent`) in a database or a commit.
pub fn continue_from_text(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    adopt(span, Some(global::get_text_map_propagator(|propagator| propagator.extract(&carrier))));
}

fn adopt(span: &Span, parent: Option<Context>) {
    if let Some(parent) = parent.filter(|parent| parent.span().span_context().is_valid()) {
        // Refused only when the span is disabled or already ended: then nobody looks at its parent.
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

/// The current span as text (`traceparent`), to be kept in a database or a commit.
pub fn current_text() -> Option<String> {
    let mut carrier = HashMap::new();
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    carrier.remove(TRACEPARENT)
}

/// The current trace's id, 32 hex digits.
pub fn current_id() -> Option<String> {
    id_of(&Span::current().context())
}
