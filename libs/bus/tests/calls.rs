//! Calls and their answers in parts, at the hub, on a real server with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use bus::{
    Bus, CallId, CallVerb, Front, Pattern, ServiceName, Subject, User,
    calls::{self, About, Calls},
    proto::{CallPart, CallPartOutcome as Outcome},
};
use bytes::Bytes;
use futures::StreamExt;
use margo::NodeId;
use prost::Message as _;
use testkit::NatsServer;

fn site(name: &str) -> User {
    User::Site(name.parse().unwrap())
}

async fn send(bus: &Bus, name: &str, id: &CallId, number: u32, body: &'static str) -> Outcome {
    let part = CallPart { number, last: body == "end", body: body.into(), ..CallPart::default() };
    let subject = Subject::SitePart(name.parse().unwrap(), id.clone());
    calls::pass_on(bus, &subject, Bytes::from(part.encode_to_vec())).await
}

#[tokio::test]
async fn an_answer_comes_whole_and_in_order_from_the_site_that_was_called_and_from_nobody_else() {
    let gateway = ServiceName::ApiGateway;
    let server = NatsServer::start(&[User::Central(gateway), User::Front(gateway), site("plant"), site("port")]).await;
    let hub = server.connect(&User::Central(gateway)).await;
    let (plant, port) = (server.connect(&site("plant")).await, server.connect(&site("port")).await);
    let front = Front::connect(&server.login(&User::Front(gateway)), |_| {}).await.unwrap();
    let calls = Calls::new(hub);
    let taking = calls.take_parts(&front).await.unwrap();
    let taking = tokio::spawn(taking);
    front.reachable().await;
    let mut heard = plant.subscribe(Pattern::CallsOf("plant".parse().unwrap())).await.unwrap();
    // What is answered after it shows that the server knows of the subscription.
    assert_eq!(send(&plant, "plant", &CallId::random(), 0, "forged").await, Outcome::Unwanted);

    let press: NodeId = "plant/press".parse().unwrap();
    let mut answer = calls.call(&press, CallVerb::Ping, About::default()).await.unwrap();
    let id = calls::id_of(&heard.next().await.unwrap().payload).unwrap();

    // Another site, and a gap.
    assert_eq!(send(&port, "port", &id, 0, "forged").await, Outcome::Unwanted);
    assert_eq!(send(&plant, "plant", &id, 1, "early").await, Outcome::Unwanted);

    // There is room for one part. Its answer may get lost, so it may come twice.
    assert_eq!(send(&plant, "plant", &id, 0, "first").await, Outcome::Taken);
    assert_eq!(send(&plant, "plant", &id, 0, "again").await, Outcome::Taken);
    assert_eq!(send(&plant, "plant", &id, 1, "end").await, Outcome::NotNow);
    assert_eq!(answer.next().await.unwrap().body, "first");
    assert_eq!(send(&plant, "plant", &id, 1, "end").await, Outcome::Taken);
    let end = answer.next().await.unwrap();
    assert!(end.last && end.body == "end");

    // Who does not wait any more wants nothing.
    drop(answer);
    assert_eq!(send(&plant, "plant", &id, 2, "late").await, Outcome::Unwanted);

    // One node takes no more than its share of the calls.
    let mut waiting = Vec::new();
    while let Ok(answer) = calls.call(&press, CallVerb::Ping, About::default()).await {
        waiting.push(answer);
    }
    assert_eq!(waiting.len(), 4);
    assert!(calls.call(&"plant/lathe".parse().unwrap(), CallVerb::Ping, About::default()).await.is_ok());
    taking.abort();
}
