//! Spans wait here for the next report: the agent has no exporter of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use prost::Message;
use tokio::{sync::Notify, time::sleep};

/// Some hundred orders' worth; in a longer outage the oldest go. They explain, nothing depends on them.
const LIMIT: usize = 1_000;

/// Spans that are alone wait a little for others, and for a report that goes anyway.
const PATIENCE: Duration = Duration::from_secs(5);

/// Spans that no report has carried yet. Cheap to clone.
#[derive(Clone, Default)]
pub struct SpanBuffer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    spans: Mutex<VecDeque<SpanData>>,
    filled: Notify,
}

/// Spans that were taken for a report and are given back when it fails.
pub struct Spans(Vec<SpanData>);

impl SpanBuffer {
    /// An exporter that fills this buffer.
    pub fn exporter(&self) -> impl SpanExporter + 'static {
        Exporter { buffer: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<SpanData>> {
        self.0.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, spans: Vec<SpanData>) {
        let mut held = self.lock();
        held.extend(spans);
        let surplus = held.len().saturating_sub(LIMIT);
        held.drain(..surplus);
    }

    /// Returns whether every span has been taken.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Waits until spans came, and a moment longer.
    pub async fn filled(&self) {
        self.0.filled.notified().await;
        sleep(PATIENCE).await;
    }

    /// Takes the oldest spans that wait, as many as fit into so many bytes, and returns them and their encoding.
    pub fn take_at_most(&self, bytes: usize) -> (Spans, Vec<u8>) {
        // Whole, so that the room that they took is given back.
        let mut spans = Spans(std::mem::take(&mut *self.lock()).into());
        loop {
            let encoded = spans.encode();
            if encoded.len() <= bytes {
                return (spans, encoded);
            }
            let later = spans.0.split_off(spans.0.len() / 2);
            // One that is alone and does not fit never will.
            if !spans.0.is_empty() {
                self.give_back(Spans(later));
            }
        }
    }

    /// Puts back what could not be sent.
    pub fn give_back(&self, spans: Spans) {
        let later: Vec<_> = self.lock().drain(..).collect();
        self.fill(spans.0.into_iter().chain(later).collect());
    }
}

impl Spans {
    /// As an OTLP `ExportTraceServiceRequest`; empty when there are none.
    pub fn encode(&self) -> Vec<u8> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let resource = Resource::builder().with_service_name(crate::PROGRAM).build();
        let resource = ResourceAttributesWithSchema::from(&resource);
        let resource_spans = group_spans_by_resource_and_scope(self.0.clone(), &resource);
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }
}

struct Exporter {
    buffer: SpanBuffer,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.buffer.fill(batch);
        self.buffer.0.filled.notify_one();
        Ok(())
    }
}
