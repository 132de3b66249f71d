//! Any process may be killed at any line: what was answered is not lost, and an order arrives once.

use std::path::Path;

use reqwest::header::HeaderValue;
use rustix::process::Signal;
use testkit::wait_for;

use end_to_end::{Platform, answers, starts};

/// Where a process is stopped in the middle of an order, and which process is killed there.
struct Cut {
    /// The process that stops itself at the point.
    runs: &'static str,
    /// The name of the stop point.
    point: &'static str,
    /// The process that is killed meanwhile: the same one, or a server that it depends on.
    killed: &'static str,
}

const fn at(runs: &'static str, point: &'static str) -> Cut {
    Cut { runs, point, killed: runs }
}

const CUTS: [Cut; 18] = [
    at("deployment-registry", "deployment-registry.committed"),
    at("deployment-registry", "outbox.before-publish"),
    at("git-writer", "git-writer.promised"),
    at("git-writer", "git-writer.fleet-moved"),
    at("git-writer", "git-writer.committed"),
    at("git-observer", "git-observer.before-publish"),
    at("plant.local-orchestrator", "local-orchestrator.before-adopt"),
    at("plant.local-orchestrator", "local-orchestrator.adopted"),
    at("plant.local-orchestrator", "local-orchestrator.relayed"),
    at("plant.press", "edge-node.adopted"),
    at("plant.press", "edge-node.prepared"),
    at("plant.press", "runtime-wasm.enforced"),
    at("plant.press", "runtime-wasm.port-free"),
    at("plant.press", "runtime-wasm.gone"),
    at("plant.press", "edge-node.started"),
    at("plant.press", "edge-node.before-report"),
    Cut { runs: "git-observer", point: "git-observer.before-publish", killed: "hub-nats" },
    Cut { runs: "plant.local-orchestrator", point: "local-orchestrator.before-adopt", killed: "plant.nats" },
];

#[tokio::test]
async fn an_order_survives_every_kill_and_arrives_once() {
    let mut platform = Platform::with_sample(None).await;
    let mut digests = running(&platform);
    for (number, Cut { runs, point, killed }) in CUTS.into_iter().enumerate() {
        let greeting = format!("Cut {number}");
        platform.kill(runs);
        platform.run_to(runs, Some(point));

        // Not through edgectl: when deployment-registry dies before its answer, the order stands all the same.
        let revision = revision(&platform).await;
        let order = tokio::spawn(update(platform.api(), platform.token(), revision, greeting.clone()));
        platform.process(runs).stopped().await;
        platform.kill(killed);
        platform.run(killed);
        if killed != runs {
            platform.process(runs).signal(Signal::CONT);
        }
        let status = order.await.unwrap();
        let died_before_its_answer = killed == "deployment-registry";
        assert!(status == 202 || died_before_its_answer, "the order at {point} was answered {status}");

        for node in ["press", "oven"] {
            answers(platform.node_address(node), &greeting).await;
        }
        platform.all_installed().await;
        let next = running(&platform);
        for (node, digest) in &next {
            let begun: Vec<_> =
                starts(&platform.node(node)).into_iter().filter(|start| start.digest == *digest).collect();
            assert_eq!(begun.len(), 1, "{point}, {killed} killed: {node} started {digest} more than once: {begun:?}");
        }
        assert!(next.iter().all(|now| !digests.contains(now)), "every update has a digest of its own");
        digests = next;
    }

    // Every order stands in Git exactly once: there is one commit for each revision.
    let assignment = platform.edgectl_json(&["co", "list", "assignments"])[0].clone();
    assert_eq!(assignment["revision"], 1 + CUTS.len());
    let orders = platform.edgectl_json(&["co", "list", "orders"]);
    let orders = orders.as_array().unwrap();
    assert_eq!(orders.len(), 1 + CUTS.len());
    assert!(orders.iter().all(|order| order["committed"] == true), "{orders:#?}");
    let log = git(
        &platform.hub().join("repositories/default/fleet.git"),
        &["log", "--format=%(trailers:key=Order,valueonly)", "main"],
    );
    for order in orders {
        let id = order["id"].as_str().unwrap();
        assert_eq!(log.lines().filter(|line| *line == id).count(), 1, "order {id} in:\n{log}");
    }
    let repositories = platform.hub().join("repositories/default");
    for repository in [repositories.join("fleet.git"), repositories.join("clients/plant.git")] {
        git(&repository, &["fsck", "--strict"]);
    }
}

/// The revision that an update has to name. Waits for it, because a service that was started again answers only after a
/// while.
async fn revision(platform: &Platform) -> HeaderValue {
    let client = reqwest::Client::new();
    let url = format!("{}/assignments/hello", platform.api());
    wait_for("the assignment's revision", async || {
        let current = client.get(&url).bearer_auth(platform.token()).send().await.map_err(|error| error.to_string())?;
        current.headers().get("etag").cloned().ok_or_else(|| current.status().to_string())
    })
    .await
}

/// Sends an update as the admin, and returns the status of the answer.
async fn update(api: String, token: String, revision: HeaderValue, greeting: String) -> u16 {
    let body = serde_json::json!({
        "app": { "id": "hello", "version": "1.0.0" },
        "parameters": { "greeting": greeting },
        "targets": { "nodes": ["plant/press", "plant/oven"] },
    });
    let request = reqwest::Client::new().put(format!("{api}/assignments/hello")).bearer_auth(token);
    let answer = request.header("if-match", revision).json(&body).send().await.unwrap();
    answer.status().as_u16()
}

/// Each node with the digest of the workload that lives there.
fn running(platform: &Platform) -> Vec<(String, String)> {
    let nodes = platform.nodes();
    let nodes = nodes.iter().map(|node| node.replace("plant/", ""));
    nodes
        .map(|node| {
            // The one before may still be finishing its last requests.
            let last = starts(&platform.node(&node)).pop().unwrap_or_else(|| panic!("{node} started nothing"));
            assert!(last.is_alive(), "{node} answers from another process than {last:?}");
            (node, last.digest)
        })
        .collect()
}

/// Runs stock git, which has to succeed, and returns all that it wrote.
pub fn git(repository: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git").arg("-C").arg(repository).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?} in {}:\n{text}", repository.display());
    text
}
