//! A connection over TLS to a real server, and who does not get one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
};

use async_nats::{AuthError, ConnectOptions};
use bus::{Jwt, Login, ServiceName, User};
use identity::tls::Peer;
use nkeys::KeyPair;
use testkit::{Certificates, NatsServer, wait_for};

const USER: User = User::Central(ServiceName::GitWriter);

/// Connects once, with no second attempt.
async fn once(login: &Login) -> Result<(), String> {
    let Jwt::Text(jwt) = login.jwt.clone() else { panic!("the login of a test stands in no file") };
    let key = Arc::new(KeyPair::from_seed(&login.seed).unwrap());
    let sign = move |nonce: Vec<u8>| std::future::ready(key.sign(&nonce).map_err(AuthError::new));
    let mut options = ConnectOptions::with_jwt(jwt, sign);
    if let Some(tls) = &login.tls {
        options = options.require_tls(true).tls_first().tls_client_config((**tls).clone());
    }
    // What the scheme demands is left aside: only the login's own settings count here.
    options.connect(login.url.replace("tls://", "nats://")).await.map(drop).map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn a_connection_over_tls_comes_back_when_the_server_does() {
    let mut server = NatsServer::start_tls(&[USER]).await;
    let bus = server.connect(&USER).await;
    bus.settled().await.unwrap();
    server.kill().await;
    wait_for("the connection to be lost", async || if bus.is_connected() { Err("connected") } else { Ok(()) }).await;
    server.restart().await;
    bus.connected().await;
    bus.settled().await.unwrap();
}

#[tokio::test]
async fn who_believes_another_root_or_wants_another_peer_does_not_connect() {
    let server = NatsServer::start_tls(&[USER]).await;
    let login = server.login(&USER);
    once(&login).await.unwrap();
    let foreign = Login { tls: Some(Certificates::default().trust().peer(&Peer::Hub)), ..login.clone() };
    let refused = once(&foreign).await.unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let other = server.trust().peer(&Peer::Site("plant".parse().unwrap()));
    let refused = once(&Login { tls: Some(other), ..login }).await.unwrap_err();
    assert!(refused.contains("NotValidForName"), "{refused}");
}

#[tokio::test]
async fn the_server_says_nothing_in_clear() {
    let server = NatsServer::start_tls(&[USER]).await;
    let address = server.url().replace("tls://", "");
    let heard = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").unwrap();
        let mut heard = Vec::new();
        // It ends the connection, cleanly or not.
        let _ = stream.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).into_owned()
    });
    let heard = heard.await.unwrap();
    assert!(!heard.contains("INFO") && !heard.contains("PONG"), "{heard}");
}
