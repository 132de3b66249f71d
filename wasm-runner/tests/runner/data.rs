//! The data folder of a component: what it outlives, its size, and that nothing leaves it.

use std::{fs, os::unix::fs::symlink};

use margo::ParameterValue;
use runtime::{Condition, Runtime, Workload};
use runtime_wasm::WasmRuntime;
use serde_json::{Value, json};

use crate::{
    program::{Step, program},
    supervised::{Node, call, id, observed},
};

fn with_data(size: &str) -> Value {
    json!({ "command": {}, "data": size })
}

/// Runs a command to its end and returns what it wrote.
async fn run(node: &Node, agent: &WasmRuntime, revision: &str, steps: &[Step<'_>], settings: Value) -> Vec<String> {
    let mut workload: Workload = node.made_of(revision, &program(steps), settings).await;
    workload.values.insert("SECRET".to_owned(), ParameterValue::Text("a secret".to_owned()));
    agent.apply(workload, call()).await.unwrap();
    done(agent, steps.len()).await
}

async fn done(agent: &WasmRuntime, lines: usize) -> Vec<String> {
    observed(agent, "the command to be done", |condition| *condition == Condition::Completed).await;
    agent.logs(id(), lines).await.unwrap()
}

#[tokio::test]
async fn data_survives_updates_the_way_back_and_restarts_and_goes_with_the_workload() {
    let node = Node::new().await;
    let agent = node.agent().await;
    let write = [Step::Write("a", "kept")];
    let read = [Step::Read("a"), Step::Write("b", "too")];
    assert_eq!(run(&node, &agent, "first", &write, with_data("1Mi")).await, ["write a: 00"]);
    let seen = ["read a: kept00", "write b: 00"];
    assert_eq!(run(&node, &agent, "second", &read, with_data("1Mi")).await, seen);
    // A revision that asks for no data does not see it, and leaves it alone.
    assert_eq!(run(&node, &agent, "third", &read, json!({ "command": {} })).await, ["read a: 08", "write b: 08"]);
    // The way back.
    assert_eq!(run(&node, &agent, "second", &read, with_data("1Mi")).await, seen);
    agent.restart(id(), call()).await.unwrap();
    assert_eq!(done(&agent, 2).await, seen);
    agent.suspend().await.unwrap();
    drop(agent);
    let agent = node.agent().await;
    agent.restart(id(), call()).await.unwrap();
    assert_eq!(done(&agent, 2).await, seen);
    assert_eq!(fs::read(node.workload_folder().join("data/b")).unwrap(), b"too");

    agent.remove(id(), call()).await.unwrap();
    assert!(!node.workload_folder().exists());
    let nothing = run(&node, &agent, "fourth", &[Step::Read("a")], with_data("1Mi")).await;
    assert_eq!(nothing, ["read a: 44"], "there is no such file");
}

#[tokio::test]
async fn a_component_does_not_leave_its_data_folder() {
    let node = Node::new().await;
    let agent = node.agent().await;
    run(&node, &agent, "first", &[Step::Write("a", "mine")], with_data("1Mi")).await;
    // Not even by a link that somebody else has made.
    let data = node.workload_folder().join("data");
    symlink(node.workload_folder(), data.join("out")).unwrap();
    symlink("../spec.json", data.join("spec")).unwrap();
    symlink("/etc/passwd", data.join("passwd")).unwrap();
    let steps = [
        Step::Read("../spec.json"),
        Step::Read("x/../../spec.json"),
        Step::Read("/etc/passwd"),
        Step::Read("out/spec.json"),
        Step::Read("spec"),
        Step::Read("passwd"),
        Step::Write("../planted", "x"),
        Step::Write("out/planted", "x"),
        Step::Write("/tmp/planted-by-a-component", "x"),
        Step::Link("../spec.json", "own"),
        Step::Read("own"),
        Step::Link("/etc/passwd", "absolute"),
        Step::Read("absolute"),
        Step::Link("a", "inside"),
        Step::Read("inside"),
    ];
    let lines = run(&node, &agent, "second", &steps, with_data("1Mi")).await;
    let (tried, inside) = lines.split_at(13);
    assert_eq!(inside, ["link inside: 00", "read inside: mine00"]);
    for line in tried.iter().filter(|line| !line.starts_with("link")) {
        let (_, error) = line.split_once(": ").unwrap();
        assert!(error != "00" && error.len() == 2, "{lines:#?}");
    }
    assert!(fs::read_to_string(node.workload_folder().join("spec.json")).unwrap().contains("a secret"));
    assert!(!lines.concat().contains("secret") && !lines.concat().contains("root:"), "{lines:#?}");
    assert!(!node.workload_folder().join("planted").exists());
    assert!(!fs::exists("/tmp/planted-by-a-component").unwrap());

    // What lies behind a link is not what is removed.
    let beside = node.folder.path().join("beside");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("file"), "stays").unwrap();
    symlink(&beside, data.join("beside")).unwrap();
    agent.remove(id(), call()).await.unwrap();
    assert!(!node.workload_folder().exists());
    assert_eq!(fs::read(beside.join("file")).unwrap(), b"stays");
}

#[tokio::test]
async fn a_component_gets_no_more_space_than_its_package_asks_for() {
    let node = Node::new().await;
    let agent = node.agent().await;
    let steps = [
        Step::Fill("a", 40),
        Step::Fill("b", 40),
        Step::Write("c", "one more"),
        Step::Remove("b"),
        Step::Write("c", "one more"),
        // What is there can be written anew.
        Step::Write("c", "ONE MORE"),
        Step::Read("c"),
    ];
    let lines = run(&node, &agent, "first", &steps, with_data("64Ki")).await;
    let (full, no_space) = ("fill a: 00", "51");
    assert_eq!(
        lines,
        [
            full,
            &format!("fill b: {no_space}"),
            &format!("write c: {no_space}"),
            "remove b: 00",
            "write c: 00",
            "write c: 00",
            "read c: ONE MORE00",
        ]
    );
    // The next runner counts what this one left: 40 KiB, two entries, and a few bytes.
    let again = [Step::Fill("d", 11), Step::Remove("d"), Step::Fill("d", 13)];
    let lines = run(&node, &agent, "second", &again, with_data("64Ki")).await;
    assert_eq!(lines, ["fill d: 00", "remove d: 00", "fill d: 51"]);
}
