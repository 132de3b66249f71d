//! What the operator wrote, and what follows from it once it is checked.

use std::{net::IpAddr, path::PathBuf};

use anyhow::ensure;
use bus::{Jwt, Login, User};
use clap::ValueEnum;
use identity::credentials::{self, NodeCredentials};
use margo::NodeId;
use process::args::TelemetryArgs;

/// Arguments of the agent itself. The program adds those of its runtimes.
#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// The credentials file that `edgectl co add node` wrote.
    #[arg(long, env = "EDGEWRIGHT_NODE_CREDENTIALS", value_name = "FILE")]
    pub credentials: PathBuf,
    /// Where desired state, reports and artifacts are kept. One agent at a time may use it.
    #[arg(long, env = "EDGEWRIGHT_NODE_DATA", value_name = "DIR")]
    pub data: PathBuf,
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
    /// The node that this agent is.
    pub node: NodeId,
    /// The login at the site's NATS server.
    pub bus: Login,
    /// The base URL at which the site hands out JWTs, for a login whose JWT stands in a file.
    pub minter: String,
    /// An existing folder, or one that can be made.
    pub data: PathBuf,
}

/// What the program depends on beside its runtimes.
pub struct Program {
    /// What the agent depends on.
    pub agent: Config,
    /// The address on which workloads of this node listen.
    pub workload_address: IpAddr,
    /// What becomes of workloads at the end.
    pub on_exit: OnExit,
}

impl TryFrom<AgentArgs> for Program {
    type Error = anyhow::Error;

    fn try_from(args: AgentArgs) -> anyhow::Result<Self> {
        let NodeCredentials { node, server, minter, seed } = credentials::load(&args.credentials)?;
        ensure!(
            identity::nats::public_key(&seed).is_ok(),
            "credentials file {}: seed must be the NKey seed of a user (58 characters that begin with SU)",
            args.credentials.display()
        );
        let jwt = Jwt::File(args.data.join("login.jwt"));
        let bus = Login { url: server, seed, jwt, user: User::Node(node.clone()) };
        let agent = Config { node, bus, minter, data: args.data };
        Ok(Self { agent, workload_address: args.workload_address, on_exit: args.on_exit })
    }
}
