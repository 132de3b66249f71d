//! Memory of an agent and its workloads: `edge_node_pss_mib`, `edge_node_pss_100_mib` and `wasm_workload_pss_mib`; and with a
//! Docker Engine `edge_node_pss_docker_mib`.
//!
//! The agent and the runners are those of the `dist` profile, and no other agent of the same program runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use end_to_end::{Platform, Process, after, answers, kill_runners, program, sample};
use tempfile::TempDir;
use testkit::{DockerEngine, docker_compose_binary};
use tokio::time::sleep;

use crate::{
    Effort, Samples, containers, machine, platform,
    rest::{Rest, Targets, Wish},
};

/// After the last order the agent rests for this long: memory of what it did is given back.
const SETTLE: Duration = Duration::from_secs(10);

/// How long all workloads may take to be installed.
const PATIENCE: Duration = Duration::from_secs(180);

const NODE: &str = "plant/press";

/// The port of the first workload, which is asked.
const PORT: usize = 8_080;

/// The ports of the others begin here, beyond those that a node reserves for the platform.
const FIRST_PORT: usize = 9_000;

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let count = effort.of(5, 100, 100);
    let runner_program = shipped("wasm-runner")?;
    let running = platform::without_nodes().await;
    let rest = Rest::of(&running);
    let folder = Workloads(TempDir::new().context("a folder for the agent")?);
    let address = after(platform::address(&running)?, 1);
    let process = agent(&running, folder.0.path(), |command| {
        command.arg("--wasm-runner").arg(runner_program).args(["--workload-address", &address.to_string()]);
    })?;
    let agent = &[process.id()];

    let mut one = Samples::new("edge_node_pss_mib");
    let mut hundred = Samples::new("edge_node_pss_100_mib");
    let mut workload = Samples::new("wasm_workload_pss_mib");
    for number in 0..count {
        let app = package(folder.0.path(), number)?;
        running.edgectl_ok(&["co", "add", "app", &folder.0.path().join(&app).display().to_string()]);
        let targets = Targets::Nodes(vec![NODE.to_owned()]);
        rest.create(&app, &Wish { app: app.clone(), greeting: "Servus".to_owned(), targets }).await?;
        if number == 0 {
            answers(address, "Servus").await;
            settle(&rest, 1).await?;
            for _ in 0..effort.of(2, 5, 5) {
                one.values.push(machine::pss_mib(agent)?);
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
    settle(&rest, count).await?;
    let runners = platform::workloads(folder.0.path());
    ensure!(runners.len() == count, "{} runners live, not {count}", runners.len());
    let mut sleeper = Process::start("sleep", folder.0.path(), Command::new("sleep").arg("600"));
    for _ in 0..effort.of(2, 5, 5) {
        hundred.values.push(machine::pss_mib(agent)?);
        workload.values.push(machine::pss_mib(&runners)? / runners.len() as f64);
        workload.references.push(machine::pss_mib(&[sleeper.id()])?);
        sleep(Duration::from_secs(1)).await;
    }
    sleeper.kill();
    hundred.references.clone_from(&one.values);
    Ok(vec![one, hundred, workload])
}

/// The agent with an engine that it uses, and one workload of one container.
pub async fn with_docker(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let engine = DockerEngine::start()?;
    let running = platform::without_nodes().await;
    let rest = Rest::of(&running);
    let folder = TempDir::new().context("a folder for the agent")?;
    let process = agent(&running, folder.path(), |command| {
        command.arg("--docker-socket").arg(engine.socket()).arg("--docker-compose").arg(docker_compose_binary());
    })?;
    running.add_compose_version("1.0.0", &containers::compose(containers::IMAGE, "8088"), "nothing yet");
    containers::runs_compose(&rest).await;
    let targets = Targets::Nodes(vec![NODE.to_owned()]);
    rest.create("pages", &Wish { app: "hello-compose".to_owned(), greeting: "Servus".to_owned(), targets }).await?;
    settle(&rest, 1).await?;
    let mut samples = Samples::new("edge_node_pss_docker_mib");
    for _ in 0..effort.of(2, 5, 5) {
        samples.values.push(machine::pss_mib(&[process.id()])?);
        sleep(Duration::from_secs(1)).await;
    }
    Ok(vec![samples])
}

/// Starts the agent of a new node as it is shipped, with these arguments.
fn agent(running: &Platform, folder: &Path, arguments: impl FnOnce(&mut Command)) -> anyhow::Result<Process> {
    let credentials = folder.join("credentials.toml");
    let (file, server) = (credentials.display().to_string(), running.nats_url("plant"));
    running.edgectl_ok(&["co", "add", "node", NODE, "--credentials", &file, "--server", &server]);
    let mut command = Command::new(shipped("edge-node")?);
    command.arg("--credentials").arg(&credentials).arg("--data").arg(folder.join("data"));
    arguments(&mut command);
    Ok(Process::start("edge-node", folder, &mut command))
}

async fn settle(rest: &Rest, count: usize) -> anyhow::Result<()> {
    rest.installed("", count, Duration::from_millis(200), PATIENCE).await?;
    sleep(SETTLE).await;
    Ok(())
}

/// A program as it is shipped: optimised across crates, beside the folder of this program.
fn shipped(name: &str) -> anyhow::Result<PathBuf> {
    let path = program("edgewright").with_file_name("../dist").join(name);
    ensure!(path.is_file(), "{} is missing: `make bench` builds it with the profile `dist`", path.display());
    Ok(path)
}

/// The sample application under another name and on another port.
fn package(folder: &Path, number: usize) -> anyhow::Result<String> {
    let app = format!("hello-{number}");
    let package = folder.join(&app);
    fs::create_dir_all(&package)?;
    let description = fs::read_to_string(sample().join("margo.yaml")).context("reading the sample application")?;
    let description = description
        .replacen("id: hello", &format!("id: {app}"), 1)
        .replace("edgewright.local/hello", &format!("edgewright.local/{app}"))
        .replace("port: 8080", &format!("port: {}", if number == 0 { PORT } else { FIRST_PORT + number }));
    fs::write(package.join("margo.yaml"), description)?;
    fs::copy(sample().join("hello.wasm"), package.join("hello.wasm"))?;
    Ok(app)
}

/// Workloads outlive their agent; this ends them.
struct Workloads(TempDir);

impl Drop for Workloads {
    fn drop(&mut self) {
        platform::kill_users_of(self.0.path());
        kill_runners(self.0.path());
    }
}
