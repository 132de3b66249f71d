//! Clients of a workload's port that want no answer but its places.

use std::{net::Ipv4Addr, time::Duration};

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
    socket.connect(workload.listen()).await.unwrap()
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
