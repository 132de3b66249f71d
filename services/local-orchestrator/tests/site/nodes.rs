//! The site's nodes: who may connect, which life of them is the present one, who is heard.

use std::{fs, time::Duration};

use api::Reachability;
use bus::{Bus, NodeVerb, ServiceName, Subject, User, streams};
use service::TokenSecret;
use testkit::{connect, wait_for};

use crate::world::{ARTIFACTS_SECRET, Node, TOKEN, World, last, node, report};

async fn reachability(world: &World, name: &str) -> Option<Reachability> {
    world.status().await.nodes.into_iter().find(|it| it.name == name).map(|it| it.reachability)
}

async fn is(world: &World, name: &str, wanted: Reachability) {
    wait_for("a node's reachability", async || match reachability(world, name).await {
        Some(found) if found == wanted => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn is_cut_off(node: &Node) {
    wait_for("the site to turn the node away", async || {
        if *node.bus.refusals().borrow() > 0 && !node.bus.is_connected() { Ok(()) } else { Err("connected") }
    })
    .await;
}

#[tokio::test]
async fn only_admitted_nodes_connect_and_a_new_one_disturbs_no_other() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let before = *press.bus.connections().borrow();
    // The JWT of a node is of no use without its seed.
    let stranger = bus::Login { seed: identity::nats::generate().0, ..world.admit("lathe").await };
    let stranger = Bus::connect(&stranger).await.unwrap();
    let lathe = world.node("drill").await;
    assert!(lathe.bus.is_connected() && !stranger.is_connected());
    assert_eq!(*press.bus.connections().borrow(), before);
    assert!(press.report(&report(1, 1)).await.stored);

    // The list outlives the hub and the process.
    let unknown = identity::nats::generate().1;
    assert_eq!(world.jwt(&unknown).await, Err(404));
    let key = identity::nats::public_key(&press.login.seed).unwrap();
    world.line.cut();
    world.kill().await;
    world.start().await;
    assert_eq!(world.status().await.nodes.len(), 3);
    assert!(world.jwt(&key).await.is_ok());
    assert_eq!(world.jwt(&unknown).await, Err(404));
    assert_eq!(*press.bus.connections().borrow(), before);
}

#[tokio::test]
async fn a_node_that_is_no_longer_admitted_is_cut_off_and_stays_so() {
    let mut world = World::started().await;
    let (press, oven) = (world.node("press").await, world.node("oven").await);
    let before = *oven.bus.connections().borrow();
    let key = identity::nats::public_key(&press.login.seed).unwrap();
    world.fleet.leave("press", key.clone());
    world.publish(&world.fleet, &world.fleet.head_parts()).await;
    is_cut_off(&press).await;
    assert_eq!(world.jwt(&key).await, Err(404));
    // It is forgotten neither by the LO nor by the server.
    world.kill().await;
    world.site.kill().await;
    world.site.restart().await;
    world.start().await;
    let again = Bus::connect(&press.login).await.unwrap();
    wait_for(
        "another attempt to be refused",
        async || {
            if *again.refusals().borrow() > 1 { Ok(()) } else { Err("not refused") }
        },
    )
    .await;
    assert!(!again.is_connected() && !press.bus.is_connected());
    oven.bus.connected().await;
    assert_eq!(*oven.bus.connections().borrow(), before + 1, "only the server's restart disturbed the neighbour");
}

#[tokio::test]
async fn whoever_has_an_earlier_key_is_not_given_what_is_made_for_the_next() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let (old, new) = (identity::nats::public_key(&press.login.seed).unwrap(), identity::nats::generate().1);
    // The disk is in the way: no account can be issued, so the server cannot be told of the old key.
    let (accounts, aside) = (world.site.folder().join("accounts.conf"), world.site.folder().join("aside"));
    fs::rename(&accounts, &aside).unwrap();
    fs::create_dir(&accounts).unwrap();
    world.fleet.replace("press", new.clone(), old.clone());
    world.publish(&world.fleet, &world.fleet.head_parts()).await;
    wait_for("the new key to wait", async || match world.jwt(&new).await {
        Err(503) => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(world.jwt(&old).await, Err(404));
    assert_eq!(press.register(1).await.unwrap().artifacts_token, "");

    fs::remove_dir(&accounts).unwrap();
    fs::rename(&aside, &accounts).unwrap();
    is_cut_off(&press).await;
    wait_for("the new key to be let in", async || world.jwt(&new).await).await;
}

#[tokio::test]
async fn nodes_come_back_by_themselves_after_the_disk_of_the_site_was_lost() {
    let mut world = World::started().await;
    let folder = tempfile::tempdir().unwrap();
    let (file, login) = (folder.path().join("login.jwt"), world.admit("press").await);
    let login = bus::Login { jwt: bus::Jwt::File(file), ..login };
    let press = Bus::connect(&login).await.unwrap();
    // The agent's own part: it asks when it has no JWT, and when it is refused.
    let agent = renewal::Renewal::new(&login, &world.minter_url(), None).unwrap().unwrap();
    let end = tokio_util::sync::CancellationToken::new();
    let agent = tokio::spawn(agent.run(press.clone(), end.clone()));
    press.connected().await;
    world.kill().await;
    world.site.kill().await;
    world.lose_disk();
    world.site.restart_anew().await;
    world.start().await;
    press.connected().await;
    wait_for("the node to be let in by the new keys", async || {
        if *press.connections().borrow() > 1 && press.is_connected() { Ok(()) } else { Err(press.is_connected()) }
    })
    .await;
    end.cancel();
    agent.await.unwrap().unwrap();
}

#[tokio::test]
async fn incarnations_rise_with_every_lost_disk_and_never_fall() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let answer = press.register(1).await.unwrap();
    assert_eq!((answer.incarnation, answer.artifacts_url.as_str()), (1, "http://artifacts"));
    // The token is the node's own, and its site answers for the key that it was made for.
    let key = identity::nats::public_key(&press.login.seed).unwrap();
    assert_eq!(answer.artifacts_token, TokenSecret::new(ARTIFACTS_SECRET).token("press", &key));
    let fetcher = world.site.connect(&User::OciFetcher(crate::world::plant())).await;
    let minter = Subject::service(ServiceName::LocalOrchestrator, "key");
    assert_eq!(service::key_of(&fetcher, &minter, "press").await.unwrap(), Some(key));
    assert_eq!(service::key_of(&fetcher, &minter, "stranger").await.unwrap(), None);
    assert!(!answer.state_stream.is_empty());
    assert_eq!(press.registered(0).await, 2);
    world.kill().await;
    world.start().await;
    assert_eq!(press.registered(0).await, 3);
    // None is made up, either.
    assert_eq!(press.registered(1 << 40).await, 4);
}

#[tokio::test]
async fn a_site_that_lost_its_disk_asks_the_hub_before_it_gives_an_incarnation() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    assert_eq!(press.registered(0).await, 2);
    assert!(press.report(&report(2, 1)).await.stored);
    wait_for("the report to reach the hub", async || {
        last(&world.collector, streams::STATE, &Subject::Status(node("press"))).await.ok_or("nothing")
    })
    .await;
    world.kill().await;
    world.lose_disk();
    for stream in [streams::STATE, streams::EVENTS, streams::DESIRED] {
        world.site.operator().await.jetstream().delete_stream(stream).await.unwrap();
    }
    world.line.cut();
    world.start().await;
    let answer = press.register(0).await.unwrap();
    assert!(answer.not_ready && answer.incarnation == 0, "{answer:?}");
    // A report of a node that never noticed waits as well.
    let waiting = press.report(&report(2, 2)).await;
    assert!(!waiting.stored && waiting.refused.is_empty(), "{waiting:?}");
    world.line.open();
    wait_for("the report to be stored", async || {
        let answer = press.report(&report(2, 2)).await;
        if answer.stored { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(press.registered(0).await, 3);
    assert_eq!(press.registered(3).await, 3);
}

#[tokio::test]
async fn a_silent_node_becomes_unreachable_and_a_heartbeat_brings_it_back() {
    let mut world = World::new().await;
    world.unreachable_after = Duration::from_millis(500);
    world.start().await;
    let lathe = world.admit("lathe").await;
    let press = world.node("press").await;
    is(&world, "lathe", Reachability::Unknown).await;
    is(&world, "press", Reachability::Unreachable).await;
    wait_for("a heartbeat to be heard", async || {
        press.bus.signal(&Subject::Node(press.id.clone(), NodeVerb::Alive), "".into()).await.unwrap();
        match reachability(&world, "press").await {
            Some(Reachability::Reachable) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    is(&world, "press", Reachability::Unreachable).await;
    // The centre knows: the judgement is relayed.
    wait_for("the hub to know", async || {
        let health = last(&world.collector, streams::STATE, &Subject::Health(crate::world::plant())).await;
        let health = health.map(|it| <bus::proto::SiteHealth as prost::Message>::decode(it.payload).unwrap());
        let nodes = health.map(|it| it.nodes).unwrap_or_default();
        let found: Vec<_> = nodes.iter().map(|it| (it.node.as_str(), it.reachability().as_str_name())).collect();
        let wanted = [("lathe", "REACHABILITY_UNKNOWN"), ("press", "REACHABILITY_UNREACHABLE")];
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    drop(connect(&lathe).await);
}

#[tokio::test]
async fn the_status_needs_its_token_and_tells_what_the_site_knows() {
    let mut world = World::started().await;
    for token in [None, Some("wrong"), Some("")] {
        let refused = world.get_status(token).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
    }
    assert_eq!(world.get_status(Some(TOKEN)).await.status(), 200);
    assert_eq!(world.status().await.manifest_version, None);
    let press = world.node("press").await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(2).await;
    assert!(press.report(&report(1, 1)).await.stored);
    let status = world.status().await;
    assert!(status.hub_connected);
    assert_eq!((status.site.as_str(), status.commit.as_deref()), ("plant", Some("commit-2")));
    let [press] = &status.nodes[..] else { panic!("{status:?}") };
    assert_eq!((press.incarnation, press.desired, press.installed), (1, 1, 1));
    assert_eq!(press.reachability, Reachability::Reachable);
}

#[tokio::test]
async fn a_node_goes_on_when_the_site_s_server_was_restarted() {
    let mut world = World::started().await;
    let press: Node = world.node("press").await;
    assert!(press.report(&report(1, 1)).await.stored);
    world.site.kill().await;
    world.site.restart().await;
    press.bus.connected().await;
    let mut sequence = 1;
    wait_for("a report to be stored", async || {
        sequence += 1;
        let body = prost::Message::encode_to_vec(&report(1, sequence)).into();
        press.bus.request(&Subject::Node(press.id.clone(), NodeVerb::Report), Default::default(), body).await
    })
    .await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(2).await;
}

#[tokio::test]
async fn a_node_whose_disk_was_rolled_back_begins_its_next_life() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    assert!(press.report(&report(1, 50)).await.stored);
    let incarnation =
        async |incarnation, sequence| press.register_after(incarnation, sequence).await.unwrap().incarnation;
    // It reconnects: what it says fits what the site has.
    assert_eq!(incarnation(1, 50).await, 1);
    assert_eq!(incarnation(1, 51).await, 1);
    // An older disk: a sequence that lies behind, and then an incarnation that is over.
    assert_eq!(press.report(&report(1, 11)).await.refused, "the report has sequence 11, 50 is stored");
    assert_eq!(incarnation(1, 11).await, 2);
    assert!(press.report(&report(2, 12)).await.stored);
    assert_eq!(incarnation(1, 40).await, 3);
}

#[tokio::test]
async fn trouble_with_the_disk_of_registrations_leaves_reports_and_the_relay_at_work() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    assert!(press.report(&report(1, 1)).await.stored);
    world.kill().await;
    // The folder cannot be read and not be replaced.
    let folder = world.data_folder().join("incarnations");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    world.start().await;
    let answer = press.register(1).await.unwrap();
    assert!(answer.not_ready, "{answer:?}");
    world.refused("site.plant.positions", "nodes are not registered").await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    // The site's health still goes up.
    wait_for("the hub to know", async || {
        let health = last(&world.collector, streams::STATE, &Subject::Health(crate::world::plant())).await;
        let health = health.map(|it| <bus::proto::SiteHealth as prost::Message>::decode(it.payload).unwrap());
        let version = health.map(|it| it.adopted_manifest_version);
        if version == Some(1) { Ok(()) } else { Err(version) }
    })
    .await;
    fs::remove_file(&folder).unwrap();
    assert_eq!(press.registered(1).await, 1);
    assert!(press.report(&report(1, 2)).await.stored);
}
