//! What several measurements ask of a platform of processes.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use end_to_end::{Application, Platform, SiteLayout, central, kill_runners, starts};
use rustix::process::{Pid, Signal, kill_process};

/// A site without agents: its nodes are known to the platform, and nobody runs what is ordered for them.
const EMPTY_PLANT: &[SiteLayout] = &[SiteLayout { name: "plant", nodes: &[] }];

/// The nodes of [`Platform::with_sample`].
pub const NODES: [&str; 2] = ["press", "oven"];

/// A hub and the site `plant` without nodes.
pub async fn without_nodes() -> Platform {
    Platform::start(EMPTY_PLANT, Application::Nothing).await
}

/// The address of hub and site.
pub fn address(platform: &Platform) -> anyhow::Result<Ipv4Addr> {
    let api = platform.api();
    let host = api.strip_prefix("http://").and_then(|rest| rest.split(':').next()).context("the API has an address")?;
    host.parse().with_context(|| format!("the address of {api}"))
}

/// The processes of the hub: its NATS server and each central service.
pub fn hub_processes(platform: &mut Platform) -> Vec<u32> {
    ["hub-nats"].into_iter().chain(central()).map(|name| platform.process(name).id()).collect()
}

/// The processes of the site `plant`: its NATS server and services.
pub fn site_processes(platform: &mut Platform) -> Vec<u32> {
    let names = ["plant.nats", "plant.local-orchestrator", "plant.oci-fetcher"];
    names.iter().map(|name| platform.process(name).id()).collect()
}

/// Everything that was started, workloads excepted.
pub fn all_processes(platform: &mut Platform) -> Vec<u32> {
    all_processes_but(platform, "")
}

/// The same without the process of this name.
pub fn all_processes_but(platform: &mut Platform, left_out: &str) -> Vec<u32> {
    let names = platform.process_names();
    names.iter().filter(|name| *name != left_out).map(|name| platform.process(name).id()).collect()
}

/// The living workloads whose folders lie under this one.
pub fn workloads(folder: &Path) -> Vec<u32> {
    starts(folder).iter().filter(|start| start.is_alive()).filter_map(|start| u32::try_from(start.pid).ok()).collect()
}

/// Ends every process in order, agents first, and leaves the folders as they are.
pub async fn stop(platform: &mut Platform) {
    let mut names = platform.process_names();
    // Servers last: who still has to say something finds them.
    names.sort_by_key(|name| (name.ends_with("nats"), name.clone()));
    let (servers, others): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.ends_with("nats"));
    for group in [others, servers] {
        for name in &group {
            platform.process(name).signal(Signal::TERM);
        }
        for name in &group {
            platform.process(name).ended().await;
        }
    }
    for node in platform.nodes() {
        let name = node.rsplit('/').next().unwrap_or(&node).to_owned();
        kill_runners(&platform.node(&name));
    }
}

/// A file with this name below a folder.
pub fn find(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|found| found == name) {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("there is no {name} below {}", folder.display())
}

/// Runs a program that has to succeed, and gives what it wrote.
pub async fn run(command: &mut tokio::process::Command) -> anyhow::Result<String> {
    let output = command.kill_on_drop(true).output().await.with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{:?} failed: {}",
        command.as_std(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Kills every process that names this folder in its arguments: what a supervisor that was killed has left. The folder is
/// one of this measurement's own, so nobody else's process names it.
pub fn kill_users_of(folder: &Path) {
    let folder = folder.display().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(&folder) {
            // It may have ended since.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}
