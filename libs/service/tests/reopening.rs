//! What a service reads is opened again, on a real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::sync::atomic::{AtomicU32, Ordering};

use bus::{Bus, ServiceName, User};
use service::{Health, reopening};
use testkit::{NatsServer, wait_for};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn what_is_lost_is_opened_again_until_shutdown() {
    let role = User::Central(ServiceName::GitWriter);
    let server = NatsServer::start(std::slice::from_ref(&role)).await;
    let bus = Bus::connect(&server.login(&role)).await.unwrap();
    let (health, shutdown, lives) = (Health::default(), CancellationToken::new(), AtomicU32::new(0));
    let readiness = health.service(ServiceName::GitWriter);
    let read = || async {
        assert!(bus.is_connected(), "a life begins with a connection");
        anyhow::ensure!(lives.fetch_add(1, Ordering::SeqCst) == 2, "the stream is missing");
        readiness.ready();
        shutdown.cancelled().await;
        anyhow::Ok(())
    };
    let stopped_when_ready = async {
        wait_for("the third life", async || if health.is_ready() { Ok(()) } else { Err("not ready") }).await;
        shutdown.cancel();
    };
    tokio::join!(reopening("the stream", &bus, &readiness, &shutdown, read), stopped_when_ready);
    assert_eq!(lives.load(Ordering::SeqCst), 3);
}
