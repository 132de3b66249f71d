//! The program: arguments, then the agent with the runtimes of this node.

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use edge_node::{Args, OnExit, PROGRAM, Program, SpanBuffer};
use runtime::Runtime;
use runtime_wasm::{WasmRuntime, WasmRuntimeConfig};
use tracing::info;

// A small host has better use for threads: one works while the other waits for the disk.
#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let spans = SpanBuffer::default();
    let _telemetry = process::telemetry::init_with(PROGRAM, &args.telemetry, Some(spans.exporter()))?;
    if args.telemetry.otlp_endpoint.is_some() {
        info!("traces ride on reports, and the site exports them: the OTLP endpoint given here is not used");
    }
    let shutdown = process::shutdown_token()?;
    let Program { agent, wasm_runner, on_exit } = args.try_into()?;

    let _lock = edge_node::lock(&agent.data)?;
    let wasm = WasmRuntimeConfig {
        runner: wasm_runner,
        folder: agent.data.join("wasm/workloads"),
        cache: agent.data.join("wasm/cache"),
    };
    let wasm = Arc::new(WasmRuntime::new(wasm).await.context("starting the wasm runtime")?);
    let runtimes: Vec<Arc<dyn Runtime>> = vec![wasm.clone()];
    let ended = process::within_grace(edge_node::run(agent, runtimes, spans, shutdown.clone()), &shutdown).await;
    if on_exit == OnExit::Stop {
        wasm.stop_all().await.context("stopping the workloads")?;
    }
    ended
}
