//! Peers that want to hold a listener for themselves, beside others that are served meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use identity::{
    certificates::{Issuer, keep_root},
    tls::{CertificateFiles, Peer, ServerConfig, Trust},
};
use service::http::{Limits, serve_within};
use testkit::{loopback, wait_for};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

/// Longer than what the buffers of two sockets take.
const DOCUMENT: usize = 16 << 20;

/// Limits that a test need not wait for. A stall is given the longest, because a loaded machine stalls by itself.
const LIMITS: Limits = Limits {
    connections: 24,
    connections_of_peer: 8,
    kept: 32 << 10,
    handshake: Duration::from_millis(300),
    headers: Duration::from_millis(300),
    body: Duration::from_millis(300),
    stalled: Duration::from_secs(3),
};

struct Served {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Served {
    async fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((loopback(), 0)).await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let router = Router::new()
            .route("/document", get(|| async { vec![b'x'; DOCUMENT] }))
            .route("/small", get(|| async { "small" }))
            .route("/length", post(|body: Bytes| async move { body.len().to_string() }));
        let task = tokio::spawn(serve_within(LIMITS, listener, tls, router, shutdown.clone()));
        Self { address, shutdown, task }
    }

    /// Connects from an address of the test's choice.
    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let stream = socket.connect(self.address).await.unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Whether the server has closed the connection. What it had sent before is read.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// Whether the server has given the connection up. Nothing is read from it.
fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    stream.write(b"x").is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
}

/// Waits until the server has closed the connection, which it has to do by itself.
async fn closed(what: &str, stream: &mut TcpStream) {
    wait_for(what, async || if is_closed(stream) { Ok(()) } else { Err("open") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_pipeline_and_never_read_hold_nothing_for_long_and_nobody_up() {
    let served = Served::start(None).await;
    let (thief, other) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    let request = "GET /document HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    let mut hostile = Vec::new();
    // More than there are places for everybody.
    for _ in 0..LIMITS.connections + 8 {
        let mut stream = served.connect(thief).await;
        // The server may have closed it already.
        let _ = stream.write_all(request.as_bytes());
        hostile.push(stream);
    }
    // Another peer is served while they still hold their share.
    let client = reqwest::Client::builder().local_address(Some(other.into())).no_proxy().build().unwrap();
    let url = format!("http://{}", served.address);
    let answer = client.get(format!("{url}/small")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "small");
    assert!(!is_over(&mut hostile[0]), "the first of them was given up before the other peer was served");
    // Their places come back without their doing: a connection from the same address is served again.
    let again = reqwest::Client::builder().local_address(Some(thief.into())).no_proxy().build().unwrap();
    wait_for("the peer's share to be free again", async || {
        let answer = again.get(format!("{url}/small")).send().await.map_err(|error| error.to_string())?;
        answer.text().await.map_err(|error| error.to_string())
    })
    .await;
    // Every one of them is over, though none was read from.
    for stream in &mut hostile {
        wait_for("a connection to be given up", async || if is_over(stream) { Ok(()) } else { Err("open") }).await;
    }
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_reads_slowly_gets_everything() {
    let served = Served::start(None).await;
    let mut stream = served.connect(Ipv4Addr::LOCALHOST).await;
    stream.write_all(b"GET /document HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let (mut got, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return got,
                Ok(count) => got += count,
                Err(error) => panic!("after {got} bytes: {error}"),
            }
        }
    });
    assert!(read.await.unwrap() > DOCUMENT);
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_send_is_given_up() {
    let served = Served::start(None).await;
    let here = Ipv4Addr::LOCALHOST;
    let mut silent = served.connect(here).await;
    let mut half = served.connect(here).await;
    half.write_all(b"GET /small HTT").unwrap();
    let mut bodiless = served.connect(here).await;
    bodiless.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345").unwrap();
    let mut resting = served.connect(here).await;
    resting.write_all(b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    closed("the connection without a request to end", &mut silent).await;
    closed("the connection with half a header to end", &mut half).await;
    closed("the connection with half a body to end", &mut bodiless).await;
    closed("the connection that rests after a request to end", &mut resting).await;
    served.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_handshakes_end_in_time_and_hold_nobody_up() {
    let folder = tempfile::tempdir().unwrap();
    let [root, key, leaf] = ["root.pem", "root.key", "leaf.pem"].map(|name| folder.path().join(name));
    keep_root(&root, &key).unwrap();
    Issuer::load_root(&root, &key).unwrap().keep_leaf(&leaf, &[Peer::Hub.dns_name()]).unwrap();
    let server = CertificateFiles { certificate: leaf.clone(), key: leaf }.server().unwrap();
    let served = Served::start(Some(server)).await;
    let mut mute = Vec::new();
    for _ in 0..LIMITS.connections_of_peer {
        mute.push(served.connect(Ipv4Addr::new(127, 0, 0, 1)).await);
    }
    let trust = Trust::load(&root).unwrap().peer(&Peer::Hub);
    let client = reqwest::Client::builder()
        .local_address(Some(Ipv4Addr::new(127, 0, 0, 2).into()))
        .no_proxy()
        .tls_backend_preconfigured((*trust).clone())
        .build()
        .unwrap();
    let answer = client.get(format!("https://{}/small", served.address)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "small");
    for stream in &mut mute {
        closed("a connection without a handshake to end", stream).await;
    }
    // Whoever speaks in clear is not answered.
    let mut clear = served.connect(Ipv4Addr::new(127, 0, 0, 3)).await;
    clear.write_all(b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer);
    assert!(!answer.windows(5).any(|word| word == b"small"));
    served.end().await;
}
