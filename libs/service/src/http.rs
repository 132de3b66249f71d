//! Serving HTTP with the limits that every listener has, over TLS where it has a certificate.
//!
//! A peer that does not send, or that does not read what it asked for, is given up after some seconds. No address holds
//! more than its share of the places. So a listener stays there for everybody else, whatever one peer does.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::RequestBodyTimeoutLayer;
use tracing::debug;

use crate::seats::Seats;

/// How many connections a listener serves, and how long it waits for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections are served at once. More wait in the queue of the socket.
    pub connections: usize,
    /// How many of them one peer may have. Further ones are closed at once.
    pub connections_of_peer: usize,
    /// The most bytes that are kept of what a peer has sent and nobody has taken yet, such as headers without an end.
    pub kept: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long the headers of a request may take, counted from the end of the request before. So this is also how long
    /// a connection may rest.
    pub headers: Duration,
    /// How long the next piece of a request's body may take. It is longer than what services grant for it themselves,
    /// because they say better what is wrong.
    pub body: Duration,
    /// How long a peer may read nothing of what is sent to it.
    pub stalled: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            connections_of_peer: 256,
            kept: 32 << 10,
            handshake: Duration::from_secs(10),
            headers: Duration::from_secs(15),
            body: Duration::from_secs(45),
            stalled: Duration::from_secs(15),
        }
    }
}

/// The address of whoever sent a request. Every request has it among its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// Serves HTTP/1.1 until shutdown, and then finishes the requests in work. The caller bounds how long that may
/// take. Without `tls` everything crosses the network in clear.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    serve_within(Limits::default(), listener, tls, router, shutdown).await
}

/// Does the same as [`serve`] with other limits.
pub async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(limits.connections));
    let peers = Seats::new(limits.connections_of_peer);
    let graceful = GracefulShutdown::new();
    let server = Server {
        limits,
        tls: tls.map(TlsAcceptor::from),
        router: router.layer(RequestBodyTimeoutLayer::new(limits.body)),
    };
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = places.clone().acquire_owned() => place.context("nobody closes this semaphore")?,
        };
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // The error is one of the connection, or of the process (too many files). Neither ends the listener.
                Err(error) => {
                    debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let Some(seat) = peers.take(peer_of(peer.ip())) else {
            debug!(%peer, "a connection was closed: its peer has as many as one peer may have");
            continue;
        };
        let (server, watcher) = (server.clone(), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = server.serve(stream, Peer(peer.ip()), watcher).await {
                debug!(%peer, error = &*error as &dyn std::error::Error, "a connection ended early");
            }
            drop((place, seat));
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

#[derive(Clone)]
struct Server {
    limits: Limits,
    tls: Option<TlsAcceptor>,
    router: Router,
}

impl Server {
    async fn serve(self, stream: TcpStream, peer: Peer, watcher: Watcher) -> anyhow::Result<()> {
        // An answer that is written in two pieces would otherwise wait for the peer's delayed acknowledgement.
        stream.set_nodelay(true).context("setting up the connection")?;
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.limits.stalled));
        let stream = Box::pin(stream);
        match &self.tls {
            None => self.requests(stream, peer, watcher).await,
            Some(acceptor) => {
                let handshake = tokio::time::timeout(self.limits.handshake, acceptor.accept(stream)).await;
                let stream = handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten();
                self.requests(stream.context("the TLS handshake")?, peer, watcher).await
            }
        }
    }

    async fn requests<S>(&self, stream: S, peer: Peer, watcher: Watcher) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = self.router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            request
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.headers)
            .max_buf_size(self.limits.kept)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        Ok(watcher.watch(connection).await?)
    }
}

/// Who has an address: with IPv6 everybody has a whole /64.
fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_share_and_gets_it_back() {
        let peers = Seats::new(2);
        let seat = |address: &str| peers.take(peer_of(address.parse().unwrap()));
        let held = [seat("192.0.2.1"), seat("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(seat("192.0.2.1").is_none());
        assert!(seat("192.0.2.2").is_some());
        let block = [seat("2001:db8::1"), seat("2001:db8::2:1")];
        assert!(block.iter().all(Option::is_some));
        assert!(seat("2001:db8::3").is_none());
        assert!(seat("2001:db8:0:1::3").is_some());
        drop((held, block));
        assert!(peers.is_empty());
        assert!(seat("192.0.2.1").is_some());
    }
}
