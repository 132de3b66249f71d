//! A runner by itself: its start, its port, its limits and its control socket, with the test in the place of the agent.

use std::{
    collections::BTreeMap, fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::PathBuf, process::Stdio,
    time::Duration,
};

use margo::{Digest, Restart};
use runtime::WorkloadId;
use runtime_wasm::{
    ProcessId, ask,
    spec::{
        CONTROL, Command, CompileLimits, GO, LISTENING, LOG, LastWords, READY, RECORD, RunnerState, SPEC, STARTS, Spec,
        Status,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::wait_for;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command as Program},
};

use crate::{
    RUNNER,
    component::{example, guest},
    get, own_address,
};

/// A folder with a component in it, and what shall run.
pub struct Workload {
    _folder: TempDir,
    pub spec: Spec,
}

impl Workload {
    pub fn new(component: &[u8]) -> Self {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["workload", "cache"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("component.wasm"), component).unwrap();
        fs::write(path("cache.key"), [7; 32]).unwrap();
        let spec = Spec {
            workload: WorkloadId {
                deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
                component: "hello".parse().unwrap(),
            },
            digest: Digest::of(b"a document"),
            artifact: path("component.wasm"),
            artifact_digest: Digest::of(component),
            before: None,
            environment: BTreeMap::new(),
            listen: Some(SocketAddr::new(own_address().into(), 8080)),
            restart: Restart::OnFailure,
            data: None,
            egress: Vec::new(),
            collector: None,
            memory_limit: 64 << 20,
            request_timeout: Duration::from_secs(30),
            max_requests: 8,
            compiling: CompileLimits::default(),
            cache: path("cache"),
            cache_key: path("cache.key"),
            folder: path("workload"),
        };
        Self { _folder: folder, spec }
    }

    pub fn hello() -> Self {
        Self::new(&fs::read(example("hello/hello.wasm")).unwrap())
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.spec.folder.join(name)
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.listen())
    }

    pub fn listen(&self) -> SocketAddr {
        self.spec.listen.unwrap()
    }

    pub fn spawn(&self) -> Child {
        fs::write(self.file(SPEC), serde_json::to_vec(&self.spec).unwrap()).unwrap();
        Program::new(RUNNER)
            .arg("--spec")
            .arg(self.file(SPEC))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    pub async fn start(&self) -> Child {
        let mut child = self.spawn();
        wait_for("the runner to answer", async || match child.try_wait().unwrap() {
            Some(status) => panic!("the runner ended: {status}"),
            None => self.status().await,
        })
        .await;
        child
    }

    async fn status(&self) -> Result<Status, std::io::Error> {
        ask(&self.spec.folder, Command::Status).await
    }

    /// Starts it and waits for its last words.
    pub async fn refused(&self) -> LastWords {
        let mut child = self.spawn();
        ends(&mut child).await;
        let output = child.wait_with_output().await.unwrap();
        assert!(!output.status.success());
        let stderr = String::from_utf8(output.stderr).unwrap();
        LastWords::find(&stderr).unwrap_or_else(|| panic!("no last words: {stderr}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file(LOG)).unwrap()
    }
}

/// Waits until the runner has ended by itself.
pub async fn ends(runner: &mut Child) {
    wait_for("the runner to end", async || runner.try_wait().unwrap().ok_or("it runs")).await;
}

#[tokio::test]
async fn a_request_is_answered_with_the_parameter() {
    let mut hello = Workload::hello();
    hello.spec.environment.insert("A".into(), "first".into());
    hello.spec.environment.insert("GREETING".into(), "Grüß Gott".into());
    hello.spec.environment.insert("GREETINH".into(), "last".into());
    let child = hello.start().await;

    assert_eq!(get(&hello.url()).await.unwrap(), (200, "Grüß Gott from Edgewright\n".into()));

    let own = ProcessId::of(child.id().unwrap()).unwrap();
    let status = hello.status().await.unwrap();
    assert_eq!((status.state, status.process, status.digest), (RunnerState::Running, own, hello.spec.digest));
    assert_eq!((status.listen, status.requests, status.failures), (hello.spec.listen, 1, 0));
    assert!(status.process.memory() > Some(0));
    let line = format!("{} {} {}\n", own.pid, own.start_time, hello.spec.digest);
    assert_eq!(fs::read_to_string(hello.file(STARTS)).unwrap(), line);
    let mode = fs::metadata(hello.file(CONTROL)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn without_the_parameter_it_says_hello() {
    let hello = Workload::hello();
    let _child = hello.start().await;
    assert_eq!(get(&hello.url()).await.unwrap(), (200, "Hello from Edgewright\n".into()));
}

#[tokio::test]
async fn a_long_parameter_is_answered_whole() {
    let mut hello = Workload::hello();
    let long = "x".repeat(200_000 / 4);
    hello.spec.environment.insert("GREETING".into(), long.clone());
    let _child = hello.start().await;
    assert_eq!(get(&hello.url()).await.unwrap(), (200, format!("{long} from Edgewright\n")));
}

#[tokio::test]
async fn a_component_with_another_digest_is_refused() {
    let mut hello = Workload::hello();
    hello.spec.artifact_digest = Digest::of(b"what was ordered");
    let words = hello.refused().await;
    assert_eq!(words.code, "artifact");
    assert!(words.message.contains(&hello.spec.artifact_digest.to_string()), "{}", words.message);
    assert!(!hello.file(STARTS).exists() && fs::read_dir(&hello.spec.cache).unwrap().next().is_none());
}

#[tokio::test]
async fn what_is_no_component_is_refused() {
    let words = Workload::new(b"not wasm").refused().await;
    assert_eq!(words.code, "artifact");
    assert!(words.message.contains("no valid component"), "{}", words.message);
}

#[tokio::test]
async fn an_address_in_use_is_said_plainly() {
    let hello = Workload::hello();
    let _taken = std::net::TcpListener::bind(hello.listen()).unwrap();
    let words = hello.refused().await;
    assert_eq!(words.code, "address-in-use");
    assert!(words.message.contains(&hello.listen().to_string()), "{}", words.message);
    assert!(!hello.file(STARTS).exists());
}

#[tokio::test]
async fn a_trap_is_one_failed_request_and_nothing_more() {
    let trap = Workload::new(&guest("trap"));
    let _child = trap.start().await;
    for _ in 0..2 {
        assert_eq!(get(&trap.url()).await.unwrap(), (500, "the application failed\n".into()));
    }
    let status = trap.status().await.unwrap();
    assert_eq!((status.requests, status.failures), (2, 2));
    assert!(trap.log().contains("unreachable"), "{}", trap.log());
}

#[tokio::test]
async fn memory_beyond_the_limit_is_not_given() {
    let mut memory = Workload::new(&guest("memory"));
    let mut child = memory.start().await;
    for _ in 0..10 {
        // More than the limit altogether: each request gives back what it took.
        assert_eq!(get(&memory.url()).await.unwrap().0, 200);
    }
    child.kill().await.unwrap();
    memory.spec.memory_limit = 16 << 20;
    let _child = memory.start().await;
    assert_eq!(get(&memory.url()).await.unwrap().0, 500);
    assert_eq!(memory.status().await.unwrap().failures, 1);
}

#[tokio::test]
async fn tables_count_against_the_memory_limit() {
    let mut table = Workload::new(&guest("table"));
    let mut child = table.start().await;
    for _ in 0..10 {
        assert_eq!(get(&table.url()).await.unwrap().0, 200);
    }
    child.kill().await.unwrap();
    table.spec.memory_limit = 4 << 20;
    let _child = table.start().await;
    assert_eq!(get(&table.url()).await.unwrap().0, 500);
    assert_eq!(table.status().await.unwrap().failures, 1);
}

#[tokio::test]
async fn a_request_holds_a_limited_number_of_the_runner_s_own_things() {
    let handles = Workload::new(&guest("handles"));
    let _child = handles.start().await;
    assert_eq!(get(&handles.url()).await.unwrap().0, 500);
    assert_eq!(handles.status().await.unwrap().failures, 1);
}

#[tokio::test]
async fn a_request_that_computes_for_ever_is_stopped_and_holds_up_nobody() {
    let mut spin = Workload::new(&guest("spin"));
    spin.spec.request_timeout = Duration::from_secs(8);
    spin.spec.max_requests = 1;
    let _child = spin.start().await;
    let url = spin.url();
    let spinning = tokio::spawn(async move { get(&url).await.unwrap() });
    wait_for("the request to be in work", async || {
        let status = spin.status().await.unwrap();
        if status.requests == 1 { Ok(()) } else { Err(status) }
    })
    .await;

    assert_eq!(get(&spin.url()).await.unwrap(), (503, "too many requests are in work\n".into()));
    // Each question takes the runner several turns between those of the request. A turn is a hundredth of a second.
    for _ in 0..20 {
        assert_eq!(spin.status().await.unwrap().requests, 1);
    }
    assert!(!spinning.is_finished(), "the questions were answered while the request was computing");

    assert_eq!(spinning.await.unwrap(), (504, "the application took too long\n".into()));
    let status = spin.status().await.unwrap();
    assert_eq!((status.requests, status.failures, status.refused), (1, 1, 1));
    assert!(spin.log().contains("longer than 8s"), "{}", spin.log());
}

#[tokio::test]
async fn a_runner_that_is_told_to_stop_finishes_what_it_has() {
    let mut spin = Workload::new(&guest("spin"));
    spin.spec.request_timeout = Duration::from_secs(2);
    for end in [Ending::Command, Ending::Signal] {
        let mut child = spin.start().await;
        let url = spin.url();
        let spinning = tokio::spawn(async move { get(&url).await.unwrap() });
        wait_for("the request to be in work", async || {
            let status = spin.status().await.unwrap();
            if status.requests == 1 { Ok(()) } else { Err(status) }
        })
        .await;
        match end {
            Ending::Command => {
                let status = ask(&spin.spec.folder, Command::Stop).await.unwrap();
                assert_eq!(status.state, RunnerState::Stopping);
            }
            Ending::Signal => {
                let pid = Pid::from_raw(child.id().unwrap() as i32).unwrap();
                kill_process(pid, Signal::TERM).unwrap();
            }
        }
        assert_eq!(spinning.await.unwrap().0, 504);
        assert!(child.wait().await.unwrap().success());
    }
}

enum Ending {
    Command,
    Signal,
}

#[tokio::test]
async fn whoever_says_stop_is_answered_also_when_somebody_else_said_it_before() {
    let hello = Workload::hello();
    for _ in 0..20 {
        let mut child = hello.start().await;
        let stops = futures::future::join_all((0..8).map(async |_| ask(&hello.spec.folder, Command::Stop).await)).await;
        let answered = stops.iter().filter(|stop| match stop {
            Ok(status) => {
                assert_eq!(status.state, RunnerState::Stopping);
                true
            }
            // The runner had ended before this one connected.
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
                false
            }
        });
        assert!(answered.count() > 0);
        assert!(child.wait().await.unwrap().success());
    }
}

#[tokio::test]
async fn a_runner_that_waits_disturbs_nobody_until_it_is_told_to_go() {
    let hello = Workload::hello();
    fs::write(hello.file(SPEC), serde_json::to_vec(&hello.spec).unwrap()).unwrap();
    let wait = || {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let child = Program::new(RUNNER)
            .args(["--wait", "--spec"])
            .arg(hello.file(SPEC))
            .stdin(Stdio::null())
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let channel = BufReader::new(tokio::net::UnixStream::from_std(ours).unwrap()).lines();
        (child, channel)
    };

    // Its agent dies: it ends by itself, and was never started.
    let (mut child, mut channel) = wait();
    assert_eq!(channel.next_line().await.unwrap().unwrap(), READY);
    assert!(hello.status().await.is_err());
    drop(channel);
    assert!(child.wait().await.unwrap().success());
    for file in [STARTS, CONTROL, RECORD] {
        assert!(!hello.file(file).exists(), "{file}");
    }

    let (_child, mut channel) = wait();
    assert_eq!(channel.next_line().await.unwrap().unwrap(), READY);
    channel.get_mut().get_mut().write_all(format!("{GO}\n").as_bytes()).await.unwrap();
    assert_eq!(channel.next_line().await.unwrap().unwrap(), LISTENING);
    assert_eq!(get(&hello.url()).await.unwrap().0, 200);
    assert_eq!(fs::read_to_string(hello.file(STARTS)).unwrap().lines().count(), 1);
}
