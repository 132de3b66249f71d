//! Commands (`wasi:cli/run`): their output, their end, and what becomes of them then.

use std::fs;

use margo::Digest;
use runtime::{Condition, Runtime};
use runtime_wasm::{
    WasmRuntime, ask,
    spec::{Command, RunnerState},
};
use serde_json::json;
use testkit::wait_for;

use crate::{
    program::{Step, program},
    supervised::{Node, call, ended, id, observed, running},
};

async fn completed(agent: &WasmRuntime) {
    observed(agent, "the command to be done", |condition| *condition == Condition::Completed).await;
}

async fn start(node: &Node, agent: &WasmRuntime, steps: &[Step<'_>]) {
    let workload = node.made_of("first", &program(steps), json!({ "command": {} })).await;
    agent.apply(workload, call()).await.unwrap();
}

#[tokio::test]
async fn a_command_that_ends_with_0_is_done_and_runs_again_only_when_it_is_asked_to() {
    let node = Node::new().await;
    let agent = node.agent().await;
    start(&node, &agent, &[Step::Say("working"), Step::Exit(0)]).await;
    completed(&agent).await;
    assert_eq!(agent.logs(id(), 10).await.unwrap(), ["working"]);
    assert!(!node.starts()[0].0.is_alive());
    drop(agent);

    // Neither the next life of the agent nor a start of the node runs it again.
    let agent = node.agent().await;
    completed(&agent).await;
    agent.suspend().await.unwrap();
    drop(agent);
    let agent = node.agent().await;
    completed(&agent).await;
    assert_eq!(node.starts().len(), 1);

    agent.restart(id(), call()).await.unwrap();
    wait_for("the second run", async || match agent.logs(id(), 10).await.unwrap() {
        lines if lines == ["working", "working"] => Ok(()),
        lines => Err(lines),
    })
    .await;
    completed(&agent).await;
    assert_eq!(node.starts().len(), 2);
}

#[tokio::test]
async fn a_command_that_returns_is_done_and_the_next_revision_runs() {
    let node = Node::new().await;
    let agent = node.agent().await;
    start(&node, &agent, &[Step::Say("one")]).await;
    completed(&agent).await;
    let next = node.made_of("second", &program(&[Step::Say("two")]), json!({ "command": {} })).await;
    agent.apply(next, call()).await.unwrap();
    observed(&agent, "the next revision", |condition| *condition == Condition::Completed).await;
    assert_eq!(agent.logs(id(), 10).await.unwrap(), ["one", "two"]);
    // The way back runs what was done before it.
    start(&node, &agent, &[Step::Say("one")]).await;
    completed(&agent).await;
    assert_eq!(agent.logs(id(), 10).await.unwrap(), ["one", "two", "one"]);
    let digests: Vec<_> = node.starts().into_iter().map(|(_, digest)| digest).collect();
    assert_eq!(digests, ["first", "second", "first"].map(|revision| Digest::of(revision.as_bytes())));
}

#[tokio::test]
async fn a_command_that_fails_says_why_and_is_started_again() {
    for (step, why) in [(Step::Exit(3), "ended with a failure"), (Step::Trap, "unreachable")] {
        let node = Node::new().await;
        let agent = node.agent().await;
        start(&node, &agent, &[Step::Say("trying"), step]).await;
        let failed = observed(&agent, "the failure", |condition| matches!(condition, Condition::Failed { .. })).await;
        let Condition::Failed { code, message } = failed.condition else { unreachable!() };
        assert!(code == "exited" && message.contains(why), "{code}: {message}");
        wait_for("the next start", async || match node.starts().len() {
            2.. => Ok(()),
            starts => Err(starts),
        })
        .await;
        let lines = agent.logs(id(), 10).await.unwrap();
        assert!(lines[0] == "trying" && lines.iter().any(|line| line.contains(why)), "{lines:?}");
    }
}

#[tokio::test]
async fn a_command_that_is_always_started_again_is_so_also_after_a_success() {
    let node = Node::new().await;
    let agent = node.agent().await;
    let settings = json!({ "command": { "restart": "always" } });
    let workload = node.made_of("first", &program(&[Step::Exit(0)]), settings).await;
    agent.apply(workload, call()).await.unwrap();
    wait_for("the next start", async || match node.starts().len() {
        2.. => Ok(()),
        starts => Err(starts),
    })
    .await;
}

#[tokio::test]
async fn a_command_runs_until_it_is_stopped_whether_it_waits_or_computes() {
    for step in [Step::Wait, Step::Compute] {
        let node = Node::new().await;
        let agent = node.agent().await;
        start(&node, &agent, &[Step::Say("working"), step]).await;
        let found = running(&agent).await;
        assert_eq!((found.condition, found.ports.len()), (Condition::Running { endpoint: None }, 0));
        wait_for("its output", async || match agent.logs(id(), 10).await.unwrap() {
            lines if lines == ["working"] => Ok(()),
            lines => Err(lines),
        })
        .await;
        let status = ask(&node.workload_folder(), Command::Status).await.unwrap();
        assert_eq!((status.state, status.listen), (RunnerState::Running, None));

        let process = node.starts()[0].0;
        agent.suspend().await.unwrap();
        ended(process).await;
        drop(agent);
        // It was stopped, and has not done its work.
        let agent = node.agent().await;
        running(&agent).await;
        assert_eq!(node.starts().len(), 2);
        agent.remove(id(), call()).await.unwrap();
        assert!(!node.workload_folder().exists());
    }
}

#[tokio::test]
async fn a_command_that_waits_takes_no_processor_time() {
    let node = Node::new().await;
    let agent = node.agent().await;
    start(&node, &agent, &[Step::Say("working"), Step::Wait]).await;
    running(&agent).await;
    wait_for("its output", async || match agent.logs(id(), 10).await.unwrap() {
        lines if lines == ["working"] => Ok(()),
        lines => Err(lines),
    })
    .await;
    let pid = node.starts()[0].0.pid;
    let ticker = || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let named = |path: &std::path::PathBuf| fs::read_to_string(path.join("comm")).unwrap().trim() == "ticker";
        let task = tasks.into_iter().find(named).expect("a ticker");
        fs::read_to_string(task.join("wchan")).unwrap_or_default()
    };
    // Asleep until work begins, and not for a tick.
    wait_for("the ticker to sleep", async || match ticker() {
        place if place.contains("futex") => Ok(()),
        place => Err(place),
    })
    .await;
}

#[tokio::test]
async fn a_component_of_the_other_kind_is_refused() {
    let node = Node::new().await;
    let agent = node.agent().await;
    let hello = node.made_of("first", &node.component, json!({ "command": {} })).await;
    let refused = agent.prepare(hello, call()).await.unwrap_err().to_string();
    assert!(refused.contains("cannot run as wasi:cli/run"), "{refused}");
    let done = node.made_of("first", &program(&[]), json!({ "http": { "port": 8080 } })).await;
    let refused = agent.prepare(done, call()).await.unwrap_err().to_string();
    assert!(refused.contains("cannot run as wasi:http/incoming-handler"), "{refused}");
}
