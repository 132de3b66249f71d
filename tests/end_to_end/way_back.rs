//! An update that fails on a node: what was installed before runs again, whenever the agent is killed meanwhile.

use std::{fs, net::TcpListener, path::Path};

use serde_json::Value;
use testkit::wait_for;

use end_to_end::{Platform, answers, edgectl, falls_silent, sample, starts};

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

/// Adds the sample application at another version, on another port or with another component.
fn add_version(platform: &Platform, version: &str, port: u16, component: Option<&[u8]>) {
    let folder = platform.folder().join(version);
    fs::create_dir(&folder).unwrap();
    let description = fs::read_to_string(sample().join("margo.yaml")).unwrap();
    let description = description
        .replace("version: 1.0.0", &format!("version: {version}"))
        .replace("revision: 1.0.0", &format!("revision: {version}"))
        .replace("port: 8080", &format!("port: {port}"));
    fs::write(folder.join("margo.yaml"), description).unwrap();
    match component {
        Some(bytes) => fs::write(folder.join("hello.wasm"), bytes).unwrap(),
        None => drop(fs::copy(sample().join("hello.wasm"), folder.join("hello.wasm")).unwrap()),
    }
    platform.edgectl_ok(&["co", "add", "app", &folder.display().to_string()]);
}

fn deployments(platform: &Platform) -> Result<Vec<Value>, String> {
    let listed = edgectl(&platform.context(), &["co", "list", "deployments", "-o", "json"]);
    serde_json::from_slice(&listed.stdout).map_err(|_| String::from_utf8_lossy(&listed.stderr).into_owned())
}

/// The deployment of a node, as the hub shows it.
fn on(deployments: &[Value], node: &str) -> Value {
    deployments.iter().find(|it| it["node"] == node).cloned().unwrap_or_default()
}

/// Waits until the node says that the wanted revision failed for this reason, and that another one runs again.
async fn undone(platform: &Platform, digest_before: &Value, code: &str) {
    wait_for("the update to be undone", async || {
        let press = on(&deployments(platform).map_err(Value::from)?, "plant/press");
        let failure = &press["actual"]["failure"];
        let is_undone = press["state"] == "failed" && failure["code"] == code && failure["runs"] == *digest_before;
        if is_undone && press["digest"] != *digest_before { Ok(()) } else { Err(press) }
    })
    .await;
}

/// Everything that the agent keeps of workloads.
fn kept(node: &Path) -> Vec<String> {
    let folder = node.join("wasm/workloads");
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_failed_update_goes_back_through_every_kill_of_the_agent() {
    let mut platform = Platform::with_sample(None).await;
    platform.all_installed().await;
    let press = platform.node_address("press");
    let _taken = TcpListener::bind((press, PORT)).unwrap();
    add_version(&platform, "2.0.0", PORT, None);
    add_version(&platform, "3.0.0", 8080, Some(EMPTY));
    let before = on(&deployments(&platform).unwrap(), "plant/press")["digest"].clone();

    for (number, point) in CUTS.into_iter().enumerate() {
        platform.kill("plant.press");
        platform.run_to("plant.press", Some(point));
        let greeting = format!("greeting=Cut {number}");
        platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@2.0.0", "--set", &greeting]);
        platform.process("plant.press").stopped().await;
        platform.kill("plant.press");
        platform.run("plant.press");
        undone(&platform, &before, "address-in-use").await;
        answers(press, "First").await;
        wait_for("one runner to be left", async || {
            let alive: Vec<_> = starts(&platform.node("press")).into_iter().filter(|start| start.is_alive()).collect();
            if alive.len() == 1 { Ok(()) } else { Err((point, alive)) }
        })
        .await;
    }

    // What cannot be loaded never stops what runs.
    let begun = starts(&platform.node("press")).len();
    platform.edgectl_ok(&["co", "update", "hello", "--app", "hello@3.0.0"]);
    undone(&platform, &before, "invalid").await;
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
