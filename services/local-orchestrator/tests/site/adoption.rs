//! Hub → site: what comes into force, what is refused, and the ways back from losses.

use std::{fs, sync::atomic::Ordering};

use bus::{Outgoing, Subject, proto, streams};
use futures::StreamExt;
use identity::trust::HEAD_NAMESPACE;
use testkit::wait_for;

use crate::{
    fleet::{Fleet, head_message},
    world::{World, last, make_consumer, make_desired, node, plant},
};

#[tokio::test]
async fn an_order_reaches_the_site_and_only_what_changed_is_written() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.order("lathe", Some("b: 1\n")).await;
    world.adopted(2).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    assert_eq!(world.document("lathe").await.unwrap(), "b: 1\n");
    assert_eq!(world.desired("press").await.unwrap().version, 1);
    assert_eq!(world.desired("lathe").await.unwrap().version, 2);
    let sequence =
        async |name| last(&world.at_site, streams::DESIRED, &Subject::DesiredNode(node(name))).await.unwrap().sequence;
    assert_eq!((sequence("press").await, sequence("lathe").await), (1, 3));
    assert_eq!(world.resyncs.load(Ordering::SeqCst), 0);
    world.stop().await;
}

#[tokio::test]
async fn the_trace_of_an_order_goes_on_at_the_site() {
    let mut world = World::started().await;
    let mut changed = world.fleet.order("press", Some("a: 1\n"));
    let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    changed.headers.insert("traceparent", sent);
    world.publish(vec![changed, world.fleet.head()]).await;
    world.adopted(1).await;
    let message = last(&world.at_site, streams::DESIRED, &Subject::DesiredNode(node("press"))).await.unwrap();
    let found = message.headers.get("traceparent").unwrap().as_str();
    // The same trace, and a span of the site.
    assert!(found.starts_with(&sent[..36]) && found != sent, "{found}");
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_the_last_good_state_stays_in_force() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    let good = world.fleet.clone();
    world.fleet.order("press", Some("a: 2\n"));
    let name = "press".parse().unwrap();
    world.fleet.nodes.get_mut(&name).unwrap().deployments[0].document = "a: evil\n".into();
    world.publish(vec![world.fleet.node("press"), world.fleet.head()]).await;
    world.refused("desired.plant.node.press", "has the digest").await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    assert_eq!(world.status().await.manifest_version, Some(1));
    // The next version is adopted as if nothing had been.
    world.fleet = Fleet { version: 2, ..good };
    world.order("press", Some("a: 3\n")).await;
    world.adopted(3).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 3\n");
}

#[tokio::test]
async fn heads_that_are_not_believed_are_refused_with_their_reason() {
    let mut world = World::started().await;
    world.fleet.keys_number = 5;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;

    let next = world.fleet.order("press", Some("a: 2\n"));
    let mut forged = world.fleet.head_parts();
    forged.head_signature = world.fleet.root.sign(HEAD_NAMESPACE, &forged.head).unwrap().into();
    world.publish(vec![next, head_message(&plant(), &forged)]).await;
    world.refused("desired.plant.head", "head is not signed by a key in KEYS").await;

    let other = Fleet { client: "other".parse().unwrap(), ..world.fleet.clone() };
    world.publish(vec![head_message(&plant(), &other.head_parts())]).await;
    world.refused("desired.plant.head", "is of default/other, not of default/plant").await;

    let lower = Fleet { keys_number: 4, ..world.fleet.clone() };
    world.publish(vec![lower.head()]).await;
    world.refused("desired.plant.head", "KEYS has number 4, number 5 is held").await;

    let stranger = Fleet { root: Fleet::new("plant").root, ..world.fleet.clone() };
    world.publish(vec![stranger.head()]).await;
    world.refused("desired.plant.head", "not signed by the tenant's root key").await;

    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    // The number outlives the process.
    world.kill().await;
    world.start().await;
    world.publish(vec![lower.head()]).await;
    world.refused("desired.plant.head", "KEYS has number 4, number 5 is held").await;
    // What belongs to the believed head has been staged all along.
    world.publish(vec![world.fleet.head()]).await;
    world.adopted(2).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 2\n");
}

#[tokio::test]
async fn an_older_version_and_another_list_of_the_same_version_are_refused() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
    let older = Fleet { version: 1, ..world.fleet.clone() };
    world.publish(vec![older.head()]).await;
    world.refused("desired.plant.head", "version 1 is older than version 2").await;
    let mut conflict = Fleet { version: 1, ..world.fleet.clone() };
    let other = conflict.order("press", Some("a: other\n"));
    world.publish(vec![other, conflict.head()]).await;
    world.refused("desired.plant.head", "conflict: version 2 is in force with another list").await;
    assert_eq!(world.document("press").await.unwrap(), "a: 2\n");
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_refused_and_harms_nothing() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    let dead_letters = world.collector.jetstream().get_stream(streams::DEAD_LETTERS).await.unwrap();
    world.publish(vec![Outgoing::new(Subject::DesiredNode(node("press")), "no message".into())]).await;
    world.publish(vec![Outgoing::new(Subject::DesiredHead(plant()), "no head".into())]).await;
    world.refused("desired.plant.node.press", "does not decode").await;
    world.refused("desired.plant.head", "does not decode").await;
    wait_for("two dead letters", async || match dead_letters.get_info().await.unwrap().state.messages {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
}

#[tokio::test]
async fn a_lost_set_in_force_is_noticed_and_filled_again() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.order("lathe", Some("b: 1\n")).await;
    world.adopted(2).await;
    world.kill().await;
    fs::remove_file(world.data_folder().join("in-force")).unwrap();
    // Only what changes is sent; the other node's message was acknowledged long ago.
    world.order("lathe", Some("b: 2\n")).await;
    world.start().await;
    world.adopted(3).await;
    assert_eq!(world.resyncs.load(Ordering::SeqCst), 1);
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
}

#[tokio::test]
async fn what_was_staged_when_the_process_died_is_not_asked_for_again() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    let changed = world.fleet.order("press", Some("a: 2\n"));
    world.publish(vec![changed]).await;
    let staged = world.data_folder().join("staging/desired.plant.node.press");
    wait_for("the message to be staged", async || if staged.exists() { Ok(()) } else { Err("nothing") }).await;
    world.kill().await;
    world.publish(vec![world.fleet.head()]).await;
    world.start().await;
    world.adopted(2).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 2\n");
    assert_eq!(world.resyncs.load(Ordering::SeqCst), 0);
    wait_for("the staging folder to be empty", async || if staged.exists() { Err("staged") } else { Ok(()) }).await;
}

#[tokio::test]
async fn a_message_that_stays_away_is_asked_for_and_nothing_is_adopted_until_it_comes() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    let changed = world.fleet.order("press", Some("a: 2\n"));
    world.publish(vec![world.fleet.head()]).await;
    wait_for("everything to be asked for", async || match world.resyncs.load(Ordering::SeqCst) {
        0 => Err(0),
        count => Ok(count),
    })
    .await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    world.publish(vec![changed]).await;
    world.adopted(2).await;
}

#[tokio::test]
async fn a_site_that_lost_its_whole_disk_comes_back_by_itself() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.kill().await;
    world.lose_disk();
    world.start().await;
    wait_for("the version to be in force again", async || match world.status().await.manifest_version {
        Some(1) => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(world.resyncs.load(Ordering::SeqCst), 1);
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
}

#[tokio::test]
async fn a_hub_that_lost_its_stream_is_followed_again() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.observer.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    make_desired(&world.observer).await;
    world.publish(vec![world.fleet.node("press"), world.fleet.head()]).await;
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
}

#[tokio::test]
async fn the_site_s_stream_is_written_again_when_it_is_lost() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    // Also without the hub: the set in force is on disk.
    world.line.cut();
    world.at_site.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    world.adopted(1).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");

    world.kill().await;
    world.at_site.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    world.start().await;
    world.adopted(1).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
}

#[tokio::test]
async fn orders_given_while_the_line_is_cut_or_stalled_arrive_afterwards() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.line.cut();
    wait_for("the site to notice", async || match world.status().await.hub_connected {
        false => Ok(()),
        true => Err("connected"),
    })
    .await;
    world.order("press", Some("a: 2\n")).await;
    world.order("press", Some("a: 3\n")).await;
    world.line.open();
    world.adopted(3).await;
    world.line.stall();
    world.order("press", Some("a: 4\n")).await;
    world.line.open();
    world.adopted(4).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 4\n");
}

#[tokio::test]
async fn messages_that_were_taken_and_never_acknowledged_are_asked_for_again() {
    let mut world = World::new().await;
    world.order("press", Some("a: 1\n")).await;
    // Somebody took them and died: the consumer holds them back until the acknowledgement is overdue.
    let site = world.hub.connect(&bus::User::Site(plant())).await;
    let inbox = site.client().new_inbox();
    let mut taken = site.client().subscribe(inbox.clone()).await.unwrap();
    let pull = "$JS.API.CONSUMER.MSG.NEXT.DESIRED.plant";
    site.client().publish_with_reply(pull, inbox, r#"{"batch":2}"#.into()).await.unwrap();
    taken.next().await.unwrap();
    taken.next().await.unwrap();
    world.start().await;
    world.adopted(1).await;
}

#[tokio::test]
async fn a_consumer_that_is_gone_is_made_again() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    let stream = world.observer.jetstream().get_stream_no_info(streams::DESIRED).await.unwrap();
    stream.delete_consumer("plant").await.unwrap();
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
    make_consumer(&world.observer).await;
    world.order("press", Some("a: 3\n")).await;
    world.adopted(3).await;
}

#[tokio::test]
async fn a_node_that_left_the_manifest_runs_nothing() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.order("press", None).await;
    world.adopted(2).await;
    assert_eq!(world.desired("press").await.unwrap(), proto::DesiredNode { version: 2, deployments: vec![] });
}

#[tokio::test]
async fn the_artifacts_in_force_are_named_and_the_store_is_asked_for_at_the_hub() {
    let mut world = World::started().await;
    let document = include_str!("../../../../libs/margo/tests/golden/deployment.yaml");
    world.order("press", Some(document)).await;
    world.order("lathe", Some(document)).await;
    world.adopted(2).await;
    let fetcher = world.site.connect(&bus::User::OciFetcher(plant())).await;
    let ask = |verb| Subject::service(bus::ServiceName::LocalOrchestrator, verb);
    let wanted: api::WantedArtifacts = fetcher.call(&ask("artifacts"), &(), None).await.unwrap();
    let names: Vec<_> = wanted.artifacts.iter().map(|wanted| (wanted.name.as_str(), wanted.digest.hex())).collect();
    assert_eq!(names, [("hello", "c7c5c1d70c5dec4416ab6158afd0b223ef40c29b1dc1f97ed9428b94d4cadb1c".to_owned())]);
    let store: api::StoreAccess = fetcher.call(&ask("store"), &(), None).await.unwrap();
    assert_eq!((store.url.as_str(), store.token.as_str()), ("http://store", "secret"));
    world.line.cut();
    let away = wait_for("the hub to be away", async || {
        match fetcher.call::<_, api::StoreAccess>(&ask("store"), &(), None).await {
            Err(problem) => Ok(problem),
            Ok(store) => Err(store),
        }
    })
    .await;
    assert!(away.retryable);
}
