//! Logs and traces. Every log line of a request carries the id of its trace.

use anyhow::Context;
use opentelemetry::{global, trace::TracerProvider};
#[cfg(feature = "otlp")]
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanExporter as ExportSpans, TracerProviderBuilder},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    args::{LogFormat, TelemetryArgs},
    one_line::OneLine,
};

/// The most detailed spans that are traced. The libraries below have many finer ones.
const TRACED: LevelFilter = LevelFilter::INFO;

/// Sends the traces that are left when this value is dropped, so `main` keeps it until its end.
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.shutdown()
        {
            eprintln!("traces were lost at the end: {error}");
        }
    }
}

/// Starts logs and traces for this process. Traces get ids and travel on, also when they are exported nowhere.
#[cfg(feature = "otlp")]
pub fn init(program: &'static str, args: &TelemetryArgs) -> anyhow::Result<Telemetry> {
    let Some(base) = &args.otlp_endpoint else { return start(program, args, provider(program)) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", base.trim_end_matches('/')))
        .build()
        .with_context(|| format!("preparing to send traces to {base}"))?;
    start(program, args, provider(program).with_batch_exporter(exporter))
}

/// Does the same as [`init`] with another way out for spans, which takes each as it ends and must not wait for anything; those of
/// edge-node travel with its reports. It has neither a thread nor a queue; the batches of [`init`] have a queue of 2,048 places.
pub fn init_with<E: ExportSpans + 'static>(
    program: &'static str,
    args: &TelemetryArgs,
    exporter: E,
) -> anyhow::Result<Telemetry> {
    start(program, args, provider(program).with_simple_exporter(exporter))
}

fn provider(program: &'static str) -> TracerProviderBuilder {
    SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name(program).build())
}

fn start(program: &'static str, args: &TelemetryArgs, provider: TracerProviderBuilder) -> anyhow::Result<Telemetry> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = provider.build();
    // Not `EnvFilter`, which also takes conditions on spans, and for them has an engine of regular expressions.
    let filter: Targets = args.log.parse().with_context(|| {
        format!("EDGEWRIGHT_LOG {:?} must be a level or target=level, with commas between", args.log)
    })?;
    tracing_subscriber::registry()
        // The filter is for the log alone: a quiet log must not end the traces that pass through.
        .with(log_layer(args.log_format).with_filter(filter))
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer(program)).with_filter(TRACED))
        .try_init()
        .context("starting logs")?;
    Ok(Telemetry(Some(provider)))
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let layer = tracing_subscriber::fmt::layer();
    match format {
        LogFormat::Text => layer.with_ansi(false).with_writer(|| OneLine(std::io::stderr())).boxed(),
        LogFormat::Json => {
            layer.with_writer(std::io::stderr).json().with_current_span(true).with_span_list(false).boxed()
        }
    }
}
