//! Tokens that the platform gives to its own parts.

use async_nats::HeaderMap;
use bus::{SiteVerb, Subject};
use identity::tls::Peer;
use reqwest::StatusCode;
use serde_json::Value;

use crate::{
    site::register,
    world::{ghost_login, hostile, http, plant, platform, site_login},
};

/// Every token at every door: what is for one door opens no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_no_door_but_its_own() {
    let platform = platform().await;
    let site = hostile(&site_login(&platform)).await;
    let store = site.request(&Subject::Site(plant(), SiteVerb::Store), HeaderMap::new(), "null".into()).await.unwrap();
    let store: Value = serde_json::from_slice(&store.payload).unwrap();
    let node = hostile(&ghost_login(&platform).await).await;
    let access = register(&node).await;
    let status = |site: &str| std::fs::read_to_string(platform.site(site).join("keys/status.token")).unwrap();

    let (hub, at) = (Peer::Hub, |site: &str| Peer::Site(site.parse().unwrap()));
    let doors = [
        (format!("{}/assignments", platform.api()), &hub),
        (format!("{}/v2/", store["url"].as_str().unwrap()), &hub),
        (format!("{}/v2/", access.artifacts_url), &at("plant")),
        (format!("{}/api/v1/status", platform.site_url("plant")), &at("plant")),
        (format!("{}/api/v1/status", platform.site_url("depot")), &at("depot")),
    ];
    let tokens = [
        platform.token(),
        store["token"].as_str().unwrap().to_owned(),
        access.artifacts_token,
        status("plant"),
        status("depot"),
    ];
    // What it says of its owner is no choice of whoever holds it.
    let forged = [
        (1, tokens[1].replacen("plant", "depot", 1)),
        (2, tokens[2].replacen("ghost", "oven", 1)),
        (2, tokens[2].replacen("ghost", "press", 1)),
    ];
    for (door, text) in forged {
        assert!(!tokens.contains(&text), "{text} names no owner");
        let (url, peer) = &doors[door];
        let answer = http(&platform, peer).get(url).bearer_auth(&text).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{text} at {url}");
    }
    for (door, (url, peer)) in doors.iter().enumerate() {
        for (token, text) in tokens.iter().enumerate() {
            let answer = http(&platform, peer).get(url).bearer_auth(text.trim()).send().await.unwrap();
            let expected = if door == token { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(answer.status(), expected, "token {token} at {url}");
        }
        let answer = http(&platform, peer).get(url).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "no token at {url}");
    }
}
