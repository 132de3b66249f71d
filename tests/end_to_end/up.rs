//! `edgewright up`, and what its user does next.

use std::{
    fs::{self, Permissions},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use tempfile::TempDir;
use testkit::{loopback, nats_server_binary, wait_for};

use crate::kills::git;
use end_to_end::{
    Process, after, answers, edgectl, edgectl_json, edgectl_ok, falls_silent, kill_runners, program, sample,
};

fn up(folder: &Path, address: Ipv4Addr) -> Process {
    let mut command = Command::new(program("edgewright"));
    command
        .arg("up")
        .arg("--data")
        .arg(folder.join("data"))
        .args(["--host", &address.to_string(), "--sample", &sample().display().to_string()])
        .env("EDGEWRIGHT_NATS_SERVER", nats_server_binary())
        .stdin(Stdio::null());
    Process::start("up", folder, &mut command)
}

/// Everything in the folder, and the folder itself, that somebody else than its owner may read, write or enter.
fn open_to_others(path: &Path) -> Vec<PathBuf> {
    // Files come and go while the platform runs.
    let Ok(metadata) = fs::symlink_metadata(path) else { return Vec::new() };
    let is_open = !metadata.is_symlink() && metadata.permissions().mode() & 0o077 != 0;
    let mut open: Vec<_> = is_open.then(|| path.to_owned()).into_iter().collect();
    for entry in metadata.is_dir().then(|| fs::read_dir(path).ok()).flatten().into_iter().flatten() {
        open.extend(open_to_others(&entry.unwrap().path()));
    }
    open
}

/// A folder whose workloads are killed with it, because they outlive their agents when a test fails.
struct Workloads(TempDir);

impl Drop for Workloads {
    fn drop(&mut self) {
        kill_runners(self.0.path());
    }
}

#[tokio::test]
async fn up_runs_the_sample_on_both_nodes_and_everything_grows_from_there() {
    let folder = Workloads(TempDir::new().unwrap());
    let data = folder.0.path().join("data");
    let context = data.join("edgectl.toml");
    let here = loopback();
    // As whoever makes the folder beforehand may leave it.
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let mut platform = up(folder.0.path(), here);
    answers(after(here, 1), "Hello").await;
    answers(after(here, 2), "Hello").await;
    wait_for("`up` to say that everything runs", async || {
        if platform.log().contains("Everything runs") { Ok(()) } else { Err(platform.log()) }
    })
    .await;

    // What was ordered is audited: stock git believes every commit.
    let repositories = data.join("repositories/default");
    for (repository, branch) in [("fleet.git", "main"), ("clients/plant.git", "desired")] {
        let log = git(&repositories.join(repository), &["log", "--show-signature", branch]);
        let commits = log.lines().filter(|line| line.starts_with("commit ")).count();
        let good = log.lines().filter(|line| line.starts_with("Good \"git\" signature")).count();
        assert!(commits > 0 && commits == good, "{repository}:\n{log}");
        git(&repositories.join(repository), &["fsck", "--strict"]);
    }

    // A second site and a third node.
    let site = folder.0.path().join("depot");
    let credentials = folder.0.path().join("depot.toml").display().to_string();
    edgectl_ok(&context, &["co", "add", "site", "depot", "--credentials", &credentials]);
    let mut command = Command::new(program("edgewright"));
    command
        .arg("site")
        .arg("--data")
        .arg(&site)
        .args(["--credentials", &credentials, "--host", &here.to_string(), "--port", "4423"])
        .env("EDGEWRIGHT_NATS_SERVER", nats_server_binary());
    let mut depot = Process::start("depot", folder.0.path(), &mut command);
    let credentials = folder.0.path().join("crane.toml").display().to_string();
    let server = format!("tls://{here}:4423");
    edgectl_ok(&context, &["co", "add", "node", "depot/crane", "--credentials", &credentials, "--server", &server]);
    let third = after(here, 3);
    let mut command = Command::new(program("edge-node"));
    command
        .args(["--credentials", &credentials, "--on-exit", "stop", "--workload-address", &third.to_string(), "--data"])
        .arg(folder.0.path().join("crane"));
    let mut crane = Process::start("crane", folder.0.path(), &mut command);
    let deploy = "co deploy hello@1.0.0 --name cranes --to-site depot --set greeting=Ahoy --wait";
    edgectl_ok(&context, &deploy.split(' ').collect::<Vec<_>>());
    answers(third, "Ahoy").await;
    let pong = edgectl_ok(&context, &["co", "ping", "depot/crane"]);
    assert!(pong.starts_with("depot/crane answered after "), "{pong}");
    let stranger = edgectl(&context, &["co", "ping", "depot/stranger"]);
    assert_eq!(stranger.status.code(), Some(1), "{stranger:?}");

    // A node that joins the site gets the application by the system's own order.
    let credentials = folder.0.path().join("hoist.toml").display().to_string();
    edgectl_ok(&context, &["co", "add", "node", "depot/hoist", "--credentials", &credentials, "--server", &server]);
    let fourth = after(here, 4);
    let mut command = Command::new(program("edge-node"));
    command
        .args(["--credentials", &credentials, "--on-exit", "stop", "--workload-address", &fourth.to_string(), "--data"])
        .arg(folder.0.path().join("hoist"));
    let mut hoist = Process::start("hoist", folder.0.path(), &mut command);
    answers(fourth, "Ahoy").await;
    let orders = edgectl_json(&context, &["co", "list", "orders"]);
    let placed = |order: &serde_json::Value| order["kind"] == "place" && order["requestedBy"] == "deployment-registry";
    assert!(orders.as_array().unwrap().iter().any(placed), "{orders:#}");

    // Update and remove.
    edgectl_ok(&context, &["co", "update", "hello", "--set", "greeting=Moin", "--reason", "as they say", "--wait"]);
    answers(after(here, 1), "Moin").await;
    edgectl_ok(&context, &["co", "remove", "hello", "--wait"]);
    falls_silent(after(here, 1)).await;
    falls_silent(after(here, 2)).await;
    let again = edgectl(&context, &["co", "deploy", "hello@1.0.0", "--name", "hello", "--to", "plant/press"]);
    assert_eq!(again.status.code(), Some(1), "a name is never reused");
    let log = git(&repositories.join("fleet.git"), &["log", "--format=%(trailers:key=Reason,valueonly)", "main"]);
    assert!(log.contains("as they say"), "{log}");

    // What all of them keep is for its owner only.
    let folders = [data.clone(), site, folder.0.path().join("crane"), folder.0.path().join("hoist")];
    let open: Vec<_> = folders.iter().flat_map(|folder| open_to_others(folder)).collect();
    assert!(open.is_empty(), "{open:#?}");

    // Everything ends in order.
    for process in [&mut hoist, &mut crane, &mut depot, &mut platform] {
        process.signal(Signal::TERM);
        let status = process.ended().await;
        assert!(status.success(), "{status}:\n{}", process.log());
    }
    falls_silent(third).await;
}

#[tokio::test]
async fn up_goes_on_where_it_was_ended_even_by_a_kill() {
    let folder = Workloads(TempDir::new().unwrap());
    let context = folder.0.path().join("data/edgectl.toml");
    let here = loopback();
    let mut platform = up(folder.0.path(), here);
    answers(after(here, 2), "Hello").await;
    wait_for("`up` to say that everything runs", async || {
        if platform.log().contains("Everything runs") { Ok(()) } else { Err(platform.log()) }
    })
    .await;
    edgectl_ok(&context, &["co", "update", "hello", "--set", "greeting=Servus", "--wait"]);
    platform.kill();

    let mut platform = up(folder.0.path(), here);
    wait_for("`up` to say that everything runs once more", async || {
        if platform.log().matches("Everything runs").count() == 2 { Ok(()) } else { Err(platform.log()) }
    })
    .await;
    answers(after(here, 1), "Servus").await;
    let deployments = edgectl_json(&context, &["co", "list", "deployments"]);
    assert_eq!(deployments.as_array().unwrap().len(), 2, "{deployments:#}");
    platform.signal(Signal::TERM);
    assert!(platform.ended().await.success());
    falls_silent(after(here, 1)).await;
}

#[tokio::test]
async fn up_ends_at_once_when_its_port_is_taken_and_says_what_to_do() {
    let folder = TempDir::new().unwrap();
    let here = loopback();
    let _taken = TcpListener::bind((here, 8080)).unwrap();
    let mut platform = up(folder.path(), here);
    assert!(!platform.ended().await.success());
    let said = platform.log();
    assert!(said.contains(&format!("another program listens on {here}:8080")) && said.contains("--host"), "{said}");
}

#[tokio::test]
async fn an_up_beside_another_one_makes_nothing() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let _other = disk::FolderLock::take(&data.join("lock")).unwrap().unwrap();
    let mut platform = up(folder.path(), loopback());
    assert!(!platform.ended().await.success());
    assert!(platform.log().contains("is in use by another `edgewright up`"), "{}", platform.log());
    let made: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["lock"]);
}
