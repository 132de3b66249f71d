//! An update that fails on a node: what was installed before runs again, whenever the agent is killed meanwhile.

use std::{fs, net::TcpListener, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use testkit::wait_for;

use end_to_end::{Platform, answers, falls_silent, starts};

/// Where the agent of one node is killed on the way to an update that fails, or back.
const CUTS: [&str; 7] = [
    "edge-node.adopted",
    "edge-node.prepared",
    "runtime-wasm.enforced",
    "runtime-wasm.port-free",
    "runtime-wasm.gone",
    "edge-node.started",
    "edge-node.refused",
];

/// The port of the application's second version.
const PORT: u16 = 8089;

/// The bytes of a component that exports nothing.
const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

/// Makes what an agent keeps into what the one before ways back and outgoing connections kept: its specifications lack fields, they
/// name whole documents, and no status says whether it was installed once.
fn make_older(node: &Path) {
    let change = |path: &Path, change: &dyn Fn(&mut Value)| {
        let mut content: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        change(&mut content);
        fs::write(path, content.to_string()).unwrap();
    };
    let desired: Value = serde_json::from_slice(&fs::read(node.join("desired.json")).unwrap()).unwrap();
    let document = &desired["deployments"][0]["digest"];
    let [workload] = &kept(node)[..] else { panic!("one workload was expected") };
    let workload = node.join("wasm/workloads").join(workload);
    change(&workload.join("runner.json"), &|record| record["digest"] = document.clone());
    change(&workload.join("spec.json"), &|spec| {
        spec["digest"] = document.clone();
        let fields = spec.as_object_mut().unwrap();
        for later in ["restart", "data", "egress", "cache_key"] {
            assert!(fields.remove(later).is_some(), "{later} of {fields:?}");
        }
    });
    change(&node.join("journal/status.json"), &|status| {
        for (_, deployment) in status["deployments"].as_object_mut().unwrap() {
            assert_eq!(deployment.as_object_mut().unwrap().remove("was_installed"), Some(true.into()));
        }
    });
}

/// Everything that the agent keeps of workloads.
fn kept(node: &Path) -> Vec<String> {
    let folder = node.join("wasm/workloads");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits until no runner is left on a node but one.
async fn one_runner(platform: &Platform, node: &str, what: &str) {
    wait_for("one runner to be left", async || {
        let alive: Vec<_> = starts(&platform.node(node)).into_iter().filter(|start| start.is_alive()).collect();
        if alive.len() == 1 { Ok(()) } else { Err((what.to_owned(), alive)) }
    })
    .await;
}

#[tokio::test]
async fn a_failed_update_goes_back_through_an_upgrade_and_every_kill_of_the_agent() {
    let mut platform = Platform::with_sample(None).await;
    platform.all_installed().await;
    let press = platform.node_address("press");
    let _taken = TcpListener::bind((press, PORT)).unwrap();
    platform.add_sample_version("2.0.0", PORT, None);
    platform.add_sample_version("3.0.0", 8080, Some(EMPTY));
    let before = platform.deployment_on("plant/press").unwrap()["digest"].clone();

    // The order comes while the agent is replaced by a newer one.
    platform.process("plant.press").signal(Signal::TERM);
    platform.process("plant.press").ended().await;
    make_older(&platform.node("press"));
    platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@2.0.0", "--set", "greeting=Newer"]);
    platform.run("plant.press");
    platform.undone("plant/press", &before, "address-in-use").await;
    answers(press, "First").await;
    one_runner(&platform, "press", "after an upgrade").await;

    for (number, point) in CUTS.into_iter().enumerate() {
        platform.kill("plant.press");
        platform.run_to("plant.press", Some(point));
        let greeting = format!("greeting=Cut {number}");
        platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@2.0.0", "--set", &greeting]);
        platform.process("plant.press").stopped().await;
        platform.kill("plant.press");
        platform.run("plant.press");
        platform.undone("plant/press", &before, "address-in-use").await;
        answers(press, "First").await;
        one_runner(&platform, "press", point).await;
    }

    // What cannot be loaded never stops what runs.
    let begun = starts(&platform.node("press")).len();
    platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@3.0.0"]);
    platform.undone("plant/press", &before, "invalid").await;
    answers(press, "First").await;
    assert_eq!(starts(&platform.node("press")).len(), begun);

    // The next order that can run does.
    platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@1.0.0", "--set", "greeting=Last", "--wait"]);
    for node in ["press", "oven"] {
        answers(platform.node_address(node), "Last").await;
    }

    // And a removal leaves nothing.
    platform.edgectl_ok(&["co", "remove", "hello", "--wait"]);
    for node in ["press", "oven"] {
        falls_silent(platform.node_address(node)).await;
        assert_eq!(kept(&platform.node(node)), [""; 0]);
        let desired = fs::read_to_string(platform.node(node).join("desired.json")).unwrap();
        assert!(!desired.contains("GREETING"), "{desired}");
    }
}
