//! The bus on a real server, with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::sync::Arc;

use bus::{BatchError, Caller, Outgoing, Pattern, Role, ServiceName, Subject, User, streams};
use margo::{ClientName, NodeId, TenantName};
use testkit::NatsServer;

fn node() -> NodeId {
    "plant/press".parse().unwrap()
}

fn plant() -> ClientName {
    "plant".parse().unwrap()
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let role = User::LocalOrchestrator(plant());
    let server = NatsServer::start(std::slice::from_ref(&role)).await;
    let bus = server.connect(&role).await;
    bus.jetstream().create_stream(streams::desired(Pattern::DesiredOf(plant()))).await.unwrap();
    let batch = |last: u64| {
        vec![
            Outgoing::new(Subject::DesiredNode(node()), "node".into()),
            Outgoing::new(Subject::DesiredHead(plant()), "head".into()).expect_last(last),
        ]
    };
    let head = bus.publish_batch(batch(0)).await.unwrap();
    assert_eq!(head, 2);
    assert!(matches!(bus.publish_batch(batch(0)).await, Err(BatchError::Conflict)));
    assert_eq!(bus.publish_batch(batch(head)).await.unwrap(), 4);
}

#[tokio::test]
async fn a_message_takes_no_more_of_a_stream_than_is_charged_for_it() {
    let role = User::LocalOrchestrator(plant());
    let server = NatsServer::start(std::slice::from_ref(&role)).await;
    testkit::start_traces();
    let bus = server.connect(&role).await;
    let mut stream = bus.jetstream().create_stream(streams::events_at_site(Pattern::EventsOf(plant()))).await.unwrap();
    let mut charged = 0;
    for (messages, body) in [(1, ""), (1, "body"), (100, ""), (100, "a longer body")] {
        let message = || Outgoing::new(Subject::Event(node()), body.into());
        charged += messages * message().stored_bytes();
        let traced = tracing::info_span!("report");
        let publishing = bus.publish_batch((0..messages).map(|_| message()).collect());
        tracing::Instrument::instrument(publishing, traced).await.unwrap();
    }
    let stored = stream.info().await.unwrap().state.bytes as usize;
    assert!(stored <= charged && charged <= 2 * stored, "{stored} bytes, {charged} charged");
}

#[tokio::test]
async fn a_request_is_answered_or_refused_with_its_problem() {
    let answers = User::Central(ServiceName::GitWriter);
    let server = NatsServer::start(std::slice::from_ref(&answers)).await;
    let (asks, answers) = (server.operator().await, server.connect(&answers).await);
    let mut service = answers.register(ServiceName::GitWriter, Arc::new(())).await.unwrap();
    let double = async |_: Arc<()>, call: bus::Call<u64>| match call.body {
        13 => Err(api::Problem::conflict("13 is not doubled")),
        99 => Ok((0, Some("x".repeat(9 << 20)))),
        number => Ok((number * 2, call.caller.map(|caller| caller.name.to_string()))),
    };
    service.verb("double", double).await.unwrap();
    service.reachable().await;

    let ada = Caller { tenant: TenantName::default(), name: "ada".parse().unwrap(), roles: vec![Role::Viewer] };
    let subject = Subject::service(ServiceName::GitWriter, "double");
    let answer: (u64, Option<String>) = asks.call(&subject, &21, Some(&ada)).await.unwrap();
    assert_eq!(answer, (42, Some("ada".to_owned())));
    let refusal = asks.call::<_, (u64, Option<String>)>(&subject, &13, None).await.unwrap_err();
    assert_eq!((refusal.status, refusal.detail.as_deref()), (409, Some("13 is not doubled")));
    let too_large = asks.call::<_, (u64, Option<String>)>(&subject, &99, None).await.unwrap_err();
    assert_eq!(too_large.status, 413);
    let malformed = asks.call::<_, (u64, Option<String>)>(&subject, &"x", None).await.unwrap_err();
    assert_eq!(malformed.status, 400);
    service.stop().await.unwrap();
    let gone = asks.call::<_, (u64, Option<String>)>(&subject, &21, None).await.unwrap_err();
    assert_eq!(gone.status, 503);
}
