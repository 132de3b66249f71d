//! The permission matrix: a hostile client with the credentials of every user, at a real server with the configuration of
//! production, tries every subject with every kind of header, every subscription with and without a queue group, and, where
//! somebody answers it, every forged reply. What comes of it is judged by its effect ([`stage`]); what may come of it is written
//! by hand ([`users`]); what is tried is data made from the enums ([`attacks`]).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod attacks;
mod client;
mod limits;
mod services;
mod stage;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bus::{ServiceName, Tier, User};
use testkit::NatsServer;

use crate::{
    attacks::{Shot, Target, forged_asks, inboxes_below, own_asks, publishes, subscriptions, targets},
    stage::{Heard, Stage, Streams},
    users::{everybody, expected, expected_elsewhere, is_member, is_own_inbox, may_write},
};

/// What is wrong, in words for whoever reads a failure.
#[derive(Default)]
struct Wrong(BTreeSet<String>);

impl Wrong {
    fn note(&mut self, user: &User, attack: &str, subject: &str, found: &str) {
        self.0.insert(format!("{user}: {attack}: {subject}: {found}"));
    }

    fn streams(&mut self, user: &User, attack: &str, before: &Streams, after: &Streams) {
        let names: BTreeSet<_> = before.keys().chain(after.keys()).filter(|name| !may_write(user, name)).collect();
        for name in names {
            if before.get(name) != after.get(name) {
                let found = format!("the stream was {:?} and is {:?}", before.get(name), after.get(name));
                self.note(user, attack, name, &found);
            }
        }
    }

    fn check(self) {
        let lines: Vec<_> = self.0.into_iter().collect();
        assert!(lines.is_empty(), "{} cells are wrong:\n{}", lines.len(), lines[..lines.len().min(300)].join("\n"));
    }
}

/// What the user may publish, by what was written by hand; `None` for the server's own interfaces.
fn may_publish(user: &User, subject: &str) -> bool {
    match subject.parse() {
        Ok(subject) => expected(user, &subject).publish,
        Err(_) => expected_elsewhere(user, subject).publish,
    }
}

fn may_hear(user: &User, subject: &str) -> bool {
    match subject.parse() {
        Ok(subject) => expected(user, &subject).subscribe,
        Err(_) => expected_elsewhere(user, subject).subscribe,
    }
}

/// Judges what was heard of messages that a user published itself: exactly those that it may publish.
fn judge_publishes(user: &User, shots: &[Shot], targets: &[Target], heard: &[Heard], wrong: &mut Wrong) {
    let may: BTreeMap<_, _> = targets.iter().map(|target| (target.subject.as_str(), target.may.publish)).collect();
    let arrived: HashSet<_> = heard.iter().filter_map(|heard| heard.shot).collect();
    for (number, shot) in shots.iter().enumerate() {
        let (expected, found) = (may[shot.subject.as_str()], arrived.contains(&number));
        // The server refuses also what may be published when its trace shall go where the user may not publish.
        let travels = !shot.headers.iter().any(|(name, _)| *name == "Nats-Trace-Dest");
        if found != expected && (travels || found) {
            wrong.note(user, &shot.name, &shot.subject, if found { "was published" } else { "was refused" });
        }
    }
    for heard in heard.iter().filter(|heard| heard.shot.is_none() && !may_publish(user, &heard.subject)) {
        wrong.note(user, "a message with one of the headers", &heard.subject, "the server published there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_publishes_where_it_may_not_whatever_headers_it_sends() {
    let mut wrong = Wrong::default();
    let mut cells = 0;
    for tier in [Tier::Hub, Tier::Site] {
        let mut stage = Stage::set(tier).await;
        for user in everybody(tier) {
            let client = stage.hostile(&user).await;
            let targets = targets(tier, &user);
            let shots = publishes(&targets);
            let before = stage.streams().await;
            let heard = stage.fire(&user, &client, &shots).await;
            cells += shots.len();
            judge_publishes(&user, &shots, &targets, &heard, &mut wrong);
            wrong.streams(&user, "messages", &before, &stage.streams().await);
        }
    }
    wrong.check();
    assert!(cells > 40_000, "only {cells} cells");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hears_what_is_not_for_it_by_wildcards_queue_groups_or_foreign_inboxes() {
    let mut wrong = Wrong::default();
    let mut cells = 0;
    for tier in [Tier::Hub, Tier::Site] {
        let mut stage = Stage::set(tier).await;
        for user in everybody(tier) {
            let client = stage.hostile(&user).await;
            let targets = targets(tier, &user);
            let patterns = subscriptions(tier, &targets);
            // The server would act upon what is sent to its own interfaces.
            let sent = targets.iter().map(|target| target.subject.clone());
            let sent: Vec<_> = sent.filter(|it| !it.starts_with("$JS.") && !it.starts_with("$SYS.")).collect();
            for group in [None, Some("workers")] {
                let heard = stage.subscribe(&user, &client, &patterns, group, &sent).await;
                cells += heard.len();
                let attack = if group.is_some() { "a subscription in a queue group" } else { "a subscription" };
                for (pattern, subjects) in &heard {
                    for subject in subjects.iter().filter(|subject| !may_hear(&user, subject)) {
                        wrong.note(&user, &format!("{attack} of {pattern}"), subject, "was heard");
                    }
                }
                for target in &targets {
                    // Of a group only one hears each message, and all that is tried at once is one group.
                    let is_heard = match group {
                        None => heard[&target.subject].contains(&target.subject),
                        Some(_) => heard.values().any(|subjects| subjects.contains(&target.subject)),
                    };
                    if target.may.subscribe && !is_heard && user != User::Minter {
                        wrong.note(&user, attack, &target.subject, "was not heard");
                    }
                }
            }
        }
    }
    wrong.check();
    assert!(cells > 8_000, "only {cells} cells");
}

/// Asks whose answers shall go elsewhere, of the real fronts, and then of fronts that look at nothing: each of the two
/// guards holds by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_goes_where_the_asker_may_not_publish() {
    let mut wrong = Wrong::default();
    for (tier, guarded) in [(Tier::Hub, true), (Tier::Site, true), (Tier::Hub, false), (Tier::Site, false)] {
        let mut stage = Stage::set(tier).await;
        let _answering = if guarded { stage.answer().await } else { stage.answer_blindly().await };
        for user in everybody(tier).into_iter().filter(is_member) {
            let client = stage.hostile(&user).await;
            let shots = forged_asks(&user, &targets(tier, &user));
            assert!(shots.len() > 500, "only {} forged asks", shots.len());
            // Whoever answers has told itself that it is ready.
            stage.heard_by_now().await;
            let before = stage.streams().await;
            let mut heard = stage.fire(&user, &client, &shots).await;
            // Who answers reads in order, so what it has answered now comes after all it was asked before. Heartbeats
            // are answered by nobody.
            for ask in own_asks(&user).iter().filter(|ask| !ask.ends_with(".alive")) {
                client.request(ask.clone(), "".into()).await.unwrap_or_else(|error| panic!("{ask}: {error}"));
            }
            heard.extend(stage.heard_by_now().await);
            for Heard { subject, .. } in heard.iter().filter(|heard| heard.shot.is_none()) {
                let own = is_own_inbox(&user, subject) || own_asks(&user).contains(subject);
                // By itself the server lets a front into the inboxes of the whole tier, and nowhere else.
                if !own && (guarded || !subject.starts_with(inboxes_below(tier))) {
                    wrong.note(&user, "an ask whose answer shall go elsewhere", subject, "was answered there");
                }
            }
            wrong.streams(&user, "asks", &before, &stage.streams().await);
        }
    }
    wrong.check();
}

#[tokio::test]
async fn without_credentials_nothing_is_open() {
    let server = NatsServer::start(&[User::Central(ServiceName::ApiGateway)]).await;
    let connect = async_nats::ConnectOptions::new().connect(server.url()).await;
    assert!(connect.is_err());
    let (seed, _) = identity::nats::generate();
    let connect = async_nats::ConnectOptions::with_nkey(seed).connect(server.url()).await;
    assert!(connect.is_err());
}
