//! Starting, calling and killing the parts of a whole platform that runs one process for each service.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bus::{Jwt, Login, ServiceName, Tier, User};
use edgectl::context::{Context, SiteContext};
use identity::tls::{Peer, Trust};
use margo::State;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{docker_compose_binary, loopback, nats_server_binary, wait_for};

use crate::process::{Process, kill_runners, output, program};

/// The names of the central services, each of which is also its subcommand of `edgewright`.
pub fn central() -> impl Iterator<Item = &'static str> {
    ServiceName::at(Tier::Hub).map(ServiceName::as_str)
}

/// The folder of the sample application.
pub fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello")
}

/// The address that many places after another.
pub fn after(address: Ipv4Addr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) + offset)
}

/// Runs edgectl with a context file and returns what came of it, success or not.
pub fn edgectl(context: &Path, arguments: &[&str]) -> Output {
    output(Command::new(program("edgectl")).arg("--context").arg(context).args(arguments))
}

/// Runs edgectl, which has to succeed, and returns what it wrote to stdout.
pub fn edgectl_ok(context: &Path, arguments: &[&str]) -> String {
    let output = edgectl(context, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "edgectl {} failed:\n{out}{err}", arguments.join(" "));
    out.into_owned()
}

/// Runs edgectl with `-o json`, which has to succeed, and returns the answer.
pub fn edgectl_json(context: &Path, arguments: &[&str]) -> Value {
    let text = edgectl_ok(context, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Waits until the application on this address answers with a text that contains `wanted`.
pub async fn answers(address: Ipv4Addr, wanted: &str) {
    let url = format!("http://{address}:8080/");
    wait_for(&format!("{url} to answer {wanted:?}"), async || {
        let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if text.contains(wanted) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Waits until nothing listens for the application on this address any longer.
pub async fn falls_silent(address: Ipv4Addr) {
    let url = format!("http://{address}:8080/");
    wait_for(&format!("{url} to fall silent"), async || match reqwest::get(&url).await {
        Err(_) => Ok(()),
        Ok(answer) => Err(answer.text().await.unwrap_or_default()),
    })
    .await;
}

/// A site and its nodes. Node names are unique over all sites of a platform, so that a test may call a node by its name.
#[derive(Clone, Copy, Debug)]
pub struct SiteLayout {
    /// The site's name, which is also its client's.
    pub name: &'static str,
    /// The names of the nodes, without that of the site.
    pub nodes: &'static [&'static str],
}

/// One site with two nodes, which is what most tests need.
const PLANT: &[SiteLayout] = &[SiteLayout { name: "plant", nodes: &["press", "oven"] }];

/// The application that a new platform is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// The catalogue stays empty.
    Nothing,
    /// The sample application runs on every node with the greeting `First`.
    Sample,
}

/// A hub and its sites, each service, server and agent a process of its own.
///
/// A process is called `hub-nats`, by the name of a central service, `<site>.nats`, `<site>.local-orchestrator`,
/// `<site>.oci-fetcher` or `<site>.<node>`.
pub struct Platform {
    address: Ipv4Addr,
    otlp: Option<String>,
    /// The socket of the engine on which nodes run containers.
    docker: Option<PathBuf>,
    sites: &'static [SiteLayout],
    processes: BTreeMap<String, Process>,
    // Last, so that the logs are there for as long as the processes are.
    folder: TempDir,
}

impl Platform {
    /// Starts a hub, these sites and their nodes.
    pub async fn start(sites: &'static [SiteLayout], application: Application) -> Self {
        let mut platform = Self::hub_only(sites, None).await;
        platform.start_sites();
        if application == Application::Sample {
            platform.deploy_sample().await;
        }
        platform
    }

    /// Starts a hub and the site `plant` with the nodes `press` and `oven`, which run the sample application. Traces go
    /// to `otlp`, the base URL of a receiver.
    pub async fn with_sample(otlp: Option<String>) -> Self {
        let mut platform = Self::hub_only(PLANT, otlp).await;
        platform.start_sites();
        platform.deploy_sample().await;
        platform
    }

    /// Starts a hub, these sites and their nodes, which run containers on the engine behind this socket.
    pub async fn with_docker(sites: &'static [SiteLayout], socket: PathBuf) -> Self {
        let mut platform = Self::hub_only(sites, None).await;
        platform.docker = Some(socket);
        platform.start_sites();
        platform
    }

    async fn hub_only(sites: &'static [SiteLayout], otlp: Option<String>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut platform = Self { folder, address: loopback(), otlp, docker: None, sites, processes: BTreeMap::new() };
        platform.command_ok(
            Command::new(program("edgewright"))
                .arg("init")
                .arg("--data")
                .arg(platform.hub())
                .args(["--host", &platform.address.to_string()]),
        );
        platform.run("hub-nats");
        central().for_each(|service| platform.run(service));
        platform.save_context();
        wait_for("every central service to answer", async || {
            let output = edgectl(&platform.context(), &["co", "status", "-o", "json"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let status: Value =
                serde_json::from_str(&text).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
            if status["missing"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(text) }
        })
        .await;
        platform
    }

    fn start_sites(&mut self) {
        for site in self.sites {
            self.start_site(site);
        }
    }

    fn start_site(&mut self, SiteLayout { name: site, nodes }: &SiteLayout) {
        let credentials = self.file(&format!("{site}.toml"));
        self.edgectl_ok(&["co", "add", "site", site, "--credentials", &credentials]);
        self.init_site(site);
        for part in ["nats", "local-orchestrator", "oci-fetcher"] {
            self.run(&format!("{site}.{part}"));
        }
        for node in *nodes {
            let credentials = self.file(&format!("{node}.toml"));
            let (name, server) = (format!("{site}/{node}"), self.nats_url(site));
            self.edgectl_ok(&["co", "add", "node", &name, "--credentials", &credentials, "--server", &server]);
            self.run(&format!("{site}.{node}"));
        }
    }

    /// Makes what a site's data folder lacks, from the credentials file that the site was given.
    pub fn init_site(&self, site: &str) {
        self.command_ok(
            Command::new(program("edgewright"))
                .arg("init-site")
                .arg("--data")
                .arg(self.site(site))
                .args(["--credentials", &self.file(&format!("{site}.toml"))])
                .args(["--host", &self.address.to_string(), "--port", &self.port(site).to_string()]),
        );
    }

    async fn deploy_sample(&mut self) {
        self.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
        let nodes = self.nodes();
        let mut order: Vec<&str> =
            "co deploy hello@1.0.0 --name hello --set greeting=First --wait".split(' ').collect();
        order.extend(nodes.iter().flat_map(|node| ["--to", node]));
        self.edgectl_ok(&order);
        for node in self.sites.iter().flat_map(|site| site.nodes) {
            answers(self.node_address(node), "First").await;
        }
    }

    /// The folder of everything: all data, logs and credentials.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The path of the hub's data folder.
    pub fn hub(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    /// The file of the platform's root certificate.
    pub fn trust_file(&self) -> PathBuf {
        self.hub().join("keys/ca/root.pem")
    }

    /// The path of a site's data folder.
    pub fn site(&self, site: &str) -> PathBuf {
        self.folder.path().join(site)
    }

    /// The name of every node as `site/node`.
    pub fn nodes(&self) -> Vec<String> {
        let nodes =
            |site: &SiteLayout| site.nodes.iter().map(|node| format!("{}/{node}", site.name)).collect::<Vec<_>>();
        self.sites.iter().flat_map(nodes).collect()
    }

    /// The name of every process that was started, also of those that were killed since.
    pub fn process_names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// The path of a node's data folder.
    pub fn node(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    /// The address on which a node's workloads listen.
    pub fn node_address(&self, node: &str) -> Ipv4Addr {
        let mut nodes = self.sites.iter().flat_map(|site| site.nodes);
        let at = nodes.position(|name| *name == node).unwrap_or_else(|| panic!("there is no node {node}"));
        after(self.address, 1 + at as u32)
    }

    /// The URL of the NATS server of a site, or of the hub when `owner` is `hub`.
    pub fn nats_url(&self, owner: &str) -> String {
        format!("tls://{}:{}", self.address, if owner == "hub" { 4222 } else { self.port(owner) })
    }

    /// What a user needs who connects with this seed and JWT to the NATS server of a site, or of the hub when `owner` is `hub`.
    pub fn login(&self, owner: &str, user: User, seed: String, jwt: Jwt) -> Login {
        let trust = Trust::load(&self.trust_file()).expect("`init` writes it");
        let peer = if owner == "hub" { Peer::Hub } else { Peer::Site(owner.parse().expect("a site's name")) };
        Login { url: self.nats_url(owner), tls: Some(trust.peer(&peer)), seed, jwt, user }
    }

    /// The base URL of the interface of a site's LO.
    pub fn site_url(&self, site: &str) -> String {
        format!("https://{}:{}", self.address, self.port(site) + 2)
    }

    /// The first of a site's three ports.
    fn port(&self, site: &str) -> u16 {
        let at = self.sites.iter().position(|layout| layout.name == site);
        4323 + 100 * at.unwrap_or_else(|| panic!("there is no site {site}")) as u16
    }

    /// The path of the context file for edgectl.
    pub fn context(&self) -> PathBuf {
        self.folder.path().join("edgectl.toml")
    }

    /// The API token of the admin.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.hub().join("admin.token")).expect("`init` writes it")
    }

    /// The URL of the REST interface, with `/api/v1`.
    pub fn api(&self) -> String {
        format!("http://{}:8080/api/v1", self.address)
    }

    /// Runs edgectl on this platform, which has to succeed, and returns what it wrote to stdout.
    pub fn edgectl_ok(&self, arguments: &[&str]) -> String {
        edgectl_ok(&self.context(), arguments)
    }

    /// Runs edgectl on this platform with `-o json`, which has to succeed, and returns the answer.
    pub fn edgectl_json(&self, arguments: &[&str]) -> Value {
        edgectl_json(&self.context(), arguments)
    }

    /// Waits until there are deployments and every one of them is installed. A service that has not yet found the bus
    /// again, or was just started, is waited for too.
    pub async fn all_installed(&self) {
        wait_for("every deployment to be installed", async || {
            let listed = edgectl(&self.context(), &["co", "list", "deployments", "-o", "json"]);
            let deployments: Value = serde_json::from_slice(&listed.stdout)
                .map_err(|_| Value::from(String::from_utf8_lossy(&listed.stderr).into_owned()))?;
            let all = deployments.as_array().expect("a list");
            let installed = all.iter().all(|deployment| deployment["state"] == State::Installed.as_str());
            if installed && !all.is_empty() { Ok(()) } else { Err(deployments) }
        })
        .await;
    }

    /// Starts a process by its name. One that was killed goes on with the data that it left.
    pub fn run(&mut self, name: &str) {
        self.run_to(name, None);
    }

    /// Like [`Platform::run`], but the process stops itself when it reaches this point (see `process::stop_point`).
    pub fn run_to(&mut self, name: &str, stop_point: Option<&str>) {
        let mut command = self.command(name);
        if let Some(point) = stop_point {
            command.env("EDGEWRIGHT_STOP_POINT", point);
        }
        if let Some(endpoint) = &self.otlp {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        }
        let process = Process::start(name, self.folder.path(), &mut command);
        self.processes.insert(name.to_owned(), process);
    }

    /// A process that was started, by its name.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Sends SIGKILL to a process and waits for its end.
    pub fn kill(&mut self, name: &str) {
        self.process(name).kill();
    }

    fn command(&self, name: &str) -> Command {
        let edgewright = |part: &str, data: PathBuf| {
            let mut command = Command::new(program("edgewright"));
            command.arg(part).arg("--data").arg(data);
            command
        };
        let nats = |data: PathBuf| {
            let mut command = Command::new(nats_server_binary());
            command.arg("--config").arg(data.join("nats/nats.conf"));
            command
        };
        match name.split_once('.') {
            None if name == "hub-nats" => nats(self.hub()),
            None => edgewright(name, self.hub()),
            Some((site, "nats")) => nats(self.site(site)),
            Some((site, part @ ("local-orchestrator" | "oci-fetcher"))) => edgewright(part, self.site(site)),
            Some((_, node)) => {
                let mut command = Command::new(program("edge-node"));
                command.args(["--credentials", &self.file(&format!("{node}.toml")), "--data"]);
                command.arg(self.node(node)).args(["--workload-address", &self.node_address(node).to_string()]);
                if let Some(socket) = &self.docker {
                    command.arg("--docker-socket").arg(socket).arg("--docker-compose").arg(docker_compose_binary());
                }
                command
            }
        }
    }

    fn command_ok(&self, command: &mut Command) {
        let output = output(command);
        assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn save_context(&self) {
        let site = |layout: &SiteLayout| {
            let context = SiteContext {
                status: Some(self.site_url(layout.name)),
                token_file: Some(self.site(layout.name).join("keys/status.token")),
                trust_file: Some(self.trust_file()),
                server: Some(self.nats_url(layout.name)),
            };
            (layout.name.parse().expect("a name"), context)
        };
        let context = Context {
            api: Some(format!("http://{}:8080", self.address)),
            token_file: Some(self.hub().join("admin.token")),
            trust_file: None,
            sites: self.sites.iter().map(site).collect(),
        };
        context.save(&self.context()).expect("writing the context");
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Agents first, or they would start again what is killed after them.
        let nodes: Vec<String> = self.nodes().iter().map(|node| node.replace('/', ".")).collect();
        self.processes.retain(|name, _| !nodes.contains(name));
        kill_runners(self.folder.path());
    }
}
