//! What sites are told and answered.

use std::time::Duration;

use bus::{Bus, SiteVerb, Subject, User, proto};
use futures::StreamExt;
use git_state::Manifest;
use margo::{Head, NodeFolder, NodeName};
use proto::desired_part::Part;
use testkit::wait_for;
use tokio::time::timeout;

use crate::world::{ID, Lo, TRACEPARENT, World, plant, port, site};

/// The site's connection to the hub, which asks.
async fn ask(site: &Bus, ask: proto::DesiredAsk) -> proto::DesiredAnswer {
    let subject = Subject::Site(plant(), SiteVerb::Desired);
    let answer = site.request(&subject, Default::default(), prost::Message::encode_to_vec(&ask).into()).await.unwrap();
    bus::decode_within(&answer.payload, 2 << 20).unwrap()
}

/// The newest head, as soon as the service has looked at the client.
async fn newest(site: &Bus, held: u64) -> proto::DesiredAnswer {
    wait_for("the newest head", async || {
        let answer = ask(site, proto::DesiredAsk { held, ..Default::default() }).await;
        if answer.outcome() == proto::DesiredOutcome::Found { Ok(answer) } else { Err(answer.outcome()) }
    })
    .await
}

fn contents(answer: &proto::DesiredAnswer) -> Vec<String> {
    answer.pieces.iter().map(|piece| String::from_utf8(piece.content.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_site_is_told_of_a_change_and_its_ask_is_answered_with_what_changed() {
    let world = World::new().await;
    world.put(&[("press", "id: a"), ("saw", "id: b")]);
    let running = world.ready().await;
    let site = world.server.connect(&site()).await;
    let mut signals = site.subscribe(Subject::ChangedHead(plant())).await.unwrap();
    let first = newest(&site, 0).await;
    assert_eq!(Head::parse(&first.head.unwrap().head).unwrap().version.get(), 1);

    world.put(&[("saw", "id: c")]);
    world.signal().await;
    signals.next().await.unwrap();
    let second = newest(&site, 1).await;
    let list =
        Manifest::read(&world.repository.files(world.repository.tip().unwrap().unwrap()).unwrap()).unwrap().list();
    let head = second.head.clone().unwrap();
    assert_eq!(head.list, list.top_text());
    let saw: NodeName = "saw".parse().unwrap();
    let folder = list.folder_text(NodeFolder::of(&saw)).unwrap();
    assert_eq!(contents(&second), [folder, list.get(&saw).unwrap().to_text(), "id: c".to_owned()]);
    // The trace of the commit goes on, and not from the commit's own span.
    assert!(second.traceparent.starts_with(&TRACEPARENT[..35]) && second.traceparent != TRACEPARENT);
    assert_eq!(second.node_traces["saw"], second.traceparent);
    running.stop().await;
}

#[tokio::test]
async fn parts_are_answered_from_the_commit_that_the_ask_names_while_heads_move_on() {
    let world = World::new().await;
    let large = "x".repeat(2 << 20);
    world.put(&[("press", &large), ("saw", "id: b")]);
    let running = world.ready().await;
    let site = world.server.connect(&site()).await;
    let commit = newest(&site, 0).await.head.unwrap().commit;
    let mut found = String::new();
    for number in 0.. {
        // A restart, or whatever else makes it forget, costs time and nothing else.
        world.put(&[("press", &format!("id: {number}"))]);
        world.signal().await;
        let parts = vec![document("press", found.len() as u64), document("saw", 0)];
        let answer = ask(&site, proto::DesiredAsk { commit: commit.clone(), parts, ..Default::default() }).await;
        assert_eq!(answer.outcome(), proto::DesiredOutcome::Found);
        assert_eq!(answer.pieces[0].size, large.len() as u64);
        found.push_str(&contents(&answer)[0]);
        if let Some(piece) = answer.pieces.get(1) {
            assert_eq!((&found, &piece.content[..]), (&large, &b"id: b"[..]));
            break;
        }
    }
    for (commit, part) in
        [("no commit", document("saw", 0)), (&commit, document("none", 0)), (&commit, document("saw", 9))]
    {
        let ask_for = proto::DesiredAsk { commit: commit.to_owned(), parts: vec![part], ..Default::default() };
        assert_eq!(ask(&site, ask_for).await.outcome(), proto::DesiredOutcome::Gone);
    }
    running.stop().await;
}

fn document(node: &str, offset: u64) -> proto::DesiredPart {
    let name = proto::DocumentName { node: node.into(), deployment: ID.into() };
    proto::DesiredPart { part: Some(Part::Document(name)), offset }
}

#[tokio::test]
async fn a_large_document_is_read_once_for_all_of_its_pieces() {
    let world = World::new().await;
    let large: String = (0..300_000).map(|number| format!("{number}\n")).collect();
    world.put(&[("press", &large)]);
    let running = world.ready().await;
    let site = world.server.connect(&site()).await;
    let commit = newest(&site, 0).await.head.unwrap().commit;
    let objects = world.repository.path().join("objects");
    let mut found = String::new();
    while found.len() < large.len() {
        let parts = vec![document("press", found.len() as u64)];
        let answer = ask(&site, proto::DesiredAsk { commit: commit.clone(), parts, ..Default::default() }).await;
        assert_eq!(answer.outcome(), proto::DesiredOutcome::Found);
        found.push_str(&contents(&answer)[0]);
        if objects.exists() {
            // From now on, nothing can be read.
            std::fs::rename(&objects, objects.with_extension("away")).unwrap();
        }
    }
    assert_eq!(found, large);
    let parts = vec![document("press", 0)];
    let answer = ask(&site, proto::DesiredAsk { commit, parts, ..Default::default() }).await;
    assert_eq!(answer.outcome(), proto::DesiredOutcome::NotNow, "what was fetched whole is not kept");
    running.stop().await;
}

#[tokio::test]
async fn an_ask_for_the_ends_of_many_large_documents_reads_one_of_them() {
    let world = World::new().await;
    let large = "x".repeat(1 << 20);
    let names = ["a", "b", "c", "d"];
    world.put(&names.map(|name| (name, large.as_str())));
    let running = world.ready().await;
    let site = world.server.connect(&site()).await;
    let commit = newest(&site, 0).await.head.unwrap().commit;
    let mut found = 0;
    while found < names.len() {
        let parts = names[found..].iter().map(|name| document(name, (1 << 20) - 1)).collect();
        let answer = ask(&site, proto::DesiredAsk { commit: commit.clone(), parts, ..Default::default() }).await;
        assert_eq!(contents(&answer), ["x"]);
        found += 1;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_site_that_asks_without_end_holds_up_neither_commits_nor_other_sites() {
    let world = World::new().await;
    let other = world.of_port();
    let large = "x".repeat(1 << 20);
    world.put(&[("press", &large), ("saw", &large)]);
    world.put_to_port(&other, &[("crane", "id: 1")]);
    let running = world.ready().await;
    let lo = Lo::connect(&world).await;
    let (loud, quiet) = (world.server.connect(&site()).await, world.server.connect(&User::Site(port())).await);
    let commit = newest(&loud, 0).await.head.unwrap().commit;
    let stop = tokio_util::sync::CancellationToken::new();
    let flood = tokio::spawn({
        let stop = stop.clone();
        async move {
            let parts = vec![document("press", 1), document("saw", 1)];
            let one = proto::DesiredAsk { commit, parts, ..Default::default() };
            let mut served = 0;
            while !stop.is_cancelled() {
                // Four at a time: two more than its share.
                let asks = (0..4).map(|_| timeout(Duration::from_millis(500), ask(&loud, one.clone())));
                served += futures::future::join_all(asks).await.iter().filter(|answer| answer.is_ok()).count();
            }
            served
        }
    });
    let mut signals = quiet.subscribe(Subject::ChangedHead(port())).await.unwrap();
    let subject = Subject::Site(port(), SiteVerb::Desired);
    for version in 2..12 {
        world.put_to_port(&other, &[("crane", &format!("id: {version}"))]);
        world.signal_of(port()).await;
        signals.next().await.unwrap();
        let held = prost::Message::encode_to_vec(&proto::DesiredAsk { held: version - 1, ..Default::default() });
        let answer = quiet.request(&subject, Default::default(), held.into()).await.unwrap();
        let answer: proto::DesiredAnswer = bus::decode_within(&answer.payload, 2 << 20).unwrap();
        assert_eq!(contents(&answer).last().unwrap(), &format!("id: {version}"));
        lo.wait_for_version_of(port(), version).await;
    }
    stop.cancel();
    assert!(flood.await.unwrap() > 0, "whoever asks too much is served his share");
    running.stop().await;
}
