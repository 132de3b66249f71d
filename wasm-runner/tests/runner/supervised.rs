//! Runners as an agent has them: started, replaced, taken up and stopped by `runtime-wasm`.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use margo::{Digest, ParameterValue};
use oci::{ArtifactManifest, ContentStore, Descriptor, media};
use runtime::{
    Artifact, Call, Collector, Condition, Observed, ReservedPorts, Runtime, RuntimeError, Workload, WorkloadId,
};
use runtime_wasm::{
    Allowed, Egress, ProcessId, WasmRuntime, WasmRuntimeConfig, ask,
    spec::{Command, LOG, SPEC, STARTS},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use testkit::wait_for;

use crate::{
    RUNNER,
    component::{example, guest},
    get, own_address,
};

/// A node with one workload. Its runners end with this value.
pub struct Node {
    pub folder: TempDir,
    address: IpAddr,
    content: ContentStore,
    pub component: Vec<u8>,
    pub collector: Collector,
    pub egress: Egress,
}

impl Node {
    pub async fn new() -> Self {
        Self::with(fs::read(example("hello/hello.wasm")).unwrap()).await
    }

    pub async fn with(component: Vec<u8>) -> Self {
        let folder = TempDir::new().unwrap();
        let content = ContentStore::open(folder.path().join("store")).await.unwrap();
        content.put(&component).await.unwrap();
        let (address, collector) = (own_address().into(), Collector::default());
        Self { folder, address, content, component, collector, egress: Egress::Declared }
    }

    pub async fn agent(&self) -> WasmRuntime {
        let folder = self.folder.path();
        let config = WasmRuntimeConfig {
            runner: RUNNER.into(),
            folder: folder.join("workloads"),
            cache: folder.join("cache"),
            cache_key: folder.join("cache.key"),
            address: self.address,
            reserved: "4323-4325".parse().unwrap(),
            allowed: Allowed { wasm_egress: self.egress, ..Allowed::default() },
            collector: self.collector.clone(),
        };
        WasmRuntime::new(config).await.unwrap()
    }

    /// The workload at a revision; the greeting says which.
    pub fn workload(&self, revision: &str) -> Workload {
        let manifest =
            ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, &self.component)]);
        Workload {
            id: id(),
            digest: Digest::of(revision.as_bytes()),
            artifact: Artifact {
                repository: "hello".parse().unwrap(),
                digest: Digest::of(&manifest.to_json()),
                manifest,
            },
            values: BTreeMap::from([("GREETING".to_owned(), ParameterValue::Text(revision.to_owned()))]),
            images: BTreeMap::new(),
            settings: json!({ "http": { "port": 8080 } }),
            content: self.content.clone(),
        }
    }

    /// The workload made of this component with these settings.
    pub async fn made_of(&self, revision: &str, component: &[u8], settings: serde_json::Value) -> Workload {
        self.content.put(component).await.unwrap();
        let mut workload = self.workload(revision);
        workload.artifact.manifest.layers = vec![Descriptor::of(media::WASM, component)];
        Workload { settings, ..workload }
    }

    pub fn workload_folder(&self) -> PathBuf {
        self.folder.path().join("workloads").join(format!("{}.{}", id().deployment, id().component))
    }

    pub fn url(&self) -> String {
        format!("http://{}:8080/", self.address)
    }

    /// What the runners wrote before they listened.
    pub fn starts(&self) -> Vec<(ProcessId, Digest)> {
        let text = fs::read_to_string(self.workload_folder().join(STARTS)).unwrap_or_default();
        let start = |line: &str| {
            let fields: Vec<_> = line.split(' ').collect();
            let process = ProcessId { pid: fields[0].parse().unwrap(), start_time: fields[1].parse().unwrap() };
            (process, fields[2].parse().unwrap())
        };
        text.lines().map(start).collect()
    }

    pub async fn answers(&self, revision: &str) {
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

pub fn id() -> WorkloadId {
    WorkloadId {
        deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
        component: "hello".parse().unwrap(),
    }
}

pub fn call() -> Call {
    Call::within(Duration::from_secs(60))
}

pub fn kill(process: ProcessId) {
    kill_process(Pid::from_raw(process.pid as i32).unwrap(), Signal::KILL).unwrap();
}

pub async fn observed(agent: &WasmRuntime, what: &str, wanted: impl Fn(&Condition) -> bool) -> Observed {
    wait_for(what, async || {
        let all = agent.observe().await.unwrap();
        all.iter().find(|one| wanted(&one.condition)).cloned().ok_or(all)
    })
    .await
}

pub async fn running(agent: &WasmRuntime) -> Observed {
    observed(agent, "the workload to run", |condition| matches!(condition, Condition::Running { .. })).await
}

#[tokio::test]
async fn a_workload_runs_and_is_started_again_when_its_runner_dies() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();

    let found = running(&agent).await;
    assert_eq!((found.id, found.digest), (id(), Digest::of(b"first")));
    assert_eq!(found.condition, Condition::Running { endpoint: Some(node.url()) });
    node.answers("first").await;

    let [(first, _)] = node.starts()[..] else { panic!("{:?}", node.starts()) };
    kill(first);
    let again = wait_for("the restart to be counted", async || {
        let found = running(&agent).await;
        if found.restarts == 1 { Ok(found) } else { Err(found) }
    })
    .await;
    assert_eq!((again.digest, again.condition), (Digest::of(b"first"), found.condition));
    node.answers("first").await;
    let starts = node.starts();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(!starts[0].0.is_alive() && starts[1].0.is_alive());

    // The second death in quick succession is shown until the workload is steady again.
    kill(starts[1].0);
    let failed =
        observed(&agent, "the death to be seen", |condition| matches!(condition, Condition::Failed { .. })).await;
    let Condition::Failed { code, message } = failed.condition else { unreachable!() };
    assert_eq!(code, "exited");
    assert!(message.contains("signal: 9"), "{message}");
    node.answers("first").await;
}

#[tokio::test]
async fn the_next_life_of_the_agent_takes_a_running_workload_up_untouched() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    drop(agent);

    let agent = node.agent().await;
    running(&agent).await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    node.answers("first").await;
    let [(process, _)] = node.starts()[..] else { panic!("{:?}", node.starts()) };
    assert!(process.is_alive());

    // It is no child of this life, and its death is seen all the same.
    kill(process);
    wait_for("the next start", async || match node.starts().len() {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(running(&agent).await.restarts, 1);
}

#[tokio::test]
async fn a_workload_that_died_with_the_node_is_started_from_its_disk() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    agent.suspend().await.unwrap();
    assert!(!node.starts()[0].0.is_alive());
    drop(agent);

    let agent = node.agent().await;
    running(&agent).await;
    node.answers("first").await;
}

#[tokio::test]
async fn another_digest_replaces_the_workload() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    agent.apply(node.workload("second"), call()).await.unwrap();
    node.answers("second").await;

    assert_eq!(running(&agent).await.digest, Digest::of(b"second"));
    let starts = node.starts();
    let digests: Vec<_> = starts.iter().map(|(_, digest)| *digest).collect();
    assert_eq!(digests, [Digest::of(b"first"), Digest::of(b"second")]);
    assert!(starts[1].0.is_alive());
    ended(starts[0].0).await;
}

#[tokio::test]
async fn a_prepared_revision_leaves_the_old_one_alone_and_counts_as_started_when_it_takes_over() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    for revision in ["second", "second", "third"] {
        agent.prepare(node.workload(revision), call()).await.unwrap();
    }
    node.answers("first").await;
    assert_eq!(running(&agent).await.digest, Digest::of(b"first"));
    assert_eq!(node.starts().len(), 1);
    wait_for("only one revision to be prepared", async || match runners_of(&node.workload_folder()) {
        runners if runners.len() == 2 => Ok(()),
        runners => Err(runners),
    })
    .await;

    agent.apply(node.workload("third"), call()).await.unwrap();
    node.answers("third").await;
    let digests: Vec<_> = node.starts().into_iter().map(|(_, digest)| digest).collect();
    assert_eq!(digests, [Digest::of(b"first"), Digest::of(b"third")]);
}

#[tokio::test]
async fn a_prepared_revision_that_is_given_up_leaves_the_old_one_alone() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    let [first] = runners_of(&node.workload_folder())[..] else { panic!("one runner runs") };
    let second = node.workload("second");
    agent.prepare(second.clone(), call()).await.unwrap();
    let both = runners_of(&node.workload_folder());
    let prepared = both.into_iter().find(|pid| *pid != first).expect("one runner is prepared");
    let prepared = ProcessId::of(prepared).unwrap();
    agent.give_up(second.id).await;
    ended(prepared).await;
    node.answers("first").await;
    assert_eq!(runners_of(&node.workload_folder()), [first]);
}

#[tokio::test]
async fn a_prepared_runner_ends_with_its_agent_and_was_never_started() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.prepare(node.workload("first"), call()).await.unwrap();
    let [pid] = runners_of(&node.workload_folder())[..] else { panic!("one runner is prepared") };
    assert_eq!(agent.observe().await.unwrap(), []);
    // As when the agent is killed: its end of the runner's socket closes.
    let process = ProcessId::of(pid).unwrap();
    drop(agent);
    ended(process).await;

    let agent = node.agent().await;
    assert_eq!(agent.observe().await.unwrap(), []);
    assert!(node.starts().is_empty());
    assert!(!node.workload_folder().exists(), "what was only prepared is a leftover");
}

#[tokio::test]
async fn requests_in_work_hold_up_neither_the_next_revision_nor_themselves() {
    let node = Node::with(guest("spin")).await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    let url = node.url();
    let spinning = tokio::spawn(async move { get(&url).await });
    let status = async || ask(&node.workload_folder(), Command::Status).await;
    wait_for("the request to be in work", async || match status().await {
        Ok(status) if status.requests == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    agent.apply(node.workload("second"), call()).await.unwrap();
    wait_for("the next revision to run beside the request", async || match running(&agent).await {
        found if found.digest == Digest::of(b"second") && node.starts().len() == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(!spinning.is_finished(), "the old runner still works on it");
    assert!(node.starts()[0].0.is_alive());
    // The grace period cuts what takes longer; then the old runner is gone.
    let _cut = spinning.await.unwrap();
    ended(node.starts()[0].0).await;
}

#[tokio::test]
async fn a_restart_is_a_start_of_the_same_document() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    agent.restart(id(), call()).await.unwrap();
    let starts = wait_for("the second start", async || match node.starts() {
        starts if starts.len() == 2 => Ok(starts),
        starts => Err(starts),
    })
    .await;
    assert!(starts.iter().all(|(_, digest)| *digest == Digest::of(b"first")));
    ended(starts[0].0).await;
    node.answers("first").await;
    let other = WorkloadId { component: "other".parse().unwrap(), ..id() };
    assert!(matches!(agent.restart(other, call()).await, Err(RuntimeError::Absent(_))));
}

#[tokio::test]
async fn what_a_workload_uses_and_writes_can_be_asked_for() {
    let node = Node::with(guest("trap")).await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    assert_eq!(get(&node.url()).await.unwrap().0, 500);
    let stats = agent.stats(id()).await.unwrap();
    assert!(stats.memory > Some(0) && stats.cpu_time.is_some(), "{stats:?}");
    let lines = agent.logs(id(), 100).await.unwrap();
    assert!(lines.iter().any(|line| line.contains("unreachable")), "{lines:?}");
    assert_eq!(agent.logs(id(), 1).await.unwrap(), lines[lines.len() - 1..]);
    assert!(node.workload_folder().join(LOG).exists());
}

#[tokio::test]
async fn what_is_no_component_leaves_the_old_revision_running() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    node.content.put(b"not wasm").await.unwrap();
    let mut broken = node.workload("second");
    broken.artifact.manifest.layers = vec![Descriptor::of(media::WASM, b"not wasm")];
    let error = agent.prepare(broken.clone(), call()).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Invalid(why) if why.contains("no valid component")), "{error}");
    assert!(agent.apply(broken, call()).await.is_err());
    node.answers("first").await;

    let mut two_layers = node.workload("third");
    let layer = two_layers.artifact.manifest.layers[0].clone();
    two_layers.artifact.manifest.layers.push(layer);
    let error = agent.needs(&two_layers).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Invalid(why) if why.contains("exactly one layer")), "{error}");
}

#[tokio::test]
async fn a_specification_of_another_version_is_no_leftover() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    drop(agent);
    fs::write(node.workload_folder().join(SPEC), b"{ \"of\": \"tomorrow\" }").unwrap();

    let agent = node.agent().await;
    assert_eq!(agent.observe().await.unwrap(), []);
    node.answers("first").await;
    agent.apply(node.workload("second"), call()).await.unwrap();
    node.answers("second").await;
    ended(node.starts()[0].0).await;
}

pub async fn ended(process: ProcessId) {
    wait_for("a runner to end", async || if process.is_alive() { Err(process) } else { Ok(()) }).await;
}

#[tokio::test]
async fn two_runners_of_a_workload_never_run_at_once() {
    let node = Node::new().await;
    for revision in 0..10 {
        // This life of the agent ends in the middle of whatever it does.
        let agent = node.agent().await;
        agent.apply(node.workload(&revision.to_string()), call()).await.unwrap();
        for _ in 0..revision {
            tokio::task::yield_now().await;
        }
    }
    let agent = node.agent().await;
    running(&agent).await;
    node.answers("9").await;
    let starts = node.starts();
    wait_for("every other runner to end", async || match runners_of(&node.workload_folder()) {
        runners if runners.len() == 1 => Ok(()),
        runners => Err(runners),
    })
    .await;
    let alive: Vec<_> = starts.iter().filter(|(process, _)| process.is_alive()).collect();
    assert_eq!(alive.len(), 1, "{starts:?}");
    assert_eq!(alive[0].1, Digest::of(b"9"));
    let of_the_last = starts.iter().filter(|(_, digest)| *digest == Digest::of(b"9")).count();
    assert_eq!(of_the_last, 1, "an order starts once: {starts:?}");
}

/// Every process that was started for this folder, also one that has not written its line yet.
fn runners_of(folder: &Path) -> Vec<u32> {
    let runs = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument.starts_with(folder.as_os_str().as_encoded_bytes()))
    };
    let processes = fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(runs).collect()
}

#[tokio::test]
async fn a_removed_workload_leaves_nothing_but_the_compiled_component() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    let process = node.starts()[0].0;

    agent.remove(id(), call()).await.unwrap();
    assert!(!process.is_alive() && !node.workload_folder().exists());
    assert_eq!(agent.observe().await.unwrap(), []);
    assert!(fs::read_dir(node.folder.path().join("cache")).unwrap().next().is_some());
    agent.remove(id(), call()).await.unwrap();
}

#[tokio::test]
async fn what_is_left_of_a_workload_whose_removal_was_cut_short_is_removed() {
    let node = Node::new().await;
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
    running(&agent).await;
    agent.suspend().await.unwrap();
    drop(agent);
    fs::remove_file(node.workload_folder().join(SPEC)).unwrap();

    let agent = node.agent().await;
    assert_eq!(agent.observe().await.unwrap(), []);
    assert!(!node.workload_folder().exists());
}

#[tokio::test]
async fn an_address_in_use_is_shown_until_it_is_free() {
    let node = Node::new().await;
    let taken = TcpListener::bind((node.address, 8080)).unwrap();
    let agent = node.agent().await;
    agent.apply(node.workload("first"), call()).await.unwrap();
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
    let node = Node::new().await;
    let agent = node.agent().await;
    let workload = Workload { settings: json!({ "http": {} }), ..node.workload("first") };
    let error = agent.apply(workload, call()).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Invalid(why) if why.contains("port")), "{error}");
    assert!(!node.workload_folder().exists());
}

#[tokio::test]
async fn a_port_of_the_platform_s_own_servers_is_refused() {
    let node = Node::new().await;
    let agent = node.agent().await;
    let workload = Workload { settings: json!({ "http": { "port": 4324 } }), ..node.workload("first") };
    let error = agent.prepare(workload, call()).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Invalid(why) if why.contains("4324 is reserved")), "{error}");
    assert!(!node.workload_folder().exists());
}

#[tokio::test]
async fn a_node_without_the_runner_does_not_offer_wasm() {
    let node = Node::new().await;
    node.agent().await.detect().await.unwrap();
    for (runner, why) in [("/nowhere/wasm-runner", "does not start"), ("/bin/true", "is no wasm-runner")] {
        let folder = node.folder.path().to_owned();
        let config = WasmRuntimeConfig {
            runner: runner.into(),
            folder: folder.clone(),
            cache_key: folder.join("cache.key"),
            cache: folder,
            address: node.address,
            reserved: ReservedPorts::default(),
            allowed: Allowed::default(),
            collector: Collector::default(),
        };
        let error = WasmRuntime::new(config).await.unwrap().detect().await.unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
