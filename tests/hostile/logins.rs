//! Logins in foreign hands, and answers that somebody would like to guess.

use std::collections::BTreeSet;

use bus::{Bus, Jwt, Login, User};
use end_to_end::answers;
use testkit::wait_for;

use crate::world::{Listener, ghost_login, hostile, minted, node_credentials, order, platform};

/// Waits until the server has refused this login several times, and never let it in.
async fn stays_out(login: &Login) {
    let bus = Bus::connect(login).await.unwrap();
    let mut refusals = bus.refusals();
    refusals.wait_for(|count| *count >= 3).await.unwrap();
    assert_eq!(*bus.connections().borrow(), 0, "{} was let in", login.user);
}

/// Anybody is given the JWT of any member by its public key. It is of no use without the seed, and the name in it is no choice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jwt_of_somebody_else_opens_nothing() {
    let platform = platform().await;
    let own = ghost_login(&platform).await;
    let oven = minted(&platform, &node_credentials(&platform, "oven").seed).await;
    let name = |name: &str| User::Node(format!("plant/{name}").parse().unwrap());
    // The oven's, with the thief's seed.
    stays_out(&Login { jwt: Jwt::Text(oven.clone()), user: name("oven"), ..own.clone() }).await;
    // The own one, at servers that never minted it.
    for owner in ["hub", "depot"] {
        stays_out(&platform.login(owner, own.user.clone(), own.seed.clone(), own.jwt.clone())).await;
    }
    // One that the thief has signed itself with what it has.
    let parts: Vec<_> = oven.split('.').collect();
    stays_out(&Login { jwt: Jwt::Text(format!("{}.{}.", parts[0], parts[1])), user: name("oven"), ..own.clone() })
        .await;
    // It is let in as what it is, whatever it calls itself, and is still heard as that and as nobody else.
    let mut listener = Listener::at(&platform, "plant").await;
    let bus = hostile(&Login { user: name("oven"), ..own }).await;
    let client = bus.client();
    client.publish("node.plant.oven.desired", "forged".into()).await.unwrap();
    client.publish("node.plant.ghost.alive", "own".into()).await.unwrap();
    loop {
        let heard = listener.heard().await;
        assert!(!heard.iter().any(|message| message.payload == "forged"));
        if heard.iter().any(|message| message.payload == "own") {
            break;
        }
    }
}

/// Many clients with one key that come again whenever they are cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reconnects_with_one_key_holds_up_nobody() {
    let platform = platform().await;
    let login = ghost_login(&platform).await;
    let mut storm = Vec::new();
    for _ in 0..24 {
        storm.push(Bus::connect(&login).await.unwrap());
    }
    wait_for("the server to end surplus connections", async || {
        let cut_off = storm.iter().filter(|bus| *bus.connections().borrow() > 1).count();
        if cut_off > 10 { Ok(()) } else { Err(cut_off) }
    })
    .await;
    order(&platform, "plants", "oven", "beside-a-storm").await;
    drop(storm);
    answers(platform.node_address("press"), "beside-a-storm").await;
}

/// The last token of each inbox that services and nodes name while an order is carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_inbox_can_be_guessed_from_others() {
    let platform = platform().await;
    let mut listeners = [Listener::at(&platform, "hub").await, Listener::at(&platform, "depot").await];
    order(&platform, "cranes", "crane", "to-be-overheard").await;
    let mut inboxes = BTreeSet::new();
    for listener in &mut listeners {
        let heard = listener.heard().await;
        let replies = heard.iter().filter_map(|message| message.reply.as_ref());
        inboxes.extend(replies.filter(|reply| reply.starts_with("_INBOX")).map(|reply| reply.to_string()));
    }
    let tokens: BTreeSet<_> = inboxes.iter().map(|inbox| inbox.rsplit('.').next().unwrap()).collect();
    assert!(tokens.len() > 20, "only {} inboxes were heard: {inboxes:?}", tokens.len());
    for (one, next) in tokens.iter().zip(tokens.iter().skip(1)) {
        // Of a hundred random ones of 22 characters, neighbours share two or three. One that counts shares nearly all.
        let shared = one.bytes().zip(next.bytes()).take_while(|(a, b)| a == b).count();
        assert!(one.len() >= 20 && shared < 8, "{next} follows from {one}");
    }
}
