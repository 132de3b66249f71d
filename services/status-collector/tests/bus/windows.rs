//! Windows of sites: what becomes of each message, whatever happens on the way.

use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::HeaderMap;
use async_nats::jetstream::stream::DiscardPolicy;
use bytes::Bytes;

use super::*;

/// A window of a session of its own.
pub fn window(messages: Vec<proto::WindowMessage>) -> proto::Window {
    proto::Window { protocol: PROTOCOL, session: report::new_session(), number: 1, messages, ..Default::default() }
}

fn subject(client: &str) -> Subject {
    Subject::Site(client.parse().unwrap(), SiteVerb::Report)
}

async fn ask_as(client: &str, site: &Bus, window: &proto::Window) -> Result<proto::WindowAnswer, api::Problem> {
    let answer = site.request(&subject(client), HeaderMap::new(), window.encode_to_vec().into()).await?;
    Ok(proto::WindowAnswer::decode(answer.payload).unwrap())
}

pub async fn ask(site: &Bus, window: &proto::Window) -> Result<proto::WindowAnswer, api::Problem> {
    ask_as("plant", site, window).await
}

fn of(kind: fn(NodeId) -> Subject, name: &str, message: impl Message) -> proto::WindowMessage {
    let node = format!("plant/{name}").parse().unwrap();
    report::wrap(&kind(node), message.encode_to_vec().into(), String::new()).unwrap()
}

pub fn status(name: &str, incarnation: u64, sequence: u64) -> proto::WindowMessage {
    of(Subject::Status, name, proto::NodeStatus { incarnation, sequence, ..Default::default() })
}

fn events(name: &str, number: u64) -> proto::WindowMessage {
    let transitions = vec![transition(number, HELLO)];
    of(Subject::Event, name, proto::NodeEvents { incarnation: 1, sequence: number, transitions, ..Default::default() })
}

fn outcomes(answer: &proto::WindowAnswer) -> Vec<(u32, proto::Outcome)> {
    answer.not_stored.iter().map(|it| (it.message, it.outcome())).collect()
}

async fn count(server: &NatsServer, stream: &str) -> u64 {
    let owner = server.operator().await;
    owner.jetstream().get_stream(stream).await.unwrap().cached_info().state.messages
}

async fn held(server: &NatsServer, name: &str) -> Option<report::Position> {
    let owner = server.operator().await;
    let subject = Subject::Status(format!("plant/{name}").parse().unwrap());
    let message = owner.last(streams::STATE, &subject).await.unwrap()?;
    Some(report::status(&message.payload).unwrap().position)
}

fn at(incarnation: u64, sequence: u64) -> Option<report::Position> {
    Some(report::Position { generation: 0, incarnation, sequence })
}

#[tokio::test]
async fn a_window_whose_answer_was_lost_gets_it_again_and_is_stored_once() {
    let stage = Stage::set().await;
    let window = window(vec![events("press", 1), status("press", 1, 1)]);
    let first = ask(&stage.site, &window).await.unwrap();
    assert!(first.not_stored.is_empty() && first.number == 1, "{first:?}");
    for _ in 0..3 {
        assert_eq!(ask(&stage.site, &window).await.unwrap(), first);
    }
    assert_eq!(count(&stage.server, streams::EVENTS).await, 1);
    // One from before, which the network had held back, is dropped without an answer.
    let second = proto::Window { number: 2, messages: vec![events("press", 2)], ..window.clone() };
    assert!(ask(&stage.site, &second).await.unwrap().not_stored.is_empty());
    assert_eq!(count(&stage.server, streams::EVENTS).await, 2);
    stage.service.stop().await;
}

#[tokio::test]
async fn on_a_slow_disk_a_window_that_comes_again_joins_the_one_in_work() {
    let folder = TempDir::new().unwrap();
    let server = NatsServer::start(&[collector(), front(), capabilities(), site()]).await;
    let _nodes = Nodes::start(&server).await;
    // Only what the service writes is slow; sites reach it.
    let disk = Proxy::start(&server.url()).await;
    let back = bus::Login { url: disk.url(), ..server.login(&collector()) };
    let database = Location::File(folder.path().join("status-collector.sqlite"));
    let service =
        Running::start_with_front(ServiceName::StatusCollector, back, server.login(&front()), |base, shutdown| {
            status_collector::run(Config { base, database }, shutdown)
        });
    service.ready().await;
    let site = server.connect(&site()).await;
    assert!(ask(&site, &window(vec![status("press", 1, 1)])).await.unwrap().not_stored.is_empty());

    disk.stall();
    let window = window(vec![events("press", 2), status("press", 1, 2)]);
    let body: Bytes = window.encode_to_vec().into();
    // Asked for again and again; only the last one listens.
    for _ in 0..5 {
        let lost = site.client().new_inbox();
        site.client().publish_with_reply(&subject("plant"), lost, body.clone()).await.unwrap();
    }
    site.client().flush().await.unwrap();
    let last = tokio::spawn({
        let (site, window) = (site.clone(), window.clone());
        async move { ask(&site, &window).await }
    });
    // Another site's question is answered all the while: nothing waits for the disk but what has to be written.
    disk.open();
    let answer = match last.await.unwrap() {
        Ok(answer) => answer,
        // Dropped while two were in work; whoever asks again is answered.
        Err(_) => ask(&site, &window).await.unwrap(),
    };
    assert!(answer.not_stored.is_empty(), "{answer:?}");
    assert_eq!(count(&server, streams::EVENTS).await, 1);
    service.stop().await;
}

#[tokio::test]
async fn one_message_refused_for_good_keeps_no_other_from_being_stored() {
    let stage = Stage::set().await;
    let broken = proto::WindowMessage { payload: "no report".into(), ..status("saw", 1, 1) };
    let answer = ask(&stage.site, &window(vec![status("press", 1, 1), broken, status("saw", 1, 2)])).await.unwrap();
    assert_eq!(outcomes(&answer), [(1, proto::Outcome::Never)]);
    assert!(answer.not_stored[0].reason.starts_with("malformed: "), "{answer:?}");
    assert_eq!((held(&stage.server, "press").await, held(&stage.server, "saw").await), (at(1, 1), at(1, 2)));
    stage.service.stop().await;
}

#[tokio::test]
async fn a_node_that_the_hub_does_not_know_yet_waits_and_nobody_with_it() {
    let stage = Stage::set().await;
    let messages = vec![events("new", 1), events("press", 1), status("new", 1, 1), status("press", 1, 1)];
    let answer = ask(&stage.site, &window(messages.clone())).await.unwrap();
    assert_eq!(outcomes(&answer), [(0, proto::Outcome::NotNow), (2, proto::Outcome::NotNow)]);
    assert_eq!(answer.not_stored[0].reason, "the hub does not know the node");
    assert_eq!((held(&stage.server, "press").await, held(&stage.server, "new").await), (at(1, 1), None));
    stage.nodes.known.lock().unwrap().insert("plant/new".parse().unwrap());
    wait_for("the node to be known", async || match ask(&stage.site, &window(vec![messages[2].clone()])).await {
        Ok(answer) if answer.not_stored.is_empty() => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(held(&stage.server, "new").await, at(1, 1));
    stage.service.stop().await;
}

#[tokio::test]
async fn a_site_speaks_for_its_own_nodes_whatever_it_writes() {
    let stage = Stage::set().await;
    // The client comes from the subject asked, and the server lets nobody ask on another's.
    let forged = proto::WindowMessage { node: "press.status.x".into(), ..status("press", 1, 1) };
    let answer = ask(&stage.site, &window(vec![forged])).await.unwrap();
    assert_eq!(outcomes(&answer), [(0, proto::Outcome::Never)]);
    assert_eq!(count(&stage.server, streams::STATE).await, 0);
    stage.service.stop().await;
}

#[tokio::test]
async fn an_older_position_is_never_put_over_a_newer_one() {
    let stage = Stage::set().await;
    assert!(ask(&stage.site, &window(vec![status("press", 2, 7)])).await.unwrap().not_stored.is_empty());
    for (incarnation, sequence) in [(2, 6), (1, 900)] {
        let answer = ask(&stage.site, &window(vec![status("press", incarnation, sequence)])).await.unwrap();
        assert_eq!(outcomes(&answer), [(0, proto::Outcome::Never)]);
        let held = answer.not_stored[0].held.as_ref().unwrap();
        assert_eq!((held.node.as_str(), held.incarnation, held.sequence), ("press", 2, 7));
    }
    // Also when the service knows it only from the stream.
    stage.service.stop().await;
    let service = start(&stage.server, &stage.database);
    service.ready().await;
    let answer = ask(&stage.site, &window(vec![status("press", 2, 6), status("press", 2, 7)])).await.unwrap();
    assert_eq!(outcomes(&answer), [(0, proto::Outcome::Never)]);
    assert_eq!(held(&stage.server, "press").await, at(2, 7));
    service.stop().await;
}

#[tokio::test]
async fn when_events_is_full_transitions_wait_and_statuses_go() {
    let folder = TempDir::new().unwrap();
    let mut wanted = bus::bootstrap::of_the_hub();
    let small = &mut wanted.iter_mut().find(|wanted| wanted.stream.name == streams::EVENTS).unwrap().stream;
    (small.max_bytes, small.discard) = (400, DiscardPolicy::New);
    let server = NatsServer::start_keeping(&[collector(), front(), capabilities(), site()], wanted).await;
    let _nodes = Nodes::start(&server).await;
    let database = Location::File(folder.path().join("status-collector.sqlite"));
    let service = start(&server, &database);
    service.ready().await;
    let site = server.connect(&site()).await;
    let full = wait_for("EVENTS to be full", async || {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let answer = ask(&site, &window(vec![events("press", number), status("press", 1, number)])).await.unwrap();
        if answer.not_stored.is_empty() { Err(number) } else { Ok((number, answer)) }
    })
    .await;
    let (number, answer) = full;
    assert_eq!(outcomes(&answer), [(0, proto::Outcome::NotNow)]);
    assert_eq!(answer.not_stored[0].reason, "EVENTS at the hub is full");
    assert_eq!(held(&server, "press").await, at(1, number));
    service.stop().await;
}

#[tokio::test]
async fn a_node_over_its_budget_waits_and_its_neighbours_go_on() {
    let stage = Stage::set().await;
    // Messages of failures make reports large: 8 MiB are soon there.
    let failure = proto::Failure { message: "x".repeat(4_000), ..Default::default() };
    let large = |number| {
        let transition = proto::Transition { failure: Some(failure.clone()), ..transition(number, HELLO) };
        let transitions = vec![transition; 50];
        of(
            Subject::Event,
            "press",
            proto::NodeEvents { incarnation: 1, sequence: number, transitions, ..Default::default() },
        )
    };
    let mut number = 0;
    let over = wait_for("the budget to be used up", async || {
        number += 1;
        let answer = ask(&stage.site, &window(vec![large(number), events("saw", number)])).await.unwrap();
        if answer.not_stored.is_empty() { Err(number) } else { Ok(answer) }
    })
    .await;
    assert_eq!(outcomes(&over), [(0, proto::Outcome::NotNow)]);
    assert!(over.not_stored[0].reason.starts_with("the node's share"), "{over:?}");
    stage.service.stop().await;
}

// The flood has a thread of its own, as a site has a machine of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_floods_takes_nothing_from_another() {
    let stage = Stage::set().await;
    let loud = stage.server.connect(&User::Site("loud".parse().unwrap())).await;
    let flood = tokio::spawn(async move {
        let mut number = 0;
        loop {
            number += 1;
            let messages = vec![status("press", 1, number); 100];
            let window = proto::Window { number, session: "flood".into(), ..window(messages) };
            let lost = loud.client().new_inbox();
            loud.client().publish_with_reply(&subject("loud"), lost, window.encode_to_vec().into()).await.unwrap();
        }
    });
    for sequence in 1..=50 {
        let answer = ask(&stage.site, &window(vec![events("press", sequence), status("press", 1, sequence)])).await;
        assert!(answer.unwrap().not_stored.is_empty());
    }
    flood.abort();
    assert_eq!(held(&stage.server, "press").await, at(1, 50));
    stage.service.stop().await;
}

#[tokio::test]
async fn positions_are_told_to_the_site_whose_nodes_they_are_page_by_page() {
    let stage = Stage::set().await;
    let names: Vec<_> = (0..750).map(|number| format!("n{number:03}")).collect();
    stage.nodes.known.lock().unwrap().extend(names.iter().map(|name| format!("plant/{name}").parse().unwrap()));
    let all = names.iter().map(|name| status(name, 3, 4)).collect();
    assert!(ask(&stage.site, &window(all)).await.unwrap().not_stored.is_empty());
    let question = Subject::Site(node().client, SiteVerb::Positions);
    let mut found: Vec<proto::NodePosition> = Vec::new();
    for pages in 1.. {
        let after = found.last().map(|last| last.node.clone()).unwrap_or_default();
        let asked = proto::PositionsRequest { protocol: PROTOCOL, after };
        let answer = stage.site.request(&question, HeaderMap::new(), asked.encode_to_vec().into()).await.unwrap();
        let answer = proto::PositionsAnswer::decode(answer.payload).unwrap();
        assert!(answer.refused.is_empty() && answer.positions.len() <= 500, "{answer:?}");
        found.extend(answer.positions);
        if !answer.more {
            assert_eq!(pages, 2);
            break;
        }
    }
    assert!(found.iter().map(|it| &it.node).eq(&names));
    assert!(found.iter().all(|it| (it.generation, it.incarnation, it.sequence) == (0, 3, 4)));
    stage.service.stop().await;
}

#[tokio::test]
async fn a_restored_snapshot_of_a_stream_gets_a_new_identity() {
    let mut stage = Stage::set().await;
    let first = ask(&stage.site, &window(vec![events("press", 1), status("press", 1, 1)])).await.unwrap();
    stage.history_becomes(HELLO, &[1]).await;
    let events_before = id(&stage.server, streams::EVENTS).await;
    stage.server.kill().await;
    let snapshot = stage.server.save();
    stage.server.restart().await;
    let again = wait_for("a report to be stored", async || {
        match ask(&stage.site, &window(vec![events("press", 2), status("press", 1, 2)])).await {
            Ok(answer) if answer.refused.is_empty() && answer.not_stored.is_empty() => Ok(answer),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(again.state_stream, first.state_stream);
    stage.history_becomes(HELLO, &[1, 2]).await;
    stage.server.kill().await;
    stage.server.put_back(&snapshot);
    stage.server.restart().await;
    // What the site was told is in no stream any more. It sees so by the identity, and sends its last values whole.
    let after = wait_for("the stream to have a new identity", async || match ask(&stage.site, &window(vec![])).await {
        Ok(answer) if answer.refused.is_empty() && answer.state_stream != first.state_stream => Ok(answer),
        other => Err(other),
    })
    .await;
    assert!(!after.state_stream.is_empty());
    assert_eq!(held(&stage.server, "press").await, at(1, 1));
    assert!(ask(&stage.site, &window(vec![status("press", 1, 2)])).await.unwrap().not_stored.is_empty());
    assert_eq!(held(&stage.server, "press").await, at(1, 2));
    wait_for("EVENTS to have a new identity", async || {
        let found = id(&stage.server, streams::EVENTS).await;
        if found != events_before { Ok(()) } else { Err(found) }
    })
    .await;
    stage.service.stop().await;
}

#[tokio::test]
async fn a_site_that_was_told_more_than_the_stream_holds_has_it_get_a_new_identity_once() {
    let stage = Stage::set().await;
    let first = ask(&stage.site, &window(vec![status("press", 1, 1)])).await.unwrap();
    let claim =
        |stream: &str| proto::Window { state_stream: stream.to_owned(), state_sequence: 1 << 40, ..window(vec![]) };
    let renewed = ask(&stage.site, &claim(&first.state_stream)).await.unwrap();
    assert_ne!(renewed.state_stream, first.state_stream);
    // The stream that it has now is the one that this service looked at. A site may say what it likes; no other site has to send everything for it again and again.
    let again = ask(&stage.site, &claim(&renewed.state_stream)).await.unwrap();
    assert_eq!(again.state_stream, renewed.state_stream);
    stage.service.stop().await;
}

#[tokio::test]
async fn a_lost_database_is_filled_again_from_the_streams() {
    let stage = Stage::set().await;
    stage.report(super::status(1, 1, &[(HELLO, proto::State::Installed)])).await;
    stage.transitions(1, vec![transition(1, HELLO)]).await;
    stage.states_become(&[(HELLO, State::Installed)]).await;
    stage.history_becomes(HELLO, &[1]).await;
    let Stage { server, _folder, service, site, gateway, nodes, .. } = stage;
    service.stop().await;
    let database = Location::File(_folder.as_ref().unwrap().path().join("another.sqlite"));
    let service = start(&server, &database);
    service.ready().await;
    let stage = Stage { server, _folder, database, service, site, gateway, nodes };
    stage.states_become(&[(HELLO, State::Installed)]).await;
    stage.history_becomes(HELLO, &[1]).await;
    stage.service.stop().await;
}

#[tokio::test]
async fn a_stream_whose_first_messages_are_gone_is_read_once_and_then_followed() {
    let stage = Stage::set().await;
    // Only the last value stays, and other messages than statuses lie after it.
    for sequence in 1..=5 {
        stage.report(super::status(1, sequence, &[(HELLO, proto::State::Installing)])).await;
    }
    stage.states_become(&[(HELLO, State::Installing)]).await;
    let owner = stage.server.operator().await;
    let capabilities = Outgoing::new(Subject::Capabilities(node()), Bytes::new());
    owner.publish_batch(vec![capabilities]).await.unwrap();
    let Stage { server, _folder, service, site, gateway, nodes, .. } = stage;
    service.stop().await;
    let database = Location::File(_folder.as_ref().unwrap().path().join("another.sqlite"));
    let begun = async |server: &NatsServer, database: &Location| {
        let service = start(server, database);
        service.ready().await;
        let stream = owner.jetstream().get_stream(streams::STATE).await.unwrap();
        // One that begins anew counts anew.
        let delivered = stream.consumer_info(ServiceName::StatusCollector.as_str()).await.unwrap().delivered;
        (service, delivered.consumer_sequence)
    };
    let (service, _) = begun(&server, &database).await;
    let stage = Stage { server, _folder, database, service, site, gateway, nodes };
    stage.states_become(&[(HELLO, State::Installing)]).await;
    stage.report(super::status(1, 6, &[(HELLO, proto::State::Installed)])).await;
    stage.states_become(&[(HELLO, State::Installed)]).await;
    stage.service.stop().await;
    // Nor is it read again by the next life of the service. There is one message to be read, so whoever begins anew has counted
    // one at most; a message that was not acknowledged in time is counted once more.
    let (service, delivered) = begun(&stage.server, &stage.database).await;
    assert!(delivered >= 2, "it was read again: {delivered} messages since it began");
    service.stop().await;
}

async fn id(server: &NatsServer, stream: &str) -> String {
    let owner = server.operator().await;
    streams::id(&owner.jetstream().get_stream(stream).await.unwrap().cached_info().config).to_owned()
}

#[tokio::test]
async fn what_stands_around_short_messages_counts_too() {
    let stage = Stage::set().await;
    // Hardly a byte each, and as much around them as a site may bring along.
    let event = |number| {
        let events = proto::NodeEvents { incarnation: 1, sequence: number, ..Default::default() };
        let subject = Subject::Event("plant/press".parse().unwrap());
        report::wrap(&subject, events.encode_to_vec().into(), "0".repeat(64)).unwrap()
    };
    let mut number = 0;
    let over = wait_for("the budget to be used up", async || {
        let messages = (number * 1_000 + 1..=number * 1_000 + 1_000).map(event).collect();
        number += 1;
        let answer = ask(&stage.site, &window(messages)).await.unwrap();
        assert!(answer.refused.is_empty() && number < 100, "{number} windows are stored");
        if answer.not_stored.is_empty() { Err(number) } else { Ok(answer) }
    })
    .await;
    assert!(over.not_stored[0].reason.starts_with("the node's share"), "{:?}", over.not_stored[0]);
    let owner = stage.server.connect(&collector()).await;
    let bytes = owner.jetstream().get_stream(streams::EVENTS).await.unwrap().cached_info().state.bytes;
    assert!(bytes <= 8 << 20, "{bytes}");
    stage.service.stop().await;
}

#[tokio::test]
async fn a_node_speaks_of_no_other_device() {
    let stage = Stage::set().await;
    let capabilities = |device: &str, sequence| {
        let document = format!(r#"{{"properties":{{"id":"{device}"}}}}"#).into();
        of(
            Subject::Capabilities,
            "press",
            proto::NodeCapabilities { incarnation: 1, sequence, document, generation: 0 },
        )
    };
    let messages = vec![capabilities("plant/saw", 1), capabilities("plant/press", 2), capabilities("depot/crane", 3)];
    let answer = ask(&stage.site, &window(messages)).await.unwrap();
    assert_eq!(outcomes(&answer), [(0, proto::Outcome::Never), (2, proto::Outcome::Never)]);
    assert_eq!(answer.not_stored[0].reason, "document: properties.id: must be plant/press, is plant/saw");
    assert_eq!(count(&stage.server, streams::STATE).await, 1);
    stage.service.stop().await;
}
