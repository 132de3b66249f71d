//! A whole platform, one process for each service.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use edgectl::context::{Context, SiteContext};
use margo::State;
use serde_json::Value;
use tempfile::TempDir;
use testkit::{loopback, nats_server_binary, wait_for};

use crate::process::{Process, kill_runners, output, program};

/// The central services; each is a subcommand of `edgewright`.
pub const CENTRAL: [&str; 7] = [
    "git-writer",
    "git-observer",
    "status-collector",
    "node-capabilities",
    "app-registry",
    "deployment-registry",
    "api-gateway",
];

/// The sample application.
pub fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello")
}

/// The address `offset` places after another.
pub fn after(address: Ipv4Addr, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) + offset)
}

/// Calls edgectl with a context file.
pub fn edgectl(context: &Path, arguments: &[&str]) -> Output {
    output(Command::new(program("edgectl")).arg("--context").arg(context).args(arguments))
}

/// Calls edgectl, which has to succeed.
pub fn edgectl_ok(context: &Path, arguments: &[&str]) -> String {
    let output = edgectl(context, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "edgectl {} failed:\n{out}{err}", arguments.join(" "));
    out.into_owned()
}

/// Calls edgectl with `-o json`.
pub fn edgectl_json(context: &Path, arguments: &[&str]) -> Value {
    let text = edgectl_ok(context, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Waits until the application on this address answers with this text.
pub async fn answers(address: Ipv4Addr, wanted: &str) {
    let url = format!("http://{address}:8080/");
    wait_for(&format!("{url} to answer {wanted:?}"), async || {
        let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if text.contains(wanted) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Whether nothing listens for the application on this address any longer.
pub async fn falls_silent(address: Ipv4Addr) {
    let url = format!("http://{address}:8080/");
    wait_for(&format!("{url} to fall silent"), async || match reqwest::get(&url).await {
        Err(_) => Ok(()),
        Ok(answer) => Err(answer.text().await.unwrap_or_default()),
    })
    .await;
}

/// Hub, site `plant`, nodes `press` and `oven`: each service, server and agent a process of its own.
pub struct Platform {
    address: Ipv4Addr,
    otlp: Option<String>,
    processes: BTreeMap<String, Process>,
    // Last, so that the logs are there for as long as the processes are.
    folder: TempDir,
}

impl Platform {
    /// Everything up, no application yet.
    pub async fn start(otlp: Option<String>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut platform = Self { folder, address: loopback(), otlp, processes: BTreeMap::new() };
        platform.command_ok(
            Command::new(program("edgewright"))
                .arg("init")
                .arg("--data")
                .arg(platform.hub())
                .args(["--host", &platform.address.to_string()]),
        );
        platform.run("hub-nats");
        CENTRAL.iter().for_each(|service| platform.run(service));
        platform.save_context();
        wait_for("every central service to answer", async || {
            let output = edgectl(&platform.context(), &["co", "status", "-o", "json"]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let status: Value =
                serde_json::from_str(&text).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())?;
            if status["missing"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(text) }
        })
        .await;

        let credentials = platform.file("plant.toml");
        platform.edgectl_ok(&["co", "add", "site", "plant", "--credentials", &credentials]);
        platform.command_ok(
            Command::new(program("edgewright")).arg("init-site").arg("--data").arg(platform.site()).args([
                "--credentials",
                &credentials,
                "--host",
                &platform.address.to_string(),
            ]),
        );
        for name in ["site-nats", "local-orchestrator", "oci-fetcher"] {
            platform.run(name);
        }
        for node in ["press", "oven"] {
            let credentials = platform.file(&format!("{node}.toml"));
            let name = format!("plant/{node}");
            let server = format!("nats://{}:4323", platform.address);
            platform.edgectl_ok(&["co", "add", "node", &name, "--credentials", &credentials, "--server", &server]);
            platform.run(&format!("edge-node-{node}"));
        }
        platform
    }

    /// With the sample application on both nodes.
    pub async fn with_sample(otlp: Option<String>) -> Self {
        let platform = Self::start(otlp).await;
        platform.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
        let deploy = "co deploy hello@1.0.0 --name hello --to plant/press --to plant/oven --set greeting=First --wait";
        platform.edgectl_ok(&deploy.split(' ').collect::<Vec<_>>());
        for node in ["press", "oven"] {
            answers(platform.node_address(node), "First").await;
        }
        platform
    }

    /// The hub's data folder.
    pub fn hub(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    /// The site's data folder.
    pub fn site(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    /// A node's data folder.
    pub fn node(&self, node: &str) -> PathBuf {
        self.folder.path().join(node)
    }

    /// Where a node's workloads listen.
    pub fn node_address(&self, node: &str) -> Ipv4Addr {
        after(self.address, if node == "press" { 1 } else { 2 })
    }

    /// The hub's or the site's NATS server.
    pub fn nats_url(&self, tier: &str) -> String {
        format!("nats://{}:{}", self.address, if tier == "hub" { 4222 } else { 4323 })
    }

    /// The context file of edgectl.
    pub fn context(&self) -> PathBuf {
        self.folder.path().join("edgectl.toml")
    }

    /// The admin's token.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.hub().join("admin.token")).expect("`init` writes it")
    }

    /// Base of the REST interface.
    pub fn api(&self) -> String {
        format!("http://{}:8080/api/v1", self.address)
    }

    /// Calls edgectl, which has to succeed.
    pub fn edgectl_ok(&self, arguments: &[&str]) -> String {
        edgectl_ok(&self.context(), arguments)
    }

    /// Calls edgectl with `-o json`.
    pub fn edgectl_json(&self, arguments: &[&str]) -> Value {
        edgectl_json(&self.context(), arguments)
    }

    /// Waits until every deployment is installed as wanted.
    pub async fn all_installed(&self) {
        wait_for("every deployment to be installed", async || {
            let deployments = self.edgectl_json(&["co", "list", "deployments"]);
            let all = deployments.as_array().expect("a list");
            let installed = all.iter().all(|deployment| deployment["state"] == State::Installed.as_str());
            if installed && !all.is_empty() { Ok(()) } else { Err(deployments) }
        })
        .await;
    }

    /// Starts a process by its name; one that was killed goes on where it was.
    pub fn run(&mut self, name: &str) {
        self.run_to(name, None);
    }

    /// The same, with a point at which it stops itself.
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

    /// A process by its name.
    pub fn process(&mut self, name: &str) -> &mut Process {
        self.processes.get_mut(name).unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Ends a process without warning.
    pub fn kill(&mut self, name: &str) {
        self.process(name).kill();
    }

    fn command(&self, name: &str) -> Command {
        let edgewright = |data: PathBuf| {
            let mut command = Command::new(program("edgewright"));
            command.arg(name).arg("--data").arg(data);
            command
        };
        let nats = |data: PathBuf| {
            let mut command = Command::new(nats_server_binary());
            command.arg("--config").arg(data.join("nats/nats.conf"));
            command
        };
        match name {
            "hub-nats" => nats(self.hub()),
            "site-nats" => nats(self.site()),
            "local-orchestrator" | "oci-fetcher" => edgewright(self.site()),
            _ => match name.strip_prefix("edge-node-") {
                None => edgewright(self.hub()),
                Some(node) => {
                    let mut command = Command::new(program("edge-node"));
                    command.args(["--credentials", &self.file(&format!("{node}.toml")), "--data"]);
                    command.arg(self.node(node)).args(["--workload-address", &self.node_address(node).to_string()]);
                    command
                }
            },
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
        let site = SiteContext {
            status: Some(format!("http://{}:4325", self.address)),
            token_file: Some(self.site().join("keys/status.token")),
            server: Some(self.nats_url("site")),
        };
        let context = Context {
            api: Some(format!("http://{}:8080", self.address)),
            token_file: Some(self.hub().join("admin.token")),
            sites: [("plant".parse().expect("a name"), site)].into(),
        };
        context.save(&self.context()).expect("writing the context");
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // Agents first, or they would start again what is killed after them.
        self.processes.retain(|name, _| !name.starts_with("edge-node"));
        kill_runners(self.folder.path());
    }
}
