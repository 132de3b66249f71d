//! What a site and its nodes still do while the hub, or even the site itself, is away.

use serde_json::Value;

use end_to_end::{Platform, answers, central, edgectl, kill_runners, starts};

#[tokio::test]
async fn a_site_and_its_nodes_restart_without_the_hub() {
    let mut platform = Platform::with_sample(None).await;
    for name in central().chain(["hub-nats"]) {
        platform.kill(name);
    }

    // The whole site loses power: servers, agents and workloads.
    for name in ["plant.press", "plant.oven", "plant.oci-fetcher", "plant.local-orchestrator", "plant.nats"] {
        platform.kill(name);
    }
    kill_runners(&platform.node("press"));
    kill_runners(&platform.node("oven"));

    // One node comes back alone, without even its site.
    platform.run("plant.press");
    answers(platform.node_address("press"), "First").await;

    for name in ["plant.nats", "plant.local-orchestrator", "plant.oci-fetcher", "plant.oven"] {
        platform.run(name);
    }
    answers(platform.node_address("oven"), "First").await;
    testkit::wait_for("the site to hear its nodes", async || {
        let output = edgectl(&platform.context(), &["lo", "status", "--site", "plant", "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| Value::from(String::from_utf8_lossy(&output.stderr).into_owned()))?;
        let nodes = status["nodes"].as_array().unwrap();
        let heard = nodes.len() == 2 && nodes.iter().all(|node| node["reachability"] == "reachable");
        if heard && status["hubConnected"] == false { Ok(()) } else { Err(status) }
    })
    .await;

    // The hub returns; an order goes through as before.
    platform.run("hub-nats");
    central().for_each(|service| platform.run(service));
    testkit::wait_for("the hub to take orders again", async || {
        let order = ["co", "update", "hello", "--set", "greeting=Back"];
        let output = edgectl(&platform.context(), &order);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    })
    .await;
    for node in ["press", "oven"] {
        answers(platform.node_address(node), "Back").await;
    }
}

#[tokio::test]
async fn running_workloads_are_taken_up_untouched_when_their_agent_restarts() {
    let mut platform = Platform::with_sample(None).await;
    platform.all_installed().await;
    let before = starts(&platform.node("press"));
    platform.kill("plant.press");
    answers(platform.node_address("press"), "First").await;
    platform.run("plant.press");
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Second", "--wait"]);
    answers(platform.node_address("press"), "Second").await;
    let after = starts(&platform.node("press"));
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after.len(), before.len() + 1, "only the update started anything: {after:?}");
}
