//! The command line of edgewright; it becomes settings in `hub`, `site` and `up`.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use bus::{ServiceName, service::SERVICES};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use identity::{
    plaintext::Plaintext,
    tls::{CertificateFiles, ServerConfig},
};
use margo::ReaderName;
use process::args::TelemetryArgs;
use store::PostgresUrl;

use crate::{hub::HubSettings, site::SiteSettings};

/// The services of Edgewright, a Margo fleet manager and edge orchestrator.
#[derive(Debug, Parser)]
#[command(name = "edgewright", version)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
    /// Address on which to serve /healthz, /readyz and /metrics, such as 127.0.0.1:8081. Absent: nowhere.
    #[arg(long, env = "EDGEWRIGHT_HEALTH", global = true)]
    pub health: Option<SocketAddr>,
    /// A PEM file with the certificate of --health and its chain.
    #[arg(long, env = "EDGEWRIGHT_HEALTH_CERTIFICATE", global = true, requires = "health_key", value_name = "FILE")]
    pub health_certificate: Option<PathBuf>,
    /// A PEM file with the key of that certificate; it may be the same file.
    #[arg(long, env = "EDGEWRIGHT_HEALTH_KEY", global = true, requires = "health_certificate", value_name = "FILE")]
    pub health_key: Option<PathBuf>,
    /// Let tokens, keys and documents cross a network in clear: a new hub or site gets no certificates, and addresses that
    /// are not loopback are used without.
    #[arg(long, env = "EDGEWRIGHT_ALLOW_PLAINTEXT", global = true)]
    pub allow_plaintext: bool,
    /// A file with the URL of the PostgreSQL database in which the central services keep their tables. Absent: each keeps
    /// a SQLite file in the data folder. The URL may also stand in the environment, as DATABASE_URL; it is no argument
    /// because it may hold a password.
    #[arg(long, env = "DATABASE_URL_FILE", global = true)]
    pub database_url_file: Option<PathBuf>,
}

impl Arguments {
    /// The certificate of the health checks, if there is one.
    pub fn health_tls(&self) -> anyhow::Result<Option<Arc<ServerConfig>>> {
        let Some((certificate, key)) = self.health_certificate.clone().zip(self.health_key.clone()) else {
            return Ok(None);
        };
        Ok(Some(CertificateFiles { certificate, key }.server()?))
    }

    /// The PostgreSQL database of the central services, if there is one.
    #[expect(clippy::disallowed_methods, reason = "an argument would show the password to everybody on the machine")]
    pub fn database(&self) -> anyhow::Result<Option<PostgresUrl>> {
        let url = std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty());
        database(url, self.database_url_file.as_deref())
    }
}

/// The database that the environment or a file names.
fn database(url: Option<String>, file: Option<&Path>) -> anyhow::Result<Option<PostgresUrl>> {
    let url = match (url, file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => bail!("DATABASE_URL and DATABASE_URL_FILE name a database: set one of them alone"),
        (Some(url), None) => url.parse().context("reading DATABASE_URL")?,
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            text.trim().parse().with_context(|| format!("reading {}", file.display()))?
        }
    };
    Ok(Some(url))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything on this machine: a hub, one site, two nodes and a sample application.
    Up(UpArgs),
    /// Make the hub's keys, users and settings in a data folder. What is there already stays.
    Init(InitArgs),
    /// Run a hub: its NATS server and all central services. Makes its data folder first where that is missing.
    Hub(HubArgs),
    /// Run a site: its NATS server, local-orchestrator and oci-fetcher. Makes its data folder first where that is missing.
    Site(InitSiteArgs),
    /// Make a site's keys, users and settings in a data folder. What is there already stays.
    InitSite(InitSiteArgs),
    /// Give a third party an account at the hub, and write a credentials file with which it reads STATE and EVENTS.
    Reader(ReaderArgs),
    /// Make a new key for commits and heads, and name it in KEYS beside those in force. Then restart git-writer.
    #[command(name = "rotate-signing-key")]
    RotateKey(DataArgs),
    /// Take all keys but that of git-writer out of KEYS. Then restart git-writer.
    #[command(name = "revoke-signing-keys")]
    RevokeKeys(RevokeKeysArgs),
    #[command(flatten)]
    Service(ServiceCommand),
}

#[derive(Debug, Args)]
pub struct RevokeKeysArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Revoke also while repositories are left that are signed with another key. They stand still then.
    #[arg(long)]
    pub anyway: bool,
}

#[derive(Debug, Args)]
pub struct ReaderArgs {
    /// The data folder of the hub.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
    /// The name of the third party.
    pub name: ReaderName,
    /// Where to write its credentials, as clients of NATS read them. It is a secret.
    #[arg(long, value_name = "FILE")]
    pub credentials: PathBuf,
}

/// One service as a process of its own: a subcommand for each row of the table of services.
#[derive(Debug)]
pub struct ServiceCommand {
    /// The service that the subcommand names.
    pub service: ServiceName,
    pub data: DataArgs,
}

impl Subcommand for ServiceCommand {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        SERVICES.iter().fold(command, |command, service| {
            let subcommand = clap::Command::new(service.name.as_str()).about(service.about);
            command.subcommand(DataArgs::augment_args(subcommand))
        })
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        Self::augment_subcommands(command)
    }

    fn has_subcommand(name: &str) -> bool {
        name.parse::<ServiceName>().is_ok()
    }
}

impl FromArgMatches for ServiceCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let found = matches.subcommand().and_then(|(name, matches)| Some((name.parse().ok()?, matches)));
        let (service, matches) = found.ok_or_else(|| clap::Error::new(ErrorKind::InvalidSubcommand))?;
        Ok(Self { service, data: DataArgs::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Says where a service that runs as its own process finds its keys and settings.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Data folder that `edgewright init` made, or `init-site` for a service of a site.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Data folder in which the hub keeps everything.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
    /// Address on which the hub's servers listen.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
}

impl InitArgs {
    /// The settings of a new hub whose servers all listen on the given address.
    pub fn settings(&self, plaintext: Plaintext) -> HubSettings {
        HubSettings::on(self.host, plaintext)
    }
}

#[derive(Debug, Args)]
pub struct HubArgs {
    #[command(flatten)]
    pub init: InitArgs,
    /// Path of the nats-server program. Absent: the one in the search path.
    #[arg(long, env = "EDGEWRIGHT_NATS_SERVER", default_value = "nats-server")]
    pub nats_server: PathBuf,
}

/// Arguments of `site` and of `init-site`, which makes the same folder without running it.
#[derive(Debug, Args)]
pub struct InitSiteArgs {
    /// Data folder in which the site keeps everything.
    #[arg(long, env = "EDGEWRIGHT_DATA")]
    pub data: PathBuf,
    /// Credentials file that `edgectl co add site` wrote.
    #[arg(long)]
    pub credentials: PathBuf,
    /// Address on which the site's servers listen.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// First of the site's three ports, which follow each other: NATS, artifacts, status.
    #[arg(long, default_value_t = 4323)]
    pub port: u16,
    /// Path of the nats-server program. Absent: the one in the search path.
    #[arg(long, env = "EDGEWRIGHT_NATS_SERVER", default_value = "nats-server")]
    pub nats_server: PathBuf,
}

impl InitSiteArgs {
    /// The settings of a new site whose servers all listen on the given address.
    pub fn settings(&self, plaintext: Plaintext) -> SiteSettings {
        SiteSettings::on(self.host, self.port, plaintext)
    }
}

#[derive(Debug, Args)]
pub struct UpArgs {
    /// Data folder in which everything is kept. What is there from an earlier run goes on.
    #[arg(long, env = "EDGEWRIGHT_DATA", default_value = ".edgewright")]
    pub data: PathBuf,
    /// Loopback address of hub and site. The two nodes' workloads listen on the two addresses after it.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: std::net::Ipv4Addr,
    /// Path of the nats-server program. Absent: the one in the search path.
    #[arg(long, env = "EDGEWRIGHT_NATS_SERVER", default_value = "nats-server")]
    pub nats_server: PathBuf,
    /// Folder of the sample application to pack and deploy.
    #[arg(long, default_value = "examples/hello")]
    pub sample: PathBuf,
    /// Command to run when everything runs. Its end stops everything, and its exit code is that of `up`.
    #[arg(long)]
    pub then: Option<PathBuf>,
}

impl Command {
    /// The name under which this process logs and traces.
    pub fn program(&self) -> &'static str {
        match self {
            Self::Up(_)
            | Self::Init(_)
            | Self::InitSite(_)
            | Self::Hub(_)
            | Self::Site(_)
            | Self::Reader(_)
            | Self::RotateKey(_)
            | Self::RevokeKeys(_) => "edgewright",
            Self::Service(command) => command.service.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_once_and_its_password_is_told_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        let url = || "postgres://ada:s3cret@db.example/edgewright".to_owned();
        std::fs::write(&file, format!("{}\n", url())).unwrap();
        assert!(database(None, None).unwrap().is_none());
        let named = [database(Some(url()), None), database(None, Some(&file))];
        for named in named.map(|named| named.unwrap().unwrap().to_string()) {
            assert_eq!(named, "the PostgreSQL database edgewright at db.example:5432");
        }
        assert!(database(Some(url()), Some(&file)).is_err());
        let wrong = database(Some("mysql://ada:s3cret@db".to_owned()), None).unwrap_err();
        assert!(!format!("{wrong:?}").contains("s3cret"), "{wrong:?}");
        assert!(database(None, Some(folder.path())).is_err());
    }

    #[test]
    fn every_service_is_a_subcommand_that_runs_as_its_own_process() {
        for name in ServiceName::ALL {
            let arguments = Arguments::try_parse_from(["edgewright", name.as_str(), "--data", "/d"]).unwrap();
            let Command::Service(ServiceCommand { service, data }) = &arguments.command else { panic!("{name}") };
            assert_eq!((service, data.data.to_str(), arguments.command.program()), (name, Some("/d"), name.as_str()));
        }
        assert!(Arguments::try_parse_from(["edgewright", "nobody", "--data", "/d"]).is_err());
        assert!(Arguments::try_parse_from(["edgewright", "git-writer"]).is_err(), "a service needs its folder");
    }
}
