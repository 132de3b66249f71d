//! The running platform that all tests here share, and the credentials that a hostile client has taken from it.

use std::{
    fs,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_nats::Subscriber;
use bus::{Bus, Jwt, Login, ServiceName, User};
use bytes::Bytes;
use end_to_end::{Application, Platform, SiteLayout, answers, sample};
use futures::StreamExt;
use identity::{
    Authority, Rights,
    credentials::{NodeCredentials, SiteCredentials, load},
    jwt,
    nats::{generate, public_key},
    tls::{Peer, Trust},
};
use margo::{ClientName, NodeId, TenantName};
use testkit::wait_for;
use tokio::sync::{Mutex, OwnedMutexGuard};

const SITES: &[SiteLayout] =
    &[SiteLayout { name: "plant", nodes: &["press", "oven"] }, SiteLayout { name: "depot", nodes: &["crane"] }];

/// The platform that runs now. Whoever waits for its turn holds it too, so it ends with the last test of this process and
/// never later.
static RUNNING: Mutex<Weak<Mutex<Platform>>> = Mutex::const_new(Weak::new());

/// The platform, for as long as this test has its turn. The assignment `plants` runs on the nodes of the plant, `cranes` on that of
/// the depot. The node `plant/ghost` is admitted, and its key is in hostile hands: it has no agent.
pub async fn platform() -> OwnedMutexGuard<Platform> {
    let mut running = RUNNING.lock().await;
    let platform = match running.upgrade() {
        Some(platform) => platform,
        None => {
            let platform = Arc::new(Mutex::new(start().await));
            *running = Arc::downgrade(&platform);
            platform
        }
    };
    drop(running);
    platform.lock_owned().await
}

async fn start() -> Platform {
    let platform = Platform::start(SITES, Application::Nothing).await;
    platform.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
    let deploy = "co deploy hello@1.0.0 --set greeting=First --wait --name";
    let deploy: Vec<_> = deploy.split(' ').collect();
    platform.edgectl_ok(&[&deploy[..], &["plants", "--to", "plant/press", "--to", "plant/oven"]].concat());
    platform.edgectl_ok(&[&deploy[..], &["cranes", "--to", "depot/crane"]].concat());
    let file = platform.folder().join("ghost.toml").display().to_string();
    let server = platform.nats_url("plant");
    platform.edgectl_ok(&["co", "add", "node", "plant/ghost", "--credentials", &file, "--server", &server]);
    // When the plant lets it in, what was ordered is everywhere, and only orders change something from here on.
    minted(&platform, &node_credentials(&platform, "ghost").seed).await;
    platform
}

/// Orders another greeting of an assignment, and returns when it is carried out and reported.
pub async fn order(platform: &Platform, assignment: &str, node: &str, greeting: &str) {
    let set = format!("greeting={greeting}");
    platform.edgectl_ok(&["co", "update", assignment, "--set", &set, "--wait"]);
    answers(platform.node_address(node), greeting).await;
}

pub fn plant() -> ClientName {
    "plant".parse().unwrap()
}

pub fn ghost() -> NodeId {
    "plant/ghost".parse().unwrap()
}

pub fn site_credentials(platform: &Platform, site: &str) -> SiteCredentials {
    load(&platform.folder().join(format!("{site}.toml"))).unwrap()
}

pub fn node_credentials(platform: &Platform, node: &str) -> NodeCredentials {
    load(&platform.folder().join(format!("{node}.toml"))).unwrap()
}

/// The login of the plant at the hub, with the seed and the JWT that its LO has on its disk.
pub fn site_login(platform: &Platform) -> Login {
    let jwt = Jwt::File(platform.site("plant").join("orchestrator/hub.jwt"));
    platform.login("hub", User::Site(plant()), site_credentials(platform, "plant").seed, jwt)
}

/// The login of the ghost at the plant, with the JWT that the plant's minter hands out.
pub async fn ghost_login(platform: &Platform) -> Login {
    let seed = node_credentials(platform, "ghost").seed;
    let jwt = minted(platform, &seed).await;
    platform.login("plant", User::Node(ghost()), seed, Jwt::Text(jwt))
}

/// The login at the hub of a new site for this test alone. Who sends too much is charged for it a while later, and then kept
/// out for some time, so a flood comes from a key that no other test has.
pub async fn login_of_new_site(platform: &Platform, site: &ClientName) -> Login {
    let file = platform.folder().join(format!("{site}.toml")).display().to_string();
    platform.edgectl_ok(&["co", "add", "site", site.as_str(), "--credentials", &file]);
    let SiteCredentials { minter, seed, .. } = site_credentials(platform, site.as_str());
    let jwt = minted_by(platform, &Peer::Hub, &minter, &seed).await;
    platform.login("hub", User::Site(site.clone()), seed, Jwt::Text(jwt))
}

/// The login at the plant of a new node for this test alone, as [`login_of_new_site`].
pub async fn login_of_new_node(platform: &Platform, node: &NodeId) -> Login {
    let file = platform.folder().join(format!("{}.toml", node.node)).display().to_string();
    let server = platform.nats_url("plant");
    platform.edgectl_ok(&["co", "add", "node", &node.to_string(), "--credentials", &file, "--server", &server]);
    let seed = node_credentials(platform, node.node.as_str()).seed;
    let jwt = minted(platform, &seed).await;
    platform.login("plant", User::Node(node.clone()), seed, Jwt::Text(jwt))
}

/// What the plant's minter hands out to anybody for the key of this seed.
pub async fn minted(platform: &Platform, seed: &str) -> String {
    minted_by(platform, &Peer::Site(plant()), &platform.site_url("plant"), seed).await
}

async fn minted_by(platform: &Platform, peer: &Peer, minter: &str, seed: &str) -> String {
    let url = format!("{}/v1/jwt/{}", minter.trim_end_matches('/'), public_key(seed).unwrap());
    let http = http(platform, peer);
    wait_for("the key to be admitted", async || {
        let answer = http.get(&url).send().await.map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(answer.text().await.unwrap()) } else { Err(answer.status().to_string()) }
    })
    .await
}

/// A client for the HTTPS listeners of the hub or of a site.
pub fn http(platform: &Platform, peer: &Peer) -> reqwest::Client {
    let trust = Trust::load(&platform.trust_file()).unwrap();
    reqwest::Client::builder().tls_backend_preconfigured((*trust.peer(peer)).clone()).build().unwrap()
}

/// A connection of a hostile client.
pub async fn hostile(login: &Login) -> Bus {
    let bus = Bus::connect(login).await.unwrap();
    bus.connected().await;
    bus
}

/// One who may hear and do everything in the platform's account of a server, made with the keys that this server believes.
pub struct Listener {
    pub bus: Bus,
    everything: Subscriber,
    fences: AtomicUsize,
}

impl Listener {
    /// Listens at the server of a site, or of the hub when `owner` is `hub`.
    pub async fn at(platform: &Platform, owner: &str) -> Self {
        let folder = if owner == "hub" { platform.hub() } else { platform.site(owner) };
        let authority =
            Authority::open(&folder.join("keys/authority"), &folder.join("nats/unused.conf"), &TenantName::default());
        let everything = || vec![">".to_owned()];
        let rights = Rights { publish: everything(), subscribe: everything() };
        let (seed, key) = generate();
        let jwt = authority.unwrap().service("listener", &key, &rights, jwt::now());
        let login = platform.login(owner, User::Central(ServiceName::ApiGateway), seed, Jwt::Text(jwt));
        let bus = hostile(&login).await;
        let everything = bus.client().subscribe(">").await.unwrap();
        let mut listener = Self { bus, everything, fences: AtomicUsize::new(0) };
        listener.heard().await;
        listener
    }

    /// Everything that the server has passed on since the last look.
    pub async fn heard(&mut self) -> Vec<async_nats::Message> {
        let body = self.fence();
        self.bus.client().publish("fence", body.clone()).await.unwrap();
        self.heard_until(&body).await
    }

    /// The same up to now on the connection of a hostile client, who may publish this subject.
    pub async fn heard_of(&mut self, hostile: &Bus, subject: &str) -> Vec<async_nats::Message> {
        let body = self.fence();
        hostile.client().publish(subject.to_owned(), body.clone()).await.unwrap();
        self.heard_until(&body).await
    }

    fn fence(&self) -> Bytes {
        format!("fence {}", self.fences.fetch_add(1, Ordering::SeqCst)).into()
    }

    async fn heard_until(&mut self, body: &Bytes) -> Vec<async_nats::Message> {
        let mut heard = Vec::new();
        loop {
            let message = self.everything.next().await.expect("the listener stays connected");
            if message.payload == *body {
                return heard;
            }
            heard.push(message);
        }
    }

    /// What the server says of a stream: when it was made, its configuration, its messages and its last sequence.
    pub async fn stream(&self, name: &str) -> (String, u64, u64) {
        let stream = self.bus.jetstream().get_stream(name).await.unwrap();
        let info = stream.cached_info();
        let made = format!("{} {}", info.created, serde_json::to_value(&info.config).unwrap());
        (made, info.state.messages, info.state.last_sequence)
    }

    /// How many messages of this pattern a stream holds.
    pub async fn count(&self, name: &str, pattern: &str) -> usize {
        let stream = self.bus.jetstream().get_stream_no_info(name).await.unwrap();
        let info = stream.info_with_subjects(pattern).await.unwrap();
        info.count().await
    }
}

/// The largest memory that a process has taken, in bytes, since it was started or this was last forgotten.
pub fn most_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Begins to count the largest memory of a process anew.
pub fn forget_memory(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}
