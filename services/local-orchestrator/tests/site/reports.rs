//! Node → site → hub: reports are stored, refused, relayed.

use async_nats::jetstream::stream::Config as StreamConfig;
use bus::{Bus, NodeVerb, Pattern, Subject, proto, streams};
use prost::Message as _;
use testkit::wait_for;

use crate::world::{World, last, node, plant, report};

/// The status that a bus's stream holds of a node: its sequence.
async fn reported(bus: &Bus, name: &str) -> Option<u64> {
    let message = last(bus, streams::STATE, &Subject::Status(node(name))).await?;
    Some(proto::NodeStatus::decode(message.payload).unwrap().sequence)
}

/// Waits until the hub holds this report of a node.
async fn relayed(world: &World, name: &str, sequence: u64) {
    wait_for("a report to reach the hub", async || match reported(&world.collector, name).await {
        Some(found) if found == sequence => Ok(()),
        other => Err(other),
    })
    .await;
}

async fn count(bus: &Bus, stream: &str) -> u64 {
    bus.jetstream().get_stream_no_info(stream).await.unwrap().get_info().await.unwrap().state.messages
}

#[tokio::test]
async fn reports_of_many_nodes_are_stored_and_relayed_once() {
    let mut world = World::started().await;
    let names: Vec<_> = (0..8).map(|at| format!("n{at}")).collect();
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(world.node(name).await);
    }
    for sequence in 1..=3 {
        let reports = nodes.iter().map(async |node| node.report(&report(1, sequence)).await);
        for answer in futures::future::join_all(reports).await {
            assert!(answer.stored && answer.events_stored && answer.refused.is_empty(), "{answer:?}");
            assert!(!answer.state_stream.is_empty());
        }
    }
    // An answer that was lost: the same report again changes nothing.
    assert!(nodes[0].report(&report(1, 3)).await.stored);
    for name in &names {
        relayed(&world, name, 3).await;
    }
    wait_for("the site's queue to be empty", async || match count(&world.at_site, streams::EVENTS).await {
        0 => Ok(()),
        more => Err(more),
    })
    .await;
    assert_eq!(count(&world.collector, streams::EVENTS).await, 24);
    nothing_waits(&world).await;
}

async fn nothing_waits(world: &World) {
    wait_for("nothing to wait", async || match world.status().await.waiting {
        0 => Ok(()),
        more => Err(more),
    })
    .await;
}

#[tokio::test]
async fn what_is_reported_while_the_hub_is_away_arrives_afterwards() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    assert!(press.report(&report(1, 1)).await.stored);
    relayed(&world, "press", 1).await;
    // An answer that is on its way would be lost with the process, and what it is about would be stored twice.
    nothing_waits(&world).await;
    world.line.cut();
    for sequence in 2..=5 {
        assert!(press.report(&report(1, sequence)).await.events_stored);
    }
    assert!(world.status().await.waiting > 0);
    // What waits outlives the process, and the hub's server.
    world.kill().await;
    world.hub.kill().await;
    world.hub.restart().await;
    world.start().await;
    assert!(press.report(&report(1, 6)).await.stored);
    world.line.open();
    relayed(&world, "press", 6).await;
    wait_for("all transitions to reach the hub", async || match count(&world.collector, streams::EVENTS).await {
        6 => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn reports_go_up_as_before_when_the_site_s_server_was_started_again() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    assert!(press.report(&report(1, 1)).await.stored);
    relayed(&world, "press", 1).await;
    world.site.kill().await;
    world.site.restart().await;
    wait_for("the site to take reports again", async || {
        if !press.bus.is_connected() {
            return Err("not connected".to_owned());
        }
        let subject = Subject::Node(press.id.clone(), NodeVerb::Report);
        let body = report(1, 2).encode_to_vec();
        match press.bus.request(&subject, Default::default(), body.into()).await {
            Ok(answer) if proto::ReportAnswer::decode(answer.payload.clone()).unwrap().stored => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    relayed(&world, "press", 2).await;
}

#[tokio::test]
async fn reports_of_another_life_overtaken_and_malformed_ones_are_refused_and_listed() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    // Its disk is lost: the next life.
    assert_eq!(press.registered(0).await, 2);
    let refused = press.report(&report(1, 9)).await;
    assert_eq!(refused.refused, "the report is of incarnation 1, 2 is in force");
    assert!(!refused.stored && !refused.events_stored);
    assert!(press.report(&report(2, 2)).await.stored);
    assert_eq!(press.report(&report(2, 1)).await.refused, "the report has sequence 1, 2 is stored");
    assert!(press.report_bytes(b"no report".to_vec()).await.refused.starts_with("the report is malformed"));
    for reason in ["incarnation 1, 2 is in force", "sequence 1, 2 is stored", "malformed"] {
        world.refused("node.plant.press.report", reason).await;
    }
    assert_eq!(reported(&world.at_site, "press").await, Some(2));
    // The order of reports is not forgotten with the process.
    world.kill().await;
    world.start().await;
    assert_eq!(press.report(&report(2, 1)).await.refused, "the report has sequence 1, 2 is stored");
    // Operators at the centre see it, too.
    wait_for("the hub to know of the refusal", async || {
        let health = last(&world.collector, streams::STATE, &Subject::Health(plant())).await;
        let refusals = health.map(|it| proto::SiteHealth::decode(it.payload).unwrap().refusals).unwrap_or_default();
        if refusals.iter().any(|it| it.reason.contains("sequence 1")) { Ok(()) } else { Err(refusals) }
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_keeps_statuses_going_and_says_so() {
    let mut world = World::started().await;
    let operator = world.site.operator().await;
    let events = streams::events_at_site(Pattern::EventsOf(plant()));
    let small = StreamConfig { max_bytes: 600, ..events };
    let press = world.node("press").await;
    world.line.cut();
    let mut sequence = 0;
    let full = wait_for("the queue to be full", async || {
        sequence += 1;
        // The LO brings it back to its form each time that it looks.
        operator.jetstream().update_stream(&small).await.unwrap();
        let answer = press.report(&report(1, sequence)).await;
        if answer.events_stored { Err(answer) } else { Ok(answer) }
    })
    .await;
    assert!(full.stored && full.refused.is_empty());
    assert_eq!(reported(&world.at_site, "press").await, Some(sequence));
    // With the hub back there is room again, and the node sends what it kept.
    world.line.open();
    relayed(&world, "press", sequence).await;
    wait_for("room in the queue", async || {
        sequence += 1;
        let answer = press.report(&report(1, sequence)).await;
        if answer.events_stored { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn a_hub_that_lost_its_state_gets_all_last_values_again() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let lathe = world.node("lathe").await;
    assert!(press.report(&report(1, 1)).await.stored);
    relayed(&world, "press", 1).await;
    assert!(lathe.report(&report(1, 1)).await.stored);
    relayed(&world, "lathe", 1).await;
    world.hub.operator().await.jetstream().delete_stream(streams::STATE).await.unwrap();
    // The answer to the next window tells it: the stream has another identity.
    wait_for("the hub to make its stream again", async || {
        world.collector.jetstream().get_stream(streams::STATE).await.map(drop)
    })
    .await;
    assert!(lathe.report(&report(1, 2)).await.stored);
    relayed(&world, "lathe", 2).await;
    relayed(&world, "press", 1).await;
}

#[tokio::test]
async fn a_site_that_lost_its_state_says_so_in_every_answer() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let before = press.report(&report(1, 1)).await.state_stream;
    world.site.operator().await.jetstream().delete_stream(streams::STATE).await.unwrap();
    let after = press.report(&report(1, 2)).await;
    assert!(after.stored);
    assert_ne!(after.state_stream, before);
    relayed(&world, "press", 2).await;
}

#[tokio::test]
async fn a_restored_snapshot_of_the_hub_s_streams_gets_all_last_values_again() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let lathe = world.node("lathe").await;
    assert!(press.report(&report(1, 1)).await.stored);
    relayed(&world, "press", 1).await;
    world.hub.kill().await;
    let snapshot = world.hub.save();
    world.hub.restart().await;
    assert!(lathe.report(&report(1, 1)).await.stored);
    assert!(press.report(&report(1, 2)).await.stored);
    relayed(&world, "lathe", 1).await;
    relayed(&world, "press", 2).await;
    world.hub.kill().await;
    world.hub.put_back(&snapshot);
    world.hub.restart().await;
    world.collector.connected().await;
    // The site has acknowledged these long ago, and its nodes say nothing new.
    assert!(press.report(&report(1, 3)).await.stored);
    relayed(&world, "press", 3).await;
    relayed(&world, "lathe", 1).await;
}

#[tokio::test]
async fn a_restored_snapshot_of_the_site_s_streams_says_so_in_every_answer() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let before = press.report(&report(1, 1)).await;
    world.site.kill().await;
    let snapshot = world.site.save();
    world.site.restart().await;
    let again = reported_again(&press, 2).await;
    assert_eq!(again.state_stream, before.state_stream);
    assert!(again.state_sequence > before.state_sequence);
    // Also when nobody but the node remembers.
    world.kill().await;
    world.site.kill().await;
    world.site.put_back(&snapshot);
    world.site.restart().await;
    world.start().await;
    let told = bus::proto::ReportRequest {
        state_stream: again.state_stream.clone(),
        state_sequence: again.state_sequence,
        ..report(1, 3)
    };
    let after = wait_for("the report to be stored", async || match ask(&press, &told).await {
        Ok(answer) if answer.stored => Ok(answer),
        other => Err(other),
    })
    .await;
    assert_ne!(after.state_stream, before.state_stream);
    relayed(&world, "press", 3).await;
}

async fn ask(node: &crate::world::Node, report: &proto::ReportRequest) -> Result<proto::ReportAnswer, api::Problem> {
    let subject = Subject::Node(node.id.clone(), NodeVerb::Report);
    let answer = node.bus.request(&subject, Default::default(), report.encode_to_vec().into()).await?;
    Ok(proto::ReportAnswer::decode(answer.payload).unwrap())
}

/// Reports until the site has stored it, as after a restart of its server.
async fn reported_again(node: &crate::world::Node, sequence: u64) -> proto::ReportAnswer {
    wait_for("the report to be stored", async || match ask(node, &report(1, sequence)).await {
        Ok(answer) if answer.stored => Ok(answer),
        other => Err(other),
    })
    .await
}

#[tokio::test]
async fn a_node_that_the_hub_does_not_know_yet_holds_up_nobody_and_goes_up_once_it_is_known() {
    let mut world = World::started().await;
    world.strangers.lock().unwrap().insert("press".parse().unwrap());
    let press = world.node("press").await;
    let lathe = world.node("lathe").await;
    for sequence in 1..=3 {
        assert!(press.report(&report(1, sequence)).await.events_stored);
        assert!(lathe.report(&report(1, sequence)).await.events_stored);
    }
    relayed(&world, "lathe", 3).await;
    assert_eq!(reported(&world.collector, "press").await, None);
    // People see what waits, and why.
    world.refused("event.plant.node.press", "the hub does not know the node").await;
    world.strangers.lock().unwrap().clear();
    relayed(&world, "press", 3).await;
    wait_for("all transitions to reach the hub", async || match count(&world.collector, streams::EVENTS).await {
        6 => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn one_message_that_the_hub_refuses_for_good_holds_up_nobody_and_is_listed() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    assert!(press.report(&report(1, 1)).await.stored);
    // What no version of this LO writes.
    let broken = bus::Outgoing::new(Subject::Event(node("press")), "no report".into());
    world.at_site.publish_batch(vec![broken]).await.unwrap();
    assert!(press.report(&report(1, 2)).await.stored);
    relayed(&world, "press", 2).await;
    world.refused("event.plant.node.press", "the hub refuses it: malformed").await;
    wait_for("the site's queue to be empty", async || match count(&world.at_site, streams::EVENTS).await {
        0 => Ok(()),
        more => Err(more),
    })
    .await;
    assert_eq!(count(&world.collector, streams::EVENTS).await, 2);
}

#[tokio::test]
async fn a_node_of_which_the_hub_knows_a_later_report_begins_its_next_life() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    let later = report(1, 900).status.unwrap().encode_to_vec();
    world
        .collector
        .publish_batch(vec![bus::Outgoing::new(Subject::Status(node("press")), later.into())])
        .await
        .unwrap();
    // An older disk of the site: it takes the report, and hears of the later one from the hub.
    assert!(press.report(&report(1, 1)).await.stored);
    world.refused("state.plant.node.press.status", "a later report is stored").await;
    wait_for("the life to be over", async || {
        let refused = press.report(&report(1, 2)).await.refused;
        if refused == "the report is of incarnation 1, 2 is in force" { Ok(()) } else { Err(refused) }
    })
    .await;
    let next = press.registered(1).await;
    assert!(next >= 2);
    assert!(press.report(&report(next, 3)).await.stored);
    relayed(&world, "press", 3).await;
}
