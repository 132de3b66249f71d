//! What the operator wrote, and what follows from it once it is checked.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, ensure};
use bus::{Login, User};
use clap::{Parser, ValueEnum};
use identity::credentials::{self, NodeCredentials};
use margo::NodeId;
use process::args::TelemetryArgs;

/// Runs workloads on one host as its site orders, and reports how they are.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// The credentials file that `edgectl co add node` wrote.
    #[arg(long, env = "EDGEWRIGHT_NODE_CREDENTIALS", value_name = "FILE")]
    pub credentials: PathBuf,
    /// Where desired state, reports and artifacts are kept. One agent at a time may use it.
    #[arg(long, env = "EDGEWRIGHT_NODE_DATA", value_name = "DIR")]
    pub data: PathBuf,
    /// The program wasm-runner. By default the one beside this program.
    #[arg(long, env = "EDGEWRIGHT_NODE_WASM_RUNNER", value_name = "PATH")]
    pub wasm_runner: Option<PathBuf>,
    /// Address on which workloads listen.
    #[arg(long, env = "EDGEWRIGHT_NODE_WORKLOAD_ADDRESS", value_name = "IP", default_value = "127.0.0.1")]
    pub workload_address: IpAddr,
    /// What becomes of workloads when this agent ends.
    #[arg(long, env = "EDGEWRIGHT_NODE_ON_EXIT", default_value = "keep")]
    pub on_exit: OnExit,
    /// Logs. Traces ride on reports to the site; it knows the receiver.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// What becomes of workloads when the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnExit {
    /// They go on; the next agent takes them up.
    Keep,
    /// They stop; the next agent starts them again.
    Stop,
}

/// What the agent depends on.
pub struct Config {
    /// Who this node is.
    pub node: NodeId,
    /// The site's NATS server.
    pub bus: Login,
    /// An existing folder, or one that can be made.
    pub data: PathBuf,
    /// Where workloads listen.
    pub workload_address: IpAddr,
}

/// What only the program depends on.
pub struct Program {
    /// For the agent.
    pub agent: Config,
    /// An existing program.
    pub wasm_runner: PathBuf,
    /// What becomes of workloads at the end.
    pub on_exit: OnExit,
}

impl TryFrom<Args> for Program {
    type Error = anyhow::Error;

    fn try_from(args: Args) -> anyhow::Result<Self> {
        let NodeCredentials { node, server, seed } = credentials::load(&args.credentials)?;
        ensure!(
            identity::nats::public_key(&seed).is_ok(),
            "credentials file {}: seed must be the NKey seed of a user (58 characters that begin with SU)",
            args.credentials.display()
        );
        let wasm_runner = match args.wasm_runner {
            Some(path) => path,
            None => std::env::current_exe().context("finding this program")?.with_file_name("wasm-runner"),
        };
        ensure!(
            wasm_runner.is_file(),
            "{} is not there: give the program wasm-runner with --wasm-runner or EDGEWRIGHT_NODE_WASM_RUNNER",
            wasm_runner.display()
        );
        let bus = Login { url: server, seed, user: User::Node(node.clone()) };
        let agent = Config { node, bus, data: args.data, workload_address: args.workload_address };
        Ok(Self { agent, wasm_runner, on_exit: args.on_exit })
    }
}
