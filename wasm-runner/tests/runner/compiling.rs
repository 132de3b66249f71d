//! Compiling: its limits, and its end with whoever waits for it.

use std::{
    fs,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
    time::Duration,
};

use runtime_wasm::{
    ProcessId,
    spec::{CompileLimits, SPEC},
};
use rustix::process::{Pid, Signal, kill_process};
use testkit::wait_for;
use tokio::process::{Child, Command};

use crate::{
    RUNNER,
    alone::{Workload, ends},
    component::long_to_compile,
};

/// The compiler of this runner, as soon as there is one.
async fn compiler_of(runner: &Child) -> ProcessId {
    let runner = runner.id().unwrap();
    let children = format!("/proc/{runner}/task/{runner}/children");
    wait_for("the compiler", async || {
        let child = fs::read_to_string(&children).unwrap().trim().parse().map_err(|_| "no child")?;
        // The child is the runner itself until the program that it shall be is loaded.
        let line = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if line.contains("--compile-for") { Ok(ProcessId::of(child).unwrap()) } else { Err("no program yet") }
    })
    .await
}

/// Holds it up, so that it does not end by itself. Even so it can be killed.
fn hold_up(process: ProcessId) {
    kill_process(Pid::from_raw(process.pid as i32).unwrap(), Signal::STOP).unwrap();
}

/// Waits until the compiler has tied itself to its runner: it limits itself after that.
async fn tied(process: ProcessId) {
    wait_for("the compiler to limit itself", async || {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
        let data = limits.lines().find(|line| line.starts_with("Max data size")).unwrap().to_owned();
        if data.contains(&CompileLimits::default().memory.to_string()) { Ok(()) } else { Err(data) }
    })
    .await;
}

async fn ended(process: ProcessId) {
    wait_for("the compiler to end", async || if process.is_alive() { Err(process) } else { Ok(()) }).await;
}

#[tokio::test]
async fn compiling_ends_with_its_runner() {
    let workload = Workload::new(&long_to_compile());
    let mut runner = workload.spawn();
    let compiler = compiler_of(&runner).await;
    tied(compiler).await;
    hold_up(compiler);
    runner.kill().await.unwrap();
    ended(compiler).await;
}

#[tokio::test]
async fn compiling_ends_with_the_agent_that_waits_for_it() {
    let workload = Workload::new(&long_to_compile());
    fs::write(workload.file(SPEC), serde_json::to_vec(&workload.spec).unwrap()).unwrap();
    let (agent, channel) = UnixStream::pair().unwrap();
    let mut runner = Command::new(RUNNER)
        .args(["--wait", "--spec"])
        .arg(workload.file(SPEC))
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(channel)))
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let compiler = compiler_of(&runner).await;
    hold_up(compiler);
    // As when the agent is killed.
    drop(agent);
    ends(&mut runner).await;
    assert!(!runner.wait().await.unwrap().success());
    ended(compiler).await;
}

#[tokio::test]
async fn a_component_that_takes_too_much_memory_to_compile_is_refused() {
    let mut workload = Workload::new(&long_to_compile());
    workload.spec.compiling.memory = 32 << 20;
    let words = workload.refused().await;
    assert_eq!(words.code, "artifact", "{}", words.message);
    assert!(words.message.contains("more than 32 MiB of memory"), "{}", words.message);
}

#[tokio::test]
async fn a_component_that_takes_too_much_processor_time_to_compile_is_refused() {
    let mut workload = Workload::new(&long_to_compile());
    workload.spec.compiling.processor_time = Duration::from_millis(1);
    let words = workload.refused().await;
    assert_eq!(words.code, "artifact", "{}", words.message);
    assert!(words.message.contains("of processor time"), "{}", words.message);
}

#[tokio::test]
async fn compiling_that_does_not_end_is_given_up_and_may_be_tried_again() {
    let mut workload = Workload::new(&long_to_compile());
    workload.spec.compiling.time = Duration::from_secs(3);
    let mut runner = workload.spawn();
    let compiler = compiler_of(&runner).await;
    hold_up(compiler);
    ends(&mut runner).await;
    let output = runner.wait_with_output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("error[failed]: compiling the component did not end within 3s"), "{stderr}");
    ended(compiler).await;
}
