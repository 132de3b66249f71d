//! A receiver of traces by OTLP/HTTP that keeps every span.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value};
use prost::Message;
use tokio::net::TcpListener;

/// The fields of a received span by which traces are followed.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub name: String,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    pub parent: Vec<u8>,
}

/// Spans by their id.
pub type Spans = HashMap<Vec<u8>, Span>;

/// A receiver that listens on a port of its own.
pub struct Receiver {
    spans: Arc<Mutex<Spans>>,
    endpoint: String,
}

impl Receiver {
    /// Starts a receiver, which listens until the test ends.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = format!("http://{}", listener.local_addr().expect("a bound listener has an address"));
        let spans = Arc::<Mutex<Spans>>::default();
        let router = Router::new().route("/v1/traces", post(receive)).with_state(spans.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { spans, endpoint }
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT` that sends traces here.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Every span that was received so far.
    pub fn spans(&self) -> Spans {
        self.spans.lock().unwrap().clone()
    }
}

async fn receive(State(spans): State<Arc<Mutex<Spans>>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let name = attributes.into_iter().find(|attribute| attribute.key == "service.name");
        let service = match name.and_then(|attribute| attribute.value).and_then(|value| value.value) {
            Some(Value::StringValue(name)) => name,
            _ => continue,
        };
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let id = span.span_id.clone();
            let span = Span {
                service: service.clone(),
                name: span.name,
                trace: span.trace_id,
                id: span.span_id,
                parent: span.parent_span_id,
            };
            spans.lock().unwrap().insert(id, span);
        }
    }
    StatusCode::OK
}
