//! Hub → site: what comes into force, what is refused, and the ways back from losses.

use std::fs;

use bus::{Subject, proto, streams};
use identity::trust::HEAD_NAMESPACE;
use proto::desired_part::Part;
use testkit::wait_for;

use crate::{
    fleet::Fleet,
    world::{World, last, node, plant},
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
    world.stop().await;
}

#[tokio::test]
async fn only_texts_and_documents_that_differ_are_fetched() {
    let mut world = World::started().await;
    for name in ["press", "lathe", "saw"] {
        world.order(name, Some(name)).await;
    }
    world.adopted(3).await;
    world.observer.told().asks.clear();
    world.order("saw", Some("another")).await;
    world.adopted(4).await;
    let asks = world.observer.told().asks.clone();
    let parts: Vec<_> = asks.into_iter().flat_map(|ask| ask.parts).map(|part| part.part.unwrap()).collect();
    let id = crate::fleet::deployment().to_string();
    let saw = || "saw".to_owned();
    let folder = margo::NodeFolder::of(&"saw".parse().unwrap()).to_string();
    let document = proto::DocumentName { node: saw(), deployment: id };
    assert_eq!(parts, [Part::Folder(folder), Part::Node(saw()), Part::Document(document)]);
}

#[tokio::test]
async fn the_trace_of_an_order_goes_on_at_the_site() {
    let mut world = World::started().await;
    let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    world.fleet.order("press", Some("a: 1\n"));
    world.observer.tell(&world.fleet, &world.fleet.head_parts(), sent).await;
    world.adopted(1).await;
    let message = last(&world.at_site, streams::DESIRED, &Subject::DesiredNode(node("press"))).await.unwrap();
    let found = message.headers.get("traceparent").unwrap().as_str();
    // The same trace, and a span of the site.
    assert!(found.starts_with(&sent[..36]) && found != sent, "{found}");
}

#[tokio::test]
async fn a_changed_document_is_refused_and_the_last_good_state_stays_in_force() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.fleet.order("press", Some("a: 2\n"));
    let mut evil = world.fleet.clone();
    evil.nodes.get_mut(&"press".parse().unwrap()).unwrap().deployments[0].document = "a: evil\n".into();
    world.publish(&evil, &world.fleet.head_parts()).await;
    world.refused("desired.plant.head", "version 2 is not whole").await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    assert_eq!(world.status().await.manifest_version, Some(1));
    // The next version is adopted as if nothing had been.
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

    world.fleet.order("press", Some("a: 2\n"));
    let mut forged = world.fleet.head_parts();
    forged.head_signature = world.fleet.root.sign(HEAD_NAMESPACE, &forged.head).unwrap().into();
    world.publish(&world.fleet, &forged).await;
    world.refused("desired.plant.head", "head is not signed by a key in KEYS").await;

    let other = Fleet { client: "other".parse().unwrap(), ..world.fleet.clone() };
    world.publish(&other, &other.head_parts()).await;
    world.refused("desired.plant.head", "is of default/other, not of default/plant").await;

    let lower = Fleet { keys_number: 4, version: 3, ..world.fleet.clone() };
    world.publish(&lower, &lower.head_parts()).await;
    world.refused("desired.plant.head", "KEYS has number 4, number 5 is held").await;

    let stranger = Fleet { root: Fleet::new("plant").root, version: 4, ..world.fleet.clone() };
    world.publish(&stranger, &stranger.head_parts()).await;
    world.refused("desired.plant.head", "not signed by the tenant's root key").await;

    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
    // The number outlives the process.
    world.kill().await;
    world.start().await;
    world.publish(&lower, &lower.head_parts()).await;
    world.refused("desired.plant.head", "KEYS has number 4, number 5 is held").await;
    world.publish(&world.fleet, &world.fleet.head_parts()).await;
    world.adopted(2).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 2\n");
}

#[tokio::test]
async fn an_older_version_and_another_list_of_the_same_version_are_refused() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    let older = world.fleet.clone();
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
    world.publish(&older, &older.head_parts()).await;
    world.refused("desired.plant.head", "version 1 is older than version 2").await;
    let mut conflict = older;
    conflict.order("press", Some("a: other\n"));
    world.publish(&conflict, &conflict.head_parts()).await;
    world.refused("desired.plant.head", "conflict: version 2 is in force with another list").await;
    assert_eq!(world.document("press").await.unwrap(), "a: 2\n");
}

#[tokio::test]
async fn a_head_that_says_nothing_harms_nothing() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    let nothing = proto::DesiredHead { head: "no head".into(), ..world.fleet.head_parts() };
    world.publish(&world.fleet, &nothing).await;
    world.refused("desired.plant.head", "head is not valid").await;
    world.order("press", Some("a: 2\n")).await;
    world.adopted(2).await;
}

#[tokio::test]
async fn a_lost_set_in_force_is_filled_again() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.order("lathe", Some("b: 1\n")).await;
    world.adopted(2).await;
    world.kill().await;
    fs::remove_file(world.data_folder().join("in-force")).unwrap();
    world.order("lathe", Some("b: 2\n")).await;
    world.start().await;
    world.adopted(3).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");
}

#[tokio::test]
async fn a_site_fetches_everything_while_orders_go_on() {
    let mut world = World::new().await;
    for number in 0..30 {
        world.fleet.order(&format!("n{number}"), Some(&format!("{number}: {}\n", "x".repeat(3_000))));
    }
    // Smaller than a document, so that each takes several answers and an order comes between any two.
    world.observer.told().page = 1_000;
    world.publish(&world.fleet, &world.fleet.head_parts()).await;
    world.start().await;
    let mut asked = 0;
    let first = wait_for("the first version to be in force while others come", async || {
        let now = world.observer.told().asks.len();
        if now > asked {
            asked = now;
            world.order("n0", Some(&format!("{now}: {}\n", "x".repeat(3_000)))).await;
        }
        world.status().await.manifest_version.ok_or(asked)
    })
    .await;
    let asks = world.observer.told().asks.clone();
    let adopted = asks.iter().filter(|ask| ask.commit == format!("commit-{first}")).count();
    assert!(adopted > 90, "{adopted} asks of the first commit, of {}", asks.len());
    world.observer.told().page = 1 << 20;
    world.observer.signal().await;
    world.adopted(world.fleet.version).await;
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.observer.told().silent = 1;
    world.order("press", Some("a: 2\n")).await;
    wait_for("the ask that gets no answer", async || match world.observer.told().silent {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
    // What is in flight when the connection is lost is not waited for.
    world.line.cut();
    world.line.open();
    world.adopted(2).await;
}

#[tokio::test]
async fn what_was_fetched_when_the_process_died_is_not_fetched_again() {
    let mut world = World::new().await;
    let large = |byte: &str| byte.repeat(3 << 20);
    for (name, byte) in [("press", "a"), ("lathe", "b"), ("saw", "c")] {
        world.fleet.order(name, Some(&large(byte)));
    }
    world.publish(&world.fleet, &world.fleet.head_parts()).await;
    world.start().await;
    let fetched = world.data_folder().join("fetched");
    wait_for("a document to be kept on the disk", async || {
        let kept =
            fs::read_dir(&fetched).unwrap().filter(|file| file.as_ref().unwrap().metadata().unwrap().len() > 1 << 20);
        let kept = kept.count();
        if kept > 0 || world.status().await.manifest_version.is_some() { Ok(()) } else { Err(kept) }
    })
    .await;
    world.kill().await;
    let whole = |world: &World| fs::read_dir(world.data_folder().join("fetched")).unwrap().count();
    let kept = whole(&world);
    world.observer.told().asks.clear();
    world.start().await;
    world.adopted(3).await;
    let asks = world.observer.told().asks.clone();
    let parts = asks.iter().flat_map(|ask| &ask.parts).filter(|part| part.offset == 0);
    let documents = parts.filter(|part| matches!(part.part, Some(Part::Document(_)))).count();
    assert!(documents <= 3 * (3 - kept.min(1)), "{documents} documents were asked for, {kept} were there");
    wait_for("the folder to be empty", async || match whole(&world) {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
}

#[tokio::test]
async fn a_site_that_lost_its_whole_disk_comes_back_by_itself() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.kill().await;
    world.lose_disk();
    world.start().await;
    world.adopted(1).await;
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
    world.site.operator().await.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    world.adopted(1).await;
    assert_eq!(world.document("press").await.unwrap(), "a: 1\n");

    world.kill().await;
    world.site.operator().await.jetstream().delete_stream(streams::DESIRED).await.unwrap();
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
async fn a_node_that_shall_run_nothing_is_told_so() {
    let mut world = World::started().await;
    world.order("press", Some("a: 1\n")).await;
    world.adopted(1).await;
    world.order("press", None).await;
    world.adopted(2).await;
    let desired = world.desired("press").await.unwrap();
    assert_eq!((desired.version, desired.deployments.len()), (2, 0));
    assert_eq!((desired.client.as_str(), desired.node.as_str()), ("plant", "press"));
}

#[tokio::test]
async fn a_node_asks_for_what_it_shall_run_and_is_told_only_what_it_does_not_have() {
    let mut world = World::started().await;
    let press = world.node("press").await;
    world.adopted(1).await;
    let mut signals = press.bus.subscribe(Subject::ChangedNode(press.id.clone())).await.unwrap();
    press.bus.client().flush().await.unwrap();
    let first = press.desired(0).await;
    assert_eq!(first.outcome(), proto::DesiredOutcome::Found);
    let first: proto::DesiredNode = bus::decode(&first.message).unwrap();
    assert_eq!((first.version, first.deployments.len()), (1, 0));
    assert_eq!(press.desired(1).await.outcome(), proto::DesiredOutcome::Held);
    world.order("press", Some("a: 1\n")).await;
    futures::StreamExt::next(&mut signals).await.unwrap();
    let next: proto::DesiredNode = bus::decode(&press.desired(1).await.message).unwrap();
    assert_eq!((next.version, next.node.as_str()), (2, "press"));
    assert_eq!(next.deployments[0].document, "a: 1\n");
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
