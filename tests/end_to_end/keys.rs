//! Keys that are stolen: whoever has one is cut off by the order that replaces or revokes it, and nobody else is.

use std::{fs, path::Path};

use bus::{Bus, Jwt, User};
use identity::{
    credentials::{self, NodeCredentials, SiteCredentials},
    nats::public_key,
    tls::{Peer, Trust},
};
use margo::{NodeId, SiteName, UserNkey};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::wait_for;

use end_to_end::{Application, Platform, SiteLayout, answers, edgectl, starts};

/// Two sites: what is done to the first must not be noticed at the second.
const SITES: &[SiteLayout] =
    &[SiteLayout { name: "plant", nodes: &["press", "oven"] }, SiteLayout { name: "depot", nodes: &["crane"] }];

/// What somebody has who has read a credentials file, and the login of its owner.
#[derive(Clone)]
struct Loot {
    /// Whose server the key opens: `hub`, or a site.
    owner: &'static str,
    user: User,
    seed: String,
    jwt: String,
}

impl Loot {
    fn of_node(platform: &Platform, site: &'static str, node: &str) -> Self {
        let NodeCredentials { node: id, seed, .. } =
            credentials::load(&platform.folder().join(format!("{node}.toml"))).unwrap();
        let jwt = fs::read_to_string(platform.node(node).join("login.jwt")).unwrap();
        Self { owner: site, user: User::Node(id), seed, jwt }
    }

    fn of_site(platform: &Platform, site: &str) -> Self {
        let SiteCredentials { site: name, seed, .. } =
            credentials::load(&platform.folder().join(format!("{site}.toml"))).unwrap();
        let jwt = fs::read_to_string(platform.site(site).join("orchestrator/hub.jwt")).unwrap();
        Self { owner: "hub", user: User::Site(name.client()), seed, jwt }
    }

    fn key(&self) -> UserNkey {
        public_key(&self.seed).unwrap()
    }

    async fn connect(&self, platform: &Platform) -> Bus {
        let jwt = Jwt::Text(self.jwt.clone());
        Bus::connect(&platform.login(self.owner, self.user.clone(), self.seed.clone(), jwt)).await.unwrap()
    }

    /// What the minter of the server answers to whoever asks for a login with this key. Fails when it does not answer.
    async fn minted(&self, platform: &Platform) -> reqwest::Result<StatusCode> {
        let (base, peer) = match self.owner {
            "hub" => (platform.nats_url("hub").replace("tls", "https").replace("4222", "8083"), Peer::Hub),
            site => (platform.site_url(site), Peer::Site(site.parse().unwrap())),
        };
        let tls = Trust::load(&platform.trust_file()).unwrap().peer(&peer);
        let http = reqwest::Client::builder().tls_backend_preconfigured((*tls).clone()).build().unwrap();
        Ok(http.get(format!("{base}/v1/jwt/{}", self.key())).send().await?.status())
    }
}

async fn connected(platform: &Platform, loot: &Loot) -> Bus {
    let bus = loot.connect(platform).await;
    bus.connected().await;
    bus
}

async fn is_cut_off(bus: &Bus) {
    wait_for("the thief to be turned away", async || {
        let refusals = *bus.refusals().borrow();
        if refusals > 0 && !bus.is_connected() { Ok(()) } else { Err(refusals) }
    })
    .await;
}

fn undisturbed(bus: &Bus) -> bool {
    bus.is_connected() && *bus.connections().borrow() == 1
}

/// One of a list's entries, by its name.
fn named(list: Value, name: &str) -> Value {
    let found = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
}

/// Puts the new credentials file where the old one was.
fn hand_over(platform: &Platform, new: &Path, owner: &str) {
    fs::rename(new, platform.folder().join(format!("{owner}.toml"))).unwrap();
}

#[tokio::test]
async fn a_node_s_stolen_key_is_cut_off_when_it_is_replaced_and_the_node_goes_on_with_the_new_one() {
    let mut platform = Platform::start(SITES, Application::Sample).await;
    let press: NodeId = "plant/press".parse().unwrap();
    let (stolen, oven) = (Loot::of_node(&platform, "plant", "press"), Loot::of_node(&platform, "plant", "oven"));
    let (thief, neighbour) = (connected(&platform, &stolen).await, connected(&platform, &oven).await);
    let before = starts(&platform.node("press"));

    let file = platform.folder().join("press-2.toml");
    let (name, path, server) = (press.to_string(), file.display().to_string(), platform.nats_url("plant"));
    let order = ["co", "replace-key", "node", &name, "--credentials", &path, "--server", &server, "--reason", "stolen"];
    platform.edgectl_ok(&order);
    is_cut_off(&thief).await;
    assert_eq!(stolen.minted(&platform).await.unwrap(), StatusCode::NOT_FOUND);
    is_cut_off(&stolen.connect(&platform).await).await;
    // What runs goes on without its node's login.
    answers(platform.node_address("press"), "First").await;
    let listed = named(platform.edgectl_json(&["co", "list", "nodes"]), &name);
    assert_eq!(listed["formerKeys"], json!([{ "nkey": stolen.key() }]));
    assert_ne!(listed["identity"]["nkey"], json!(stolen.key()));

    platform.kill("plant.press");
    hand_over(&platform, &file, "press");
    platform.run("plant.press");
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Again", "--wait"]);
    for node in ["press", "oven", "crane"] {
        answers(platform.node_address(node), "Again").await;
    }
    let after = starts(&platform.node("press"));
    assert_eq!(after[..before.len()], before[..]);
    assert_eq!(after.len(), before.len() + 1, "only the update started anything: {after:?}");

    assert!(undisturbed(&neighbour));
    assert!(!thief.is_connected());
    // The old key is that of nobody, for ever: also after all at the site have begun anew.
    for part in ["plant.nats", "plant.local-orchestrator"] {
        platform.kill(part);
        platform.run(part);
    }
    neighbour.connected().await;
    wait_for("the site's minter to be back", async || match oven.minted(&platform).await {
        Ok(StatusCode::OK) => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(stolen.minted(&platform).await.unwrap(), StatusCode::NOT_FOUND);
    is_cut_off(&stolen.connect(&platform).await).await;
}

/// Waits until the site says whether it is connected to the hub, with all its nodes.
async fn hub_connected(platform: &Platform, site: &str, wanted: bool) {
    wait_for(&format!("{site} to be {} the hub", if wanted { "at" } else { "without" }), async || {
        let output = edgectl(&platform.context(), &["lo", "status", "--site", site, "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| Value::from(String::from_utf8_lossy(&output.stderr).into_owned()))?;
        let nodes = status["nodes"].as_array().unwrap();
        let heard = !nodes.is_empty() && nodes.iter().all(|node| node["reachability"] == "reachable");
        if heard && status["hubConnected"] == wanted { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn a_site_s_stolen_key_is_cut_off_when_it_is_revoked_and_other_sites_do_not_notice() {
    let mut platform = Platform::start(SITES, Application::Sample).await;
    let plant: SiteName = "plant".parse().unwrap();
    let (stolen, depot) = (Loot::of_site(&platform, "plant"), Loot::of_site(&platform, "depot"));
    let (thief, neighbour) = (connected(&platform, &stolen).await, connected(&platform, &depot).await);

    platform.edgectl_ok(&["co", "revoke-key", "site", plant.as_str(), "--reason", "stolen"]);
    is_cut_off(&thief).await;
    assert_eq!(stolen.minted(&platform).await.unwrap(), StatusCode::NOT_FOUND);
    is_cut_off(&stolen.connect(&platform).await).await;
    // The site itself is out, too, and its nodes go on with what they have.
    hub_connected(&platform, "plant", false).await;
    answers(platform.node_address("press"), "First").await;
    let listed = named(platform.edgectl_json(&["co", "list", "sites"]), plant.as_str());
    assert_eq!((&listed["identity"], &listed["formerKeys"]), (&Value::Null, &json!([{ "nkey": stolen.key() }])));
    assert!(undisturbed(&neighbour));
    hub_connected(&platform, "depot", true).await;

    // What is ordered meanwhile waits until the site has another key.
    platform.edgectl_ok(&["co", "update", "hello", "--set", "greeting=Again"]);
    answers(platform.node_address("crane"), "Again").await;
    let file = platform.folder().join("plant-2.toml");
    platform.edgectl_ok(&["co", "replace-key", "site", plant.as_str(), "--credentials", &file.display().to_string()]);
    hand_over(&platform, &file, "plant");
    platform.init_site("plant");
    for part in ["plant.nats", "plant.local-orchestrator", "plant.oci-fetcher"] {
        platform.kill(part);
        platform.run(part);
    }
    for node in ["press", "oven"] {
        answers(platform.node_address(node), "Again").await;
    }
    hub_connected(&platform, "plant", true).await;
    assert!(undisturbed(&neighbour));
    assert!(!thief.is_connected());
    assert_eq!(stolen.minted(&platform).await.unwrap(), StatusCode::NOT_FOUND);
}
