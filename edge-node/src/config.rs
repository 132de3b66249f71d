//! What the operator wrote, and what follows from it once it is checked.

use std::{
    net::IpAddr,
    path::{PathBuf, absolute},
    sync::Arc,
};

use anyhow::{bail, ensure};
use bus::{Jwt, Login, User};
use clap::ValueEnum;
use identity::{
    credentials::{self, NodeCredentials},
    plaintext::{Plaintext, speaks_tls},
    tls::{ClientConfig, Peer, Trust},
};
use margo::NodeId;
use process::args::TelemetryArgs;
use runtime::{Collector, ReservedPorts, destination_of};

use crate::collector;

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
    /// Ports that no workload may take, because the platform's own servers may listen there, such as 4222,4323-4325. That
    /// of the site's NATS server is always among them. Where REST stands on the same address, add its port.
    #[arg(
        long,
        env = "EDGEWRIGHT_NODE_RESERVED_PORTS",
        value_name = "PORTS",
        default_value = "4222,4323-4325,8082-8084"
    )]
    pub reserved_ports: ReservedPorts,
    /// Base URL of a collector to which workloads may send OTLP over HTTP, as they reach it: a container does not reach the
    /// loopback of its host. Each container and each WebAssembly component gets it as HTTP_OTEL_EXPORTER_OTLP_ENDPOINT when it is
    /// made, and components may connect to it. Without it, the node offers no collector.
    #[arg(long, env = "EDGEWRIGHT_NODE_WORKLOAD_OTLP_HTTP", value_name = "URL", value_parser = collector_url)]
    pub workload_otlp_http: Option<String>,
    /// The same over gRPC, as GRPC_OTEL_EXPORTER_OTLP_ENDPOINT.
    #[arg(
        long,
        env = "EDGEWRIGHT_NODE_WORKLOAD_OTLP_GRPC",
        value_name = "URL",
        value_parser = collector_url,
        requires = "workload_otlp_http"
    )]
    pub workload_otlp_grpc: Option<String>,
    /// PEM file with the certificate by which workloads know that collector, or that of its authority. Workloads get the path of a
    /// copy as OTEL_EXPORTER_OTLP_CERTIFICATE.
    #[arg(
        long,
        env = "EDGEWRIGHT_NODE_WORKLOAD_OTLP_CERTIFICATE",
        value_name = "FILE",
        requires = "workload_otlp_http"
    )]
    pub workload_otlp_certificate: Option<PathBuf>,
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
    /// The base URL at which the site hands out JWTs, for a login whose JWT stands in a file.
    pub minter: String,
    /// Which certificates are believed there, where that address is https.
    pub minter_tls: Option<Arc<ClientConfig>>,
    /// An existing folder, or one that can be made.
    pub data: PathBuf,
    /// Whether workloads are told of a collector for their telemetry, which is one of the node's capabilities (DEV-10).
    pub has_collector: bool,
}

/// Takes the URL of a collector.
fn collector_url(text: &str) -> Result<String, String> {
    let is_short = text.len() <= 255 && text.bytes().all(|b| b.is_ascii_graphic());
    match destination_of(text).filter(|_| is_short) {
        Some(_) => Ok(text.to_owned()),
        None => Err("must be http:// or https:// and a host, and a port where it is another one".to_owned()),
    }
}

/// What the program depends on beside its runtimes.
pub struct Program {
    /// What the agent depends on.
    pub agent: Config,
    /// The address on which workloads of this node listen.
    pub workload_address: IpAddr,
    /// Ports that no workload may take.
    pub reserved_ports: ReservedPorts,
    /// Where workloads send their telemetry.
    pub collector: Collector,
    /// The operator's file with the certificate of the collector.
    pub collector_certificate: Option<PathBuf>,
    /// What becomes of workloads at the end.
    pub on_exit: OnExit,
}

impl TryFrom<AgentArgs> for Program {
    type Error = anyhow::Error;

    fn try_from(args: AgentArgs) -> anyhow::Result<Self> {
        let NodeCredentials { node, server, minter, seed, root_certificates } = credentials::load(&args.credentials)?;
        let file = args.credentials.display();
        ensure!(
            identity::nats::public_key(&seed).is_ok(),
            "credentials file {file}: seed must be the NKey seed of a user (58 characters that begin with SU)",
        );
        let plaintext = Plaintext::allowed(args.allow_plaintext);
        plaintext.check_url("the site's NATS server", &server)?;
        plaintext.check_url("the site's minter of logins", &minter)?;
        let trust = root_certificates.map(|roots| Trust::parse(&roots, &file)).transpose()?;
        let site = Peer::Site(node.client.clone());
        let tls = |setting: &str, url: &str| match &trust {
            _ if !speaks_tls(url) => Ok(None),
            Some(trust) => Ok(Some(trust.peer(&site))),
            None => bail!("credentials file {file}: with {setting} = {url:?}, root-certificates must be given"),
        };
        let (server_tls, minter_tls) = (tls("server", &server)?, tls("minter", &minter)?);
        let mut reserved_ports = args.reserved_ports;
        // A server without a port in its address listens on 4222.
        if let Some((_, port)) = server.rsplit_once(':')
            && let Ok(port) = port.trim_end_matches('/').parse()
        {
            reserved_ports.add(port);
        }
        let jwt = Jwt::File(args.data.join("login.jwt"));
        let bus = Login { url: server, tls: server_tls, seed, jwt, user: User::Node(node.clone()) };
        // Only its path: the file is read when the data folder is this agent's.
        let certificate = args.workload_otlp_certificate.is_some();
        let certificate = certificate.then(|| absolute(args.data.join(collector::FOLDER))).transpose()?;
        let collector = Collector { http: args.workload_otlp_http, grpc: args.workload_otlp_grpc, certificate };
        let has_collector = collector.http.is_some();
        let agent = Config { node, bus, minter, minter_tls, data: args.data, has_collector };
        let workload_address = args.workload_address;
        let collector_certificate = args.workload_otlp_certificate;
        let on_exit = args.on_exit;
        Ok(Self { agent, workload_address, reserved_ports, collector, collector_certificate, on_exit })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        agent: AgentArgs,
    }

    #[test]
    fn the_port_of_the_site_s_server_is_always_reserved() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.toml");
        let server = "nats://127.0.0.1:5555".to_owned();
        let (seed, minter) = (identity::nats::generate().0, "http://127.0.0.1:5557".to_owned());
        let node = "plant/press".parse().unwrap();
        let held = NodeCredentials { node, server, minter, seed, root_certificates: None };
        credentials::save(&file, &held).unwrap();
        let file = file.display().to_string();
        let line = ["edge-node", "--credentials", &file, "--data", "/d"];
        let reserved = |more: &[&str]| {
            let args = Arguments::try_parse_from(line.iter().chain(more)).unwrap();
            Program::try_from(args.agent).unwrap().reserved_ports.to_string()
        };
        assert_eq!(reserved(&[]), "4222,4323-4325,8082-8084,5555");
        assert_eq!(reserved(&["--reserved-ports", "8080"]), "8080,5555");
        for wrong in [
            &["--reserved-ports", "all"][..],
            &["--workload-otlp-http", "192.0.2.7:4318"],
            &["--workload-otlp-http", "http://192.0.2.7:port"],
            &["--workload-otlp-grpc", "http://192.0.2.7:4317"],
            &["--workload-otlp-certificate", "/etc/collector.pem"],
        ] {
            assert!(Arguments::try_parse_from(line.iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
