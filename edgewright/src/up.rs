//! `edgewright up` leads from nothing to a running application, on one machine.
//!
//! The services of hub and site run in this process; nats-servers and edge-nodes are its children. Site, nodes, application
//! and order are made by `edgectl`, with the same commands that a person uses. What exists from an earlier run goes on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use disk::FolderLock;
use edgectl::context::{Context, SiteContext};
use identity::plaintext::Plaintext;
use margo::{NodeName, SiteName};
use process::args::TelemetryArgs;
use service::Health;
use store::PostgresUrl;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    arguments::UpArgs,
    children::{Program, check_nats_server, nats_server},
    hub,
    site::{self, SiteSettings},
    supervise::Tasks,
};

const SITE: &str = "plant";
const NODES: [&str; 2] = ["press", "oven"];
const ASSIGNMENT: &str = "hello";

/// The first of the site's three ports; the hub has others, and both share one address.
const SITE_PORT: u16 = 4323;

/// Runs everything until shutdown, or until the command of `--then` has ended.
pub async fn run(
    args: &UpArgs,
    plaintext: Plaintext,
    database: Option<PostgresUrl>,
    telemetry: &TelemetryArgs,
    health: &Health,
    shutdown: &CancellationToken,
) -> anyhow::Result<ExitCode> {
    check_nats_server(&args.nats_server).await?;
    // Two that start at once must not both make keys.
    let _lock = lock(&args.data)?;
    let settings = hub::HubSettings::on(IpAddr::V4(args.host), plaintext);
    let hub = hub::init(&args.data, &settings, plaintext)?.with_database(database);
    let data = args.data.canonicalize()?;
    ensure!(
        IpAddr::V4(args.host) == hub.settings.api_listen.ip(),
        "{} was made for {}: give --host {1}, or another --data",
        data.display(),
        hub.settings.api_listen.ip(),
    );
    check_free(hub.settings.api_listen)?;

    let mut tasks = Tasks::default();
    tasks.spawn("nats-server of the hub", nats_server(&args.nats_server, &hub.nats()).supervise(shutdown.clone()));
    hub.spawn(&mut tasks, health, shutdown);

    let made = async {
        let up = Up { args, plaintext, telemetry, data: &data, programs: programs_folder()? };
        up.make(&hub, &mut tasks, health, shutdown).await
    };
    let code = tokio::select! {
        code = made => code,
        () = shutdown.cancelled() => Ok(Some(ExitCode::SUCCESS)),
    };
    match code {
        Ok(None) => tasks.join(shutdown).await.map(|()| ExitCode::SUCCESS),
        Ok(Some(code)) => {
            shutdown.cancel();
            tasks.join(shutdown).await.map(|()| code)
        }
        Err(error) => {
            shutdown.cancel();
            // This failure came first; those of the tasks most likely follow from it.
            let _ = tasks.join(shutdown).await;
            Err(error)
        }
    }
}

/// Fails when somebody else listens here: the service would only be started again and again. Nothing of an earlier life
/// does, since REST ends with this process.
fn check_free(address: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "another program listens on {address}: end it, or give another address of this machine with --host, such as \
             127.1.0.1, and another folder with --data"
        ),
        // Whatever else is wrong, the service says it better.
        _ => Ok(()),
    }
}

struct Up<'a> {
    args: &'a UpArgs,
    plaintext: Plaintext,
    telemetry: &'a TelemetryArgs,
    data: &'a Path,
    programs: PathBuf,
}

impl Up<'_> {
    /// Makes and starts what is missing. Returns the exit code of the command of `--then`, or `None` without one, when
    /// everything shall go on running.
    async fn make(
        &self,
        hub: &hub::Hub,
        tasks: &mut Tasks,
        health: &Health,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<ExitCode>> {
        let site: SiteName = SITE.parse()?;
        let mut context = Context {
            api: Some(hub.settings.api_url()),
            token_file: Some(hub.admin_token()),
            trust_file: Some(hub.trust_file()),
            sites: Default::default(),
        };
        context.save(&self.context_file())?;
        ready(health).await;

        let folder = site::folder(self.data, &site);
        let credentials = folder.join("credentials.toml");
        self.credentials(&["co", "add", "site", SITE], &credentials).await?;
        let settings = SiteSettings::on(IpAddr::V4(self.args.host), SITE_PORT, self.plaintext);
        let opened = site::init(&folder, &credentials, &settings, self.plaintext)?;
        let otlp = self.telemetry.otlp_endpoint.as_deref();
        opened.spawn(tasks, &self.args.nats_server, otlp, health, shutdown);
        let server = opened.settings.nats_url();
        context.sites.insert(
            site.clone(),
            SiteContext {
                status: Some(opened.settings.status_url()),
                token_file: Some(opened.status_token()),
                trust_file: Some(hub.trust_file()),
                server: Some(server.clone()),
            },
        );
        context.save(&self.context_file())?;

        for (at, node) in NODES.into_iter().enumerate() {
            let node: NodeName = node.parse()?;
            let name = format!("{site}/{node}");
            let folder = self.data.join("nodes").join(&name);
            let credentials = folder.join("credentials.toml");
            self.credentials(&["co", "add", "node", &name, "--server", &server], &credentials).await?;
            let address = Ipv4Addr::from(u32::from(self.args.host) + 1 + at as u32);
            let reserved = reserved_ports(address, &hub.settings, &opened.settings);
            let agent = self.node(&folder, &credentials, address, &reserved);
            tasks.spawn(format!("edge-node {name}"), agent.supervise(shutdown.clone()));
        }
        ready(health).await;

        let sample = self.args.sample.display().to_string();
        self.edgectl(&["co", "add", "app", &sample]).await?;
        if !self.knows_assignment().await? {
            let targets = NODES.map(|node| format!("{SITE}/{node}"));
            let app = "hello@1.0.0";
            let mut order = vec!["co", "deploy", app, "--name", ASSIGNMENT, "--wait"];
            order.extend(targets.iter().flat_map(|target| ["--to", target]));
            self.edgectl(&order).await?;
        }
        self.edgectl(&["co", "list", "deployments"]).await?;
        let Some(command) = &self.args.then else {
            println!(
                "\nEverything runs; Ctrl-C ends it. In another terminal:\n\n    {} co status\n",
                self.edgectl_line()
            );
            return Ok(None);
        };
        let status = Command::new(command)
            .env("EDGEWRIGHT_CONTEXT", self.context_file())
            .env("EDGEWRIGHT_DATA", self.data)
            .env("EDGEWRIGHT_PROGRAMS", &self.programs)
            .status()
            .await
            .with_context(|| format!("running {}", command.display()))?;
        Ok(Some(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)))
    }

    fn context_file(&self) -> PathBuf {
        self.data.join("edgectl.toml")
    }

    /// What a person types to call edgectl for this platform: without `--context` where edgectl finds the file by itself.
    fn edgectl_line(&self) -> String {
        let program = self.programs.join("edgectl").display().to_string();
        let default = std::env::current_dir().is_ok_and(|here| here.join(".edgewright") == self.data);
        if default { program } else { format!("{program} --context {}", self.context_file().display()) }
    }

    /// The agent of a node whose workloads listen on this address, on none of the reserved ports.
    fn node(&self, folder: &Path, credentials: &Path, address: Ipv4Addr, reserved: &str) -> Program {
        let arguments = [
            ("--credentials", credentials.display().to_string()),
            ("--data", folder.join("data").display().to_string()),
            ("--workload-address", address.to_string()),
            ("--reserved-ports", reserved.to_owned()),
            // Workloads outlive their agent elsewhere; whoever ends `up` wants the machine back.
            ("--on-exit", "stop".to_owned()),
            ("--log", self.telemetry.log.clone()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        Program {
            name: "edge-node".to_owned(),
            path: self.programs.join("edge-node"),
            arguments,
            folder: folder.to_owned(),
        }
    }

    /// Runs a command of edgectl that writes a credentials file, unless the file is there already.
    async fn credentials(&self, command: &[&str], file: &Path) -> anyhow::Result<()> {
        if file.exists() {
            return Ok(());
        }
        let parent = file.parent().context("a credentials file has a folder")?;
        disk::make_private_folder(parent)?;
        let file = file.display().to_string();
        self.edgectl(&[command, &["--credentials", &file]].concat()).await
    }

    /// Shows and runs one command of edgectl, which has to succeed.
    async fn edgectl(&self, command: &[&str]) -> anyhow::Result<()> {
        println!("$ edgectl {}", command.join(" "));
        let status = self.edgectl_command(command).status().await.context("running edgectl")?;
        ensure!(status.success(), "edgectl {} failed", command.join(" "));
        Ok(())
    }

    async fn knows_assignment(&self) -> anyhow::Result<bool> {
        let output = self.edgectl_command(&["co", "list", "assignments", "-o", "json"]).output().await?;
        if !output.status.success() {
            bail!("edgectl co list assignments failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let assignments: Vec<api::Assignment> = serde_json::from_slice(&output.stdout)?;
        Ok(assignments.iter().any(|assignment| assignment.name.as_str() == ASSIGNMENT))
    }

    fn edgectl_command(&self, command: &[&str]) -> Command {
        let mut process = Command::new(self.programs.join("edgectl"));
        process.arg("--context").arg(self.context_file()).args(command).kill_on_drop(true);
        process
    }
}

/// The ports of hub and site, which no workload on this address may take. That of REST is among them only where REST can be
/// reached on this address: applications like its number.
fn reserved_ports(address: Ipv4Addr, hub: &hub::HubSettings, site: &SiteSettings) -> String {
    let here = |listen: &SocketAddr| listen.ip() == IpAddr::V4(address) || listen.ip().is_unspecified();
    let rest = Some(hub.api_listen).filter(here);
    let at_hub = [hub.nats_listen, hub.store_listen, hub.identity_listen, hub.repositories_listen];
    let others = at_hub.into_iter().chain([site.nats_listen, site.artifacts_listen, site.status_listen]);
    others.chain(rest).map(|listen| listen.port().to_string()).collect::<Vec<_>>().join(",")
}

/// The folder of this program, in which `edgectl` and `edge-node` lie as well.
fn programs_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the folder of the programs")?;
    Ok(own.parent().context("a program lies in a folder")?.to_owned())
}

/// Holds the data folder, which is made when it is missing, for this process; fails while another `up` runs on it.
fn lock(data: &Path) -> anyhow::Result<FolderLock> {
    disk::take_data_folder(data).with_context(|| format!("taking the data folder {}", data.display()))?;
    let path = data.join("lock");
    let lock = FolderLock::take(&path).with_context(|| format!("opening {}", path.display()))?;
    lock.with_context(|| format!("{} is in use by another `edgewright up`", data.display()))
}

/// Waits until every service of this process says that it can do its work. A look costs some microseconds, and whoever
/// starts the platform waits for it.
async fn ready(health: &Health) {
    let mut look = tokio::time::interval(Duration::from_millis(5));
    while !health.is_ready() {
        look.tick().await;
    }
    info!("every service is ready");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_workload_takes_a_port_of_hub_or_site() {
        let (host, plaintext) = (IpAddr::from([127, 0, 0, 1]), Plaintext::OnLoopback);
        let (mut hub, site) = (hub::HubSettings::on(host, plaintext), SiteSettings::on(host, 4323, plaintext));
        let of = |hub: &hub::HubSettings| reserved_ports(Ipv4Addr::new(127, 0, 0, 2), hub, &site);
        assert_eq!(of(&hub), "4222,8082,8083,8084,4323,4324,4325");
        hub.api_listen.set_ip(Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(of(&hub), "4222,8082,8083,8084,4323,4324,4325,8080");
    }
}
