//! The two guards between tiers, each by itself, on a real server with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bus::{Asker, Bus, Dropped, Front, Pattern, Rules, ServiceName, Shares, SiteVerb, Subject, User};
use futures::StreamExt;
use margo::ClientName;
use testkit::{NatsServer, wait_for};

fn client(name: &str) -> ClientName {
    name.parse().unwrap()
}

fn store(name: &str) -> Subject {
    Subject::Site(client(name), SiteVerb::Store)
}

async fn server() -> NatsServer {
    let sites = ["plant", "other"].map(|name| User::Site(client(name)));
    let services = [User::Front(ServiceName::AppRegistry), User::Central(ServiceName::GitObserver)];
    NatsServer::start(&[sites.as_slice(), &services].concat()).await
}

async fn publish_with_reply(bus: &Bus, subject: &Subject, reply: &str, body: &str) {
    let sent = bus.client().publish_with_reply(subject.to_string(), reply.to_owned(), body.to_owned().into()).await;
    sent.unwrap();
    bus.client().flush().await.unwrap();
}

#[tokio::test]
async fn a_request_whose_answer_would_go_to_somebody_else_is_dropped() {
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    let server = server().await;
    let login = server.login(&User::Front(ServiceName::AppRegistry));
    let count = |reason| {
        assert_eq!(reason, Dropped::Reply);
        DROPPED.fetch_add(1, Ordering::SeqCst);
    };
    let front = Front::connect(&login, count).await.unwrap();
    let mut asks = front.asks(Pattern::Sites(SiteVerb::Store), Rules::SMALL).await.unwrap();
    front.reachable().await;
    let plant = server.connect(&User::Site(client("plant"))).await;
    let forged = [
        "_INBOX_site.other.abc",
        "_INBOX_svc.git-observer.abc",
        "$JS.API.STREAM.DELETE.EVENTS",
        "git.write.fleet",
        "site.other.store",
        "call.other.press.admit",
        "desired.other.head",
    ];
    for reply in forged {
        publish_with_reply(&plant, &store("plant"), reply, "forged").await;
    }
    plant.client().publish(store("plant").to_string(), "no reply".into()).await.unwrap();
    publish_with_reply(&plant, &store("plant"), "_INBOX_site.plant.abc", "good").await;
    let ask = asks.next().await.unwrap();
    assert_eq!((&ask.payload[..], &ask.asker), (&b"good"[..], &Asker::Site(client("plant"))));
    assert_eq!(DROPPED.load(Ordering::SeqCst), forged.len() + 1);
}

/// As if the check of the reply had been forgotten: the server itself lets a front publish into inboxes of sites only.
#[tokio::test]
async fn a_front_can_publish_into_inboxes_of_the_tier_below_and_nowhere_else() {
    let server = server().await;
    let front = server.connect(&User::Front(ServiceName::AppRegistry)).await;
    let observer = server.connect(&User::Central(ServiceName::GitObserver)).await;
    let plant = server.connect(&User::Site(client("plant"))).await;
    let inbox = plant.client().new_inbox();
    let mut heard = plant.client().subscribe(inbox.clone()).await.unwrap();
    plant.client().flush().await.unwrap();
    let mut signals = observer.subscribe(Pattern::GitCommitted).await.unwrap();
    let own = observer.client().new_inbox();
    let mut answers = observer.client().subscribe(own.clone()).await.unwrap();
    observer.settled().await.unwrap();

    for subject in [Subject::GitCommittedFleet.to_string(), own.clone(), inbox] {
        front.client().publish(subject, "from the front".into()).await.unwrap();
    }
    heard.next().await.unwrap();
    // The server has handled all three by now; what it let through comes before what the observer sends to itself.
    observer.client().publish(own, "the end".into()).await.unwrap();
    assert_eq!(answers.next().await.unwrap().payload, "the end");
    assert!(futures::FutureExt::now_or_never(signals.next()).is_none());
}

#[tokio::test]
async fn an_asker_beyond_its_share_is_dropped_and_costs_nobody_else() {
    static OVER: AtomicUsize = AtomicUsize::new(0);
    static LONG: AtomicUsize = AtomicUsize::new(0);
    let server = server().await;
    let count = |reason| match reason {
        Dropped::OverShare => drop(OVER.fetch_add(1, Ordering::SeqCst)),
        Dropped::TooLong => drop(LONG.fetch_add(1, Ordering::SeqCst)),
        other => panic!("{other:?}"),
    };
    let front = Front::connect(&server.login(&User::Front(ServiceName::AppRegistry)), count).await.unwrap();
    let rules = Rules { longest: 8, shares: Shares { each: 2, bytes: 1 << 10 }, answered: true };
    let mut asks = front.asks(Pattern::Sites(SiteVerb::Store), rules).await.unwrap();
    front.reachable().await;
    let plant = server.connect(&User::Site(client("plant"))).await;
    let other = server.connect(&User::Site(client("other"))).await;
    for _ in 0..100 {
        publish_with_reply(&plant, &store("plant"), "_INBOX_site.plant.a", "loud").await;
    }
    publish_with_reply(&plant, &store("plant"), "_INBOX_site.plant.a", "far too long").await;
    wait_for("the server to pass everything on", async || {
        let (over, long) = (OVER.load(Ordering::SeqCst), LONG.load(Ordering::SeqCst));
        if (over, long) == (98, 1) { Ok(()) } else { Err((over, long)) }
    })
    .await;
    let answer = tokio::spawn(async move {
        let timeout = Duration::from_secs(30);
        let request = async_nats::Request::new().payload("quiet".into()).timeout(Some(timeout));
        other.client().send_request(store("other").to_string(), request).await
    });
    let mut taken = Vec::new();
    for _ in 0..3 {
        let ask = asks.next().await.unwrap();
        ask.answer("yes".into()).await;
        taken.push(ask.asker.to_string());
    }
    assert_eq!(taken.iter().filter(|asker| *asker == "plant").count(), 2, "{taken:?}");
    assert_eq!(answer.await.unwrap().unwrap().payload, "yes");
}
