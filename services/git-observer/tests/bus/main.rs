//! git-observer as a whole: commits in real repositories become messages on a real NATS server, with the users and
//! permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod asks;
mod world;

use bus::{Outgoing, ServiceName, Subject, proto, streams};
use git_state::layout;
use identity::trust::{self, HEAD_NAMESPACE};
use margo::{KeySet, TenantName};
use testkit::wait_for;

use crate::world::{ID, Lo, TRACEPARENT, World, node, plant, port};

#[tokio::test]
async fn a_commit_is_published_whole_with_the_head_last() {
    let world = World::new().await;
    world.put(&[("press", "id: a"), ("saw", "id: b")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    assert_eq!(lo.pull(3).await, ["desired.plant.node.press", "desired.plant.node.saw", "desired.plant.head"]);

    let head = lo.head().await.unwrap();
    let root = world.root.public();
    let keys = trust::verify_keys(&root, &TenantName::default(), 2, &head.keys, &head.keys_signature).unwrap();
    trust::verify_head(&keys, &plant(), &head.head, &head.head_signature).unwrap();
    assert_eq!(head.commit, world.repository.tip().unwrap().unwrap().to_string());

    // The trace of the commit goes on, and not from the commit's own span.
    for subject in [Subject::DesiredHead(plant()), Subject::DesiredNode(node("press"))] {
        let carried = lo.trace(subject).await;
        assert!(carried.starts_with(&TRACEPARENT[..35]) && carried != TRACEPARENT, "{carried}");
    }

    // Only what changed travels.
    world.put(&[("saw", "id: c")]);
    world.signal().await;
    lo.wait_for_version(2).await;
    assert_eq!(lo.pull(2).await, ["desired.plant.node.saw", "desired.plant.head"]);
    assert_eq!(lo.document("saw").await.unwrap(), "id: c");
    assert_eq!(world.refusals().await, []);
    running.stop().await;
}

#[tokio::test]
async fn what_was_committed_while_it_was_away_is_published_at_start() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    world.ready().await.stop().await;
    world.put(&[("press", "id: b")]);
    world.put(&[("saw", "id: c")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(3).await;
    assert_eq!(
        (lo.document("press").await.unwrap(), lo.document("saw").await.unwrap()),
        ("id: b".into(), "id: c".into())
    );
    running.stop().await;
}

#[tokio::test]
async fn more_nodes_than_a_batch_takes_are_published_too() {
    let world = World::new().await;
    let names: Vec<_> = (0..1_100).map(|at| format!("n{at}")).collect();
    let documents: Vec<_> = names.iter().map(|name| (name.as_str(), "id: a")).collect();
    world.put(&documents);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    for name in [&names[0], &names[1_099]] {
        assert_eq!(lo.document(name).await.unwrap(), "id: a");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_tip_that_nobody_vouches_for_is_refused_and_the_last_good_state_stays() {
    let world = World::new().await;
    world.put(&[("press", "id: good")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    let good = world.git(&["rev-parse", "desired"]);
    let reset = || world.git(&["update-ref", "refs/heads/desired", &good]);

    let unsigned = world.git(&["commit-tree", "desired^{tree}", "-p", "desired", "-m", "mine"]);
    world.git(&["update-ref", "refs/heads/desired", &unsigned]);
    world.signal().await;
    world.wait_for_refusal(&lo, "is not signed", 1).await;
    reset();

    let mut wrong_document = world.files(&[("press", "id: announced")]);
    wrong_document.insert(layout::document(&"press".parse().unwrap(), &ID.parse().unwrap()), b"id: other".to_vec());
    world.commit(wrong_document);
    world.signal().await;
    world.wait_for_refusal(&lo, "the head names the list", 1).await;
    reset();

    let mut forged_head = world.files(&[("press", "id: forged")]);
    let signature = world.root.sign(HEAD_NAMESPACE, &forged_head[layout::HEAD]).unwrap();
    forged_head.insert(layout::HEAD_SIGNATURE.to_owned(), signature.into_bytes());
    world.commit(forged_head);
    world.signal().await;
    world.wait_for_refusal(&lo, "the head is not signed by a key in KEYS", 1).await;
    reset();

    let mut older_keys = world.files(&[("press", "id: older")]);
    world.put_keys(&mut older_keys, &KeySet { number: 1, ..world.keys.clone() });
    world.commit(older_keys);
    world.signal().await;
    world.wait_for_refusal(&lo, "KEYS has number 1, number 2 is held", 1).await;
    reset();

    assert_eq!(lo.document("press").await.unwrap(), "id: good");
    world.put(&[("press", "id: better")]);
    world.signal().await;
    lo.wait_for_version(2).await;
    wait_for("no refusal", async || match world.refusals().await {
        refusals if refusals.is_empty() => Ok(()),
        refusals => Err(refusals),
    })
    .await;

    // A repository that went back, and one that tells another story under the same version.
    reset();
    world.signal().await;
    world.wait_for_refusal(&lo, "the repository is at version 1, version 2 is published", 2).await;
    world.put(&[("press", "id: another story")]);
    world.signal().await;
    world.wait_for_refusal(&lo, "version 2 is published with another list", 2).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: better");
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_stream_is_made_and_filled_again() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    let owner = world.server.operator().await;
    owner.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    lo.wait_for_version(1).await;
    assert_eq!(lo.pull(2).await, ["desired.plant.node.press", "desired.plant.head"]);

    // The same when it was away, and when somebody made another one of it.
    running.stop().await;
    owner.jetstream().delete_stream(streams::DESIRED).await.unwrap();
    wait_for("the stream to be made", async || owner.jetstream().get_stream(streams::DESIRED).await.map(drop)).await;
    let other = async_nats::jetstream::stream::Config {
        name: streams::DESIRED.to_owned(),
        subjects: vec!["desired.>".to_owned()],
        // These two cannot be taken back.
        deny_delete: true,
        deny_purge: true,
        ..Default::default()
    };
    owner.jetstream().update_stream(other).await.unwrap();
    let running = world.ready().await;
    lo.wait_for_version(1).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: a");
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_as_the_repository_says_is_put_right() {
    let world = World::new().await;
    world.put(&[("press", "id: a")]);
    world.ready().await.stop().await;
    // Whoever has git-observer's credentials can write this; nobody signed it.
    let owner = world.server.connect_central(ServiceName::GitObserver).await;
    let deployment = proto::DesiredDeployment { id: ID.into(), document: "id: evil".into(), ..Default::default() };
    let evil = proto::DesiredNode { version: 99, deployments: vec![deployment], ..Default::default() };
    let head = proto::DesiredHead { head: "no head".into(), ..Default::default() };
    let messages = vec![
        Outgoing::new(Subject::DesiredNode(node("press")), bus::encode(&evil)),
        Outgoing::new(Subject::DesiredNode(node("ghost")), bus::encode(&evil)),
        Outgoing::new(Subject::DesiredNode(node("saw")), "garbage".into()),
        Outgoing::new(Subject::DesiredHead(plant()), bus::encode(&head)),
    ];
    owner.publish_batch(messages).await.unwrap();
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: a");
    let ghost: proto::DesiredNode = lo.get(Subject::DesiredNode(node("ghost"))).await.unwrap();
    assert_eq!(ghost.deployments, []);
    let saw: proto::DesiredNode = lo.get(Subject::DesiredNode(node("saw"))).await.unwrap();
    assert_eq!(saw.deployments, []);
    running.stop().await;
}

#[tokio::test]
async fn a_repository_that_cannot_be_read_holds_up_no_other_and_is_looked_at_again_without_a_signal() {
    let world = World::new().await;
    let other = world.of_port();
    world.put(&[("press", "id: a")]);
    world.put_to_port(&other, &[("crane", "id: a")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(1).await;
    lo.wait_for_version_of(port(), 1).await;

    world.put(&[("press", "id: b")]);
    let objects = world.repository.path().join("objects");
    std::fs::rename(&objects, objects.with_extension("away")).unwrap();
    world.signal().await;
    for version in 2..6 {
        world.put_to_port(&other, &[("crane", &format!("id: {version}"))]);
        world.signal_of(port()).await;
        lo.wait_for_version_of(port(), version).await;
    }
    assert_eq!(lo.version().await, Some(1));
    std::fs::rename(objects.with_extension("away"), &objects).unwrap();
    lo.wait_for_version(2).await;
    running.stop().await;
}

#[tokio::test]
async fn the_server_may_be_lost() {
    let mut world = World::new().await;
    world.put(&[("press", "id: a")]);
    let running = world.ready().await;
    world.server.kill().await;
    world.put(&[("press", "id: b")]);
    world.server.restart().await;
    let lo = Lo::connect(&world).await;
    lo.wait_for_version(2).await;
    assert_eq!(lo.document("press").await.unwrap(), "id: b");
    running.stop().await;
}
