//! What `/readyz` answers while a service comes up, works, and is without its NATS server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::net::SocketAddr;

use bus::{ServiceName, User};
use service::{Health, health};
use testkit::{NatsServer, wait_for};
use tokio_util::sync::CancellationToken;

/// Waits until `/readyz` answers with this status, and returns the body.
async fn readyz(listen: SocketAddr, status: u16) -> String {
    wait_for(&format!("/readyz to answer {status}"), async || {
        let answer = reqwest::get(format!("http://{listen}/readyz")).await.map_err(|error| error.to_string())?;
        let (found, body) = (answer.status().as_u16(), answer.text().await.map_err(|error| error.to_string())?);
        if found == status { Ok(body) } else { Err(format!("{found} {body}")) }
    })
    .await
}

#[tokio::test]
async fn a_service_is_ready_while_it_says_so_and_has_its_connection() {
    let role = User::Central(ServiceName::GitWriter);
    let mut server = NatsServer::start(std::slice::from_ref(&role)).await;
    let bus = server.connect(&role).await;
    let (health, shutdown) = (Health::default(), CancellationToken::new());
    let listen = SocketAddr::from((server.address(), 8080));
    let readiness = health.service(ServiceName::GitWriter);
    let served = tokio::spawn(health::serve(listen, None, health.clone(), shutdown.clone()));

    assert!(readyz(listen, 503).await.contains("starting"));
    readiness.needs(&bus);
    readiness.ready();
    readyz(listen, 200).await;
    server.kill().await;
    assert!(readyz(listen, 503).await.contains("not connected"));
    server.restart().await;
    readyz(listen, 200).await;
    readiness.not_ready("a repository stands still");
    assert!(readyz(listen, 503).await.contains("a repository stands still"));

    // A service that has ended takes its connection with it.
    readiness.ready();
    readyz(listen, 200).await;
    drop(bus);
    readyz(listen, 503).await;

    let alive = reqwest::get(format!("http://{listen}/healthz")).await.unwrap();
    assert_eq!(alive.text().await.unwrap(), "ok");
    shutdown.cancel();
    served.await.unwrap().unwrap();
}
