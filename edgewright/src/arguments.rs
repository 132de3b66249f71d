//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use bus::ServiceName;
use clap::{Args, Parser, Subcommand};
use service::args::TelemetryArgs;

use crate::{hub::HubSettings, site::SiteSettings};

/// The services of Edgewright, a Margo fleet manager and edge orchestrator.
#[derive(Debug, Parser)]
#[command(name = "edgewright", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Serve /healthz, /readyz and /metrics here, such as 127.0.0.1:8081.
    #[arg(long, env = "EDGEWRIGHT_HEALTH", global = true)]
    pub health: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything on this machine: hub, one site, two nodes, a sample application.
    Up(UpArgs),
    /// Make the hub's keys, users and settings in a data folder; what is there stays.
    Init(InitArgs),
    /// A site: its NATS server, local-orchestrator and oci-fetcher.
    Site(InitSiteArgs),
    /// Make a site's keys, users and settings in a data folder; what is there stays.
    InitSite(InitSiteArgs),
    #[command(flatten)]
    Service(ServiceCommand),
}

/// One service as a process of its own.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// REST for people and programs.
    ApiGateway(DataArgs),
    /// The catalogue, and the platform's OCI store.
    AppRegistry(DataArgs),
    /// Orders: what is meant becomes what each node shall run.
    DeploymentRegistry(DataArgs),
    /// Orders become signed commits.
    GitWriter(DataArgs),
    /// Commits become desired state on the bus.
    GitObserver(DataArgs),
    /// Reports become status and history.
    StatusCollector(DataArgs),
    /// Sites and nodes.
    NodeCapabilities(DataArgs),
    /// Head of a site.
    LocalOrchestrator(DataArgs),
    /// Artifacts of a site.
    OciFetcher(DataArgs),
}

/// Where a process of its own finds its keys and settings.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// The folder that `edgewright init` (or `init-site`) made.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where the hub keeps everything.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
    /// Address on which the hub's servers listen.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
}

impl InitArgs {
    /// The settings of a hub on one address.
    pub fn settings(&self) -> HubSettings {
        HubSettings::on(self.host)
    }
}

/// Arguments of `site` and `init-site`.
#[derive(Debug, Args)]
pub struct InitSiteArgs {
    /// Where the site keeps everything.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
    /// The file that `edgectl co add site` wrote.
    #[arg(long)]
    pub credentials: PathBuf,
    /// Address on which the site's servers listen.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// First of the site's three ports: NATS, artifacts, status.
    #[arg(long, default_value_t = 4323)]
    pub port: u16,
    /// The nats-server program. Absent: `nats-server` in the search path.
    #[arg(long, env = "EDGEWRIGHT_NATS_SERVER", default_value = "nats-server")]
    pub nats_server: PathBuf,
}

impl InitSiteArgs {
    /// The settings of a site on one address.
    pub fn settings(&self) -> SiteSettings {
        SiteSettings::on(self.host, self.port)
    }
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Where everything is kept. What is there from an earlier time goes on.
    #[arg(long, env = "EDGEWRIGHT_DATA", default_value = ".edgewright")]
    pub data: PathBuf,
    /// Loopback address of hub and site. The two nodes' workloads listen on the two addresses after it.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: std::net::Ipv4Addr,
    /// The nats-server program. Absent: `nats-server` in the search path.
    #[arg(long, env = "EDGEWRIGHT_NATS_SERVER", default_value = "nats-server")]
    pub nats_server: PathBuf,
    /// Folder of the sample application.
    #[arg(long, default_value = "examples/hello")]
    pub sample: PathBuf,
    /// When everything runs, run this command, stop, and end with its exit code.
    #[arg(long)]
    pub then: Option<PathBuf>,
}

/// Where a service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// At the hub.
    Central,
    /// At a site.
    Site,
}

impl ServiceCommand {
    /// Which service, and where.
    pub fn service(&self) -> (ServiceName, Tier, &DataArgs) {
        match self {
            Self::ApiGateway(data) => (ServiceName::ApiGateway, Tier::Central, data),
            Self::AppRegistry(data) => (ServiceName::AppRegistry, Tier::Central, data),
            Self::DeploymentRegistry(data) => (ServiceName::DeploymentRegistry, Tier::Central, data),
            Self::GitWriter(data) => (ServiceName::GitWriter, Tier::Central, data),
            Self::GitObserver(data) => (ServiceName::GitObserver, Tier::Central, data),
            Self::StatusCollector(data) => (ServiceName::StatusCollector, Tier::Central, data),
            Self::NodeCapabilities(data) => (ServiceName::NodeCapabilities, Tier::Central, data),
            Self::LocalOrchestrator(data) => (ServiceName::LocalOrchestrator, Tier::Site, data),
            Self::OciFetcher(data) => (ServiceName::OciFetcher, Tier::Site, data),
        }
    }
}

impl Command {
    /// The name under which this process logs and traces.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Up(_) | Self::Init(_) | Self::InitSite(_) | Self::Site(_) => "edgewright",
            Self::Service(command) => command.service().0.as_str(),
        }
    }
}
