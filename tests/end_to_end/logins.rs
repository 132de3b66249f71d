//! Logins of sites and nodes: who comes back by itself, and how much of what a member may have it needs.

use bus::{Bus, Jwt, User};
use serde_json::Value;

use end_to_end::{Platform, answers};

/// The most subscriptions that a member needs: half of those that its template allows.
const NEEDED: u64 = 8;

/// The subscriptions of each connection of the platform's account at one server, by the name of the connection.
async fn subscriptions(platform: &Platform, owner: &str) -> Vec<(String, u64)> {
    let folder = if owner == "hub" { platform.hub() } else { platform.site(owner) };
    let seed = std::fs::read_to_string(folder.join("keys/nats/minter.seed")).unwrap();
    let jwt = Jwt::File(folder.join("keys/nats/minter.jwt"));
    let bus = Bus::connect(&platform.login(owner, User::Minter, seed, jwt)).await.unwrap();
    bus.connected().await;
    let account = std::fs::read_to_string(folder.join("keys/authority/account.pub")).unwrap();
    let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", bus.client().server_info().server_id);
    let body = format!(r#"{{"acc":"{}"}}"#, account.trim());
    let answer: Value =
        serde_json::from_slice(&bus.client().request(subject, body.into()).await.unwrap().payload).unwrap();
    let connections = answer["data"]["connections"].as_array().unwrap();
    connections
        .iter()
        .map(|it| (it["name"].as_str().unwrap().to_owned(), it["subscriptions"].as_u64().unwrap()))
        .collect()
}

#[tokio::test]
async fn after_a_site_lost_its_disk_its_nodes_come_back_without_a_visit() {
    let mut platform = Platform::with_sample(None).await;
    platform.all_installed().await;
    let parts = ["plant.nats", "plant.local-orchestrator", "plant.oci-fetcher"];
    for part in parts {
        platform.kill(part);
    }
    std::fs::remove_dir_all(platform.site("plant")).unwrap();
    // Made anew from the credentials file: its server has other keys, and knows none of the nodes' logins.
    platform.init_site("plant");
    for part in parts {
        platform.run(part);
    }
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Again", "--wait"]);
    for node in ["press", "oven"] {
        answers(platform.node_address(node), "Again").await;
    }

    for (owner, members) in [("hub", vec!["site plant"]), ("plant", vec!["node plant/oven", "node plant/press"])] {
        let mut found: Vec<_> = subscriptions(&platform, owner).await;
        found.retain(|(name, _)| members.contains(&name.as_str()));
        found.sort();
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), members);
        assert!(found.iter().all(|(_, count)| (1..=NEEDED).contains(count)), "{found:?}");
    }
}
