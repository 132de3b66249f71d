//! The program: arguments, then the agent with the runtimes of this node.

mod runtimes;

use anyhow::Context;
use clap::Parser;
use edge_node::{AgentArgs, OnExit, PROGRAM, Program, SpanBuffer};
use tracing::info;

use crate::runtimes::RuntimeArgs;

/// Runs workloads on one host as its site orders, and reports how they are.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    runtimes: RuntimeArgs,
}

fn main() -> anyhow::Result<()> {
    disk::keep_files_private();
    process::keep_little_memory();
    // One thread: what blocks has threads of its own, and each further one would cost memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the async runtime")?.block_on(run(Args::parse()))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let telemetry = args.agent.telemetry.clone();
    let spans = SpanBuffer::default();
    let _telemetry = process::telemetry::init_with(PROGRAM, &telemetry, spans.exporter())?;
    if telemetry.otlp_endpoint.is_some() {
        info!("traces ride on reports, and the site exports them: the OTLP endpoint given here is not used");
    }
    let shutdown = process::shutdown_token()?;
    let Program { agent, workload_address, reserved_ports, collector, collector_certificate, on_exit } =
        args.agent.try_into()?;

    let _lock = edge_node::lock(&agent.data)?;
    if let (Some(file), Some(folder)) = (&collector_certificate, &collector.certificate) {
        edge_node::keep_certificate(file, folder)?;
    }
    let runtimes = runtimes::start(args.runtimes, &agent.data, workload_address, reserved_ports, collector).await?;
    let run = edge_node::run(agent, runtimes.clone(), spans, shutdown.clone());
    let ended = tokio::select! {
        ended = process::within_grace(run, &shutdown) => ended,
        never = process::give_back_at_rest() => match never {},
    };
    if on_exit == OnExit::Stop {
        for runtime in runtimes {
            runtime.suspend().await.with_context(|| format!("stopping the workloads of {}", runtime.name()))?;
        }
    }
    ended
}
