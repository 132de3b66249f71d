//! Clients of a workload's port that want no answer but its places.

use std::{net::Ipv4Addr, time::Duration};

use testkit::wait_for;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{alone::Workload, get, own_address};

/// As many as the port takes at once.
const CONNECTIONS: usize = 256;

async fn connect(workload: &Workload, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(workload.spec.listen).await.unwrap()
}

async fn answers(workload: &Workload) {
    wait_for("another client to be answered", async || {
        let answer = timeout(Duration::from_secs(5), get(&workload.url())).await.map_err(|error| error.to_string())?;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn clients_that_never_read_hold_the_port_for_seconds_only() {
    let hello = Workload::hello();
    let _runner = hello.start().await;
    let requests = "GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(4_000);
    let (one, two) = (own_address(), own_address());
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        let stream = connect(&hello, if number % 2 == 0 { one } else { two }).await;
        let written = stream.try_write(requests.as_bytes()).unwrap();
        assert!(written > 0);
        held.push(stream);
    }
    answers(&hello).await;
    drop(held);
}

#[tokio::test]
async fn one_client_never_has_all_places_of_the_port() {
    let hello = Workload::hello();
    let _runner = hello.start().await;
    let thief = own_address();
    let mut held = Vec::new();
    for _ in 0..2 * CONNECTIONS {
        held.push(connect(&hello, thief).await);
    }
    // At once, and not when those that hold places are given up.
    let answer = timeout(Duration::from_secs(5), get(&hello.url())).await;
    assert!(answer.is_ok_and(|answer| answer.is_ok()), "another client is not answered");
    drop(held);
}
