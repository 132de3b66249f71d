//! What the operator wrote, and what follows from it once it is checked.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{bail, ensure};
use bus::{Login, User};
use clap::ValueEnum;
use identity::{
    credentials::{self, NodeCredentials},
    plaintext::{Plaintext, speaks_tls},
    tls::{Peer, Trust},
};
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
    /// Let tokens and documents cross a network in clear, where the site has no certificates.
    #[arg(long, env = "EDGEWRIGHT_ALLOW_PLAINTEXT")]
    pub allow_plaintext: bool,
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
        let NodeCredentials { node, server, seed, root_certificates } = credentials::load(&args.credentials)?;
        let file = args.credentials.display();
        ensure!(
            identity::nats::public_key(&seed).is_ok(),
            "credentials file {file}: seed must be the NKey seed of a user (58 characters that begin with SU)",
        );
        Plaintext::allowed(args.allow_plaintext).check_url("the site's NATS server", &server)?;
        let tls = match (speaks_tls(&server), root_certificates) {
            (false, _) => None,
            (true, Some(roots)) => Some(Trust::parse(&roots, &file)?.peer(&Peer::Site(node.client.clone()))),
            (true, None) => bail!("credentials file {file}: with a server at tls://, root-certificates must be given"),
        };
        let bus = Login { url: server, tls, seed, user: User::Node(node.clone()) };
        let agent = Config { node, bus, data: args.data };
        Ok(Self { agent, workload_address: args.workload_address, on_exit: args.on_exit })
    }
}
