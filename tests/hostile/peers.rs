//! Peers of the HTTP listeners that hold no credentials at all, only connections.

use std::{
    io::{ErrorKind, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

use testkit::{loopback, wait_for};
use tokio::{io::AsyncWriteExt, net::TcpSocket};

use crate::world::{forget_memory, most_memory, order, platform};

/// Twice as many as one address may have.
const CONNECTIONS: usize = 512;

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap().into_std().unwrap()
}

/// Tells whether the server has given the connection up. Nothing is read from it.
fn is_over(stream: &mut TcpStream) -> bool {
    stream.write(b"x").is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
}

fn address(url: &str) -> SocketAddr {
    url.split_once("://").unwrap().1.split('/').next().unwrap().parse().unwrap()
}

/// Peers that ask for a public document again and again and read nothing, and peers that only hold a connection, at every
/// listener that an order needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_read_hold_up_nobody() {
    let platform = platform().await;
    let request = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
    // The sites wait for a TLS handshake, which never comes.
    let doors = [(platform.api(), &*request), (platform.site_url("plant"), ""), (platform.site_url("depot"), "")];
    let thief = loopback();
    let mut held = Vec::new();
    for (door, request) in doors {
        for _ in 0..CONNECTIONS {
            let mut stream = connect(thief, address(&door)).await;
            // The server may have closed it already, or takes no more.
            let _ = stream.write(request.as_bytes());
            held.push(stream);
        }
    }
    assert!(held.iter_mut().any(|stream| !is_over(stream)), "none of them was let in");
    order(&platform, "plants", "press", "beside-peers-that-never-read").await;
    order(&platform, "cranes", "crane", "beside-peers-that-never-read").await;
    platform.edgectl_ok(&["lo", "status", "--site", "plant"]);
    // Whatever they held comes back without their doing.
    wait_for("every one of them to be given up", async || {
        held.retain_mut(|stream| !is_over(stream));
        if held.is_empty() { Ok(()) } else { Err(held.len()) }
    })
    .await;
}

/// Peers that begin a request whose headers have no end, as many as one address may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_end_take_little_memory() {
    let mut platform = platform().await;
    let pid = platform.process("api-gateway").id();
    forget_memory(pid);
    let before = most_memory(pid);
    let (thief, door) = (loopback(), address(&platform.api()));
    let request = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(400 << 10));
    let sending = (0..CONNECTIONS / 2).map(async |_| {
        let mut stream = tokio::net::TcpStream::from_std(connect(thief, door).await).unwrap();
        // The server may have closed it already.
        let _ = stream.write_all(request.as_bytes()).await;
        stream
    });
    let held = futures::future::join_all(sending).await;
    order(&platform, "plants", "press", "beside-headers-without-end").await;
    drop(held);
    let more = most_memory(pid).saturating_sub(before) >> 20;
    println!("{more} MiB more");
    assert!(more < 64, "{more} MiB more");
}
