//! Runners under `runtime-wasm`.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
};

use margo::Digest;
use runtime::{Condition, Observed, Runtime, RuntimeError, Workload, WorkloadId};
use runtime_wasm::{
    ProcessId, WasmRuntime, WasmRuntimeConfig,
    spec::{SPEC, STARTS},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use testkit::wait_for;

use crate::{RUNNER, component::example, get, own_address};

/// A node with one workload. Its runners end with this value.
struct Node {
    folder: TempDir,
    address: IpAddr,
}

impl Node {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), address: own_address().into() }
    }

    async fn agent(&self) -> WasmRuntime {
        let folder = self.folder.path();
        let config =
            WasmRuntimeConfig { runner: RUNNER.into(), folder: folder.join("workloads"), cache: folder.join("cache") };
        WasmRuntime::new(config).await.unwrap()
    }

    /// The workload at a revision; the greeting says which.
    fn workload(&self, revision: &str) -> Workload {
        let artifact = example("hello/hello.wasm");
        Workload {
            id: id(),
            digest: Digest::of(revision.as_bytes()),
            artifact_digest: Digest::of(&fs::read(&artifact).unwrap()),
            artifact,
            environment: BTreeMap::from([("GREETING".to_owned(), revision.to_owned())]),
            settings: json!({ "http": { "port": 8080 } }),
            address: self.address,
        }
    }

    fn workload_folder(&self) -> PathBuf {
        self.folder.path().join("workloads").join(format!("{}.{}", id().deployment, id().component))
    }

    fn url(&self) -> String {
        format!("http://{}:8080/", self.address)
    }

    /// What the runners wrote before they listened.
    fn starts(&self) -> Vec<(ProcessId, Digest)> {
        let text = fs::read_to_string(self.workload_folder().join(STARTS)).unwrap_or_default();
        let start = |line: &str| {
            let fields: Vec<_> = line.split(' ').collect();
            let process = ProcessId { pid: fields[0].parse().unwrap(), start_time: fields[1].parse().unwrap() };
            (process, fields[2].parse().unwrap())
        };
        text.lines().map(start).collect()
    }

    async fn answers(&self, revision: &str) {
        let wanted = (200, format!("{revision} from Edgewright\n"));
        wait_for("the workload to answer", async || match get(&self.url()).await {
            Ok(answer) if answer == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for (process, _) in self.starts() {
            if process.is_alive() {
                kill(process);
            }
        }
    }
}

fn id() -> WorkloadId {
    WorkloadId {
        deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
        component: "hello".parse().unwrap(),
    }
}

fn kill(process: ProcessId) {
    kill_process(Pid::from_raw(process.pid as i32).unwrap(), Signal::KILL).unwrap();
}

async fn observed(agent: &WasmRuntime, what: &str, wanted: impl Fn(&Condition) -> bool) -> Observed {
    wait_for(what, async || {
        let all = agent.observe().await.unwrap();
        all.iter().find(|one| wanted(&one.condition)).cloned().ok_or(all)
    })
    .await
}

async fn running(agent: &WasmRuntime) -> Observed {
    observed(agent, "the workload to run", |condition| matches!(condition, Condition::Running { .. })).await
}

#[tokio::test]
async fn a_workload_runs_and_is_started_again_when_its_runner_dies() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();

    let found = running(&agent).await;
    assert_eq!((found.id, found.digest), (id(), Digest::of(b"first")));
    assert_eq!(found.condition, Condition::Running { endpoint: Some(node.url()) });
    node.answers("first").await;

    let changed = agent.changed();
    changed.notified().await;
    let [(first, _)] = node.starts()[..] else { panic!("{:?}", node.starts()) };
    kill(first);
    // Two notices may have become one, so the state is asked for, not the notice.
    let failed =
        observed(&agent, "the death to be seen", |condition| matches!(condition, Condition::Failed { .. })).await;
    let Condition::Failed { code, message } = failed.condition else { unreachable!() };
    assert_eq!(code, "exited");
    assert!(message.contains("signal: 9"), "{message}");

    running(&agent).await;
    node.answers("first").await;
    let starts = node.starts();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(!starts[0].0.is_alive() && starts[1].0.is_alive());
}

#[tokio::test]
async fn the_next_life_of_the_agent_takes_a_running_workload_up_untouched() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();
    running(&agent).await;
    drop(agent);

    let agent = node.agent().await;
    running(&agent).await;
    agent.apply(node.workload("first")).await.unwrap();
    running(&agent).await;
    node.answers("first").await;
    let [(process, _)] = node.starts()[..] else { panic!("{:?}", node.starts()) };
    assert!(process.is_alive());

    // It is no child of this life, and its death is seen all the same.
    kill(process);
    observed(&agent, "the death to be seen", |condition| matches!(condition, Condition::Failed { .. })).await;
    running(&agent).await;
    assert_eq!(node.starts().len(), 2);
}

#[tokio::test]
async fn a_workload_that_died_with_the_node_is_started_from_its_disk() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();
    running(&agent).await;
    agent.stop_all().await.unwrap();
    assert!(!node.starts()[0].0.is_alive());
    drop(agent);

    let agent = node.agent().await;
    running(&agent).await;
    node.answers("first").await;
}

#[tokio::test]
async fn another_digest_replaces_the_workload() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();
    running(&agent).await;
    agent.apply(node.workload("second")).await.unwrap();
    node.answers("second").await;

    assert_eq!(running(&agent).await.digest, Digest::of(b"second"));
    let starts = node.starts();
    let digests: Vec<_> = starts.iter().map(|(_, digest)| *digest).collect();
    assert_eq!(digests, [Digest::of(b"first"), Digest::of(b"second")]);
    assert!(!starts[0].0.is_alive() && starts[1].0.is_alive());
}

#[tokio::test]
async fn two_runners_of_a_workload_never_run_at_once() {
    let node = Node::new();
    for revision in 0..10 {
        // This life of the agent ends in the middle of whatever it does.
        let agent = node.agent().await;
        agent.apply(node.workload(&revision.to_string())).await.unwrap();
        for _ in 0..revision {
            tokio::task::yield_now().await;
        }
    }
    let agent = node.agent().await;
    running(&agent).await;
    node.answers("9").await;
    let starts = node.starts();
    let alive: Vec<_> = starts.iter().filter(|(process, _)| process.is_alive()).collect();
    assert_eq!(alive.len(), 1, "{starts:?}");
    assert_eq!(alive[0].1, Digest::of(b"9"));
    assert_eq!(runners_of(&node.workload_folder()).len(), 1);
}

/// Every process that was started for this folder, also one that has not written its line yet.
fn runners_of(folder: &Path) -> Vec<u32> {
    let spec = folder.join(SPEC);
    let runs = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == spec.as_os_str().as_encoded_bytes())
    };
    let processes = fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(runs).collect()
}

#[tokio::test]
async fn a_removed_workload_leaves_nothing_but_the_compiled_component() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();
    running(&agent).await;
    let process = node.starts()[0].0;

    agent.remove(id()).await.unwrap();
    assert!(!process.is_alive() && !node.workload_folder().exists());
    assert_eq!(agent.observe().await.unwrap(), []);
    assert!(fs::read_dir(node.folder.path().join("cache")).unwrap().next().is_some());
    agent.remove(id()).await.unwrap();
}

#[tokio::test]
async fn what_is_left_of_a_workload_whose_removal_was_cut_short_is_removed() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();
    running(&agent).await;
    agent.stop_all().await.unwrap();
    drop(agent);
    fs::remove_file(node.workload_folder().join(SPEC)).unwrap();

    let agent = node.agent().await;
    assert_eq!(agent.observe().await.unwrap(), []);
    assert!(!node.workload_folder().exists());
}

#[tokio::test]
async fn an_address_in_use_is_shown_until_it_is_free() {
    let node = Node::new();
    let taken = TcpListener::bind((node.address, 8080)).unwrap();
    let agent = node.agent().await;
    agent.apply(node.workload("first")).await.unwrap();
    let failed = observed(&agent, "the failure", |condition| matches!(condition, Condition::Failed { .. })).await;
    let Condition::Failed { code, message } = failed.condition else { unreachable!() };
    assert_eq!(code, "address-in-use");
    assert!(message.contains(":8080"), "{message}");

    drop(taken);
    running(&agent).await;
    node.answers("first").await;
}

#[tokio::test]
async fn a_wrong_setting_is_refused_and_changes_nothing() {
    let node = Node::new();
    let agent = node.agent().await;
    let workload = Workload { settings: json!({ "http": {} }), ..node.workload("first") };
    let error = agent.apply(workload).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Invalid(why) if why.contains("port")), "{error}");
    assert!(!node.workload_folder().exists());
}

#[tokio::test]
async fn a_node_without_the_runner_does_not_offer_wasm() {
    let node = Node::new();
    node.agent().await.detect().await.unwrap();
    for (runner, why) in [("/nowhere/wasm-runner", "does not start"), ("/bin/true", "is no wasm-runner")] {
        let folder = node.folder.path().to_owned();
        let config = WasmRuntimeConfig { runner: runner.into(), folder: folder.clone(), cache: folder };
        let error = WasmRuntime::new(config).await.unwrap().detect().await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
