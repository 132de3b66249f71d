//! The workload's port: HTTP/1.1, bounded in every direction.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::pin,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime_wasm::spec::{GRACE, Spec};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::guest::{Counters, Guest, HandleError};

/// Connections, idle ones included; more wait until one closes. Each holds a few KiB.
const MAX_CONNECTIONS: usize = 256;
/// The most of them that one address may have: whoever takes all it can leaves half to the others.
const MAX_OF_A_CLIENT: usize = MAX_CONNECTIONS / 2;
/// A client that sends its headers so slowly does not want an answer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// One that reads nothing for so long does not want it either.
const STALLED: Duration = Duration::from_secs(15);
/// A runner that gives way waits so long for the request of who has just connected: to close the connection would be to refuse
/// it. Who sends nothing for so long holds it open for later.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// The most bytes that are kept of what a client has sent and nobody has taken yet, such as headers without an end.
const MAX_KEPT: usize = 32 << 10;

/// The workload's port and the component behind it.
pub struct Server {
    listener: Arc<TcpListener>,
    guest: Arc<Guest>,
    requests: Arc<Semaphore>,
    connections: TaskTracker,
}

impl Server {
    /// Requests wait until [`Server::run`] answers them.
    pub fn new(listener: TcpListener, guest: Arc<Guest>, spec: &Spec) -> Self {
        let requests = Arc::new(Semaphore::new(spec.max_requests));
        Self { listener: Arc::new(listener), guest, requests, connections: TaskTracker::new() }
    }

    /// Returns the address on which the workload answers.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener.local_addr().context("asking for the address of the port")
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.guest.counters().clone()
    }

    /// The listening socket, as long as this runner accepts at it.
    pub fn port(&self) -> &Arc<TcpListener> {
        &self.listener
    }

    /// Answers until `stop`; then accepts no more, calls `give_way`, and finishes the requests in work, within the grace
    /// period. The port closes with that, unless the agent has it too.
    pub async fn run(self, stop: &CancellationToken, give_way: impl FnOnce()) -> anyhow::Result<()> {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut seats = Seats::default();
        loop {
            let next = async {
                let connection = connections.clone().acquire_owned().await.context("counting connections")?;
                anyhow::Ok((connection, self.listener.accept().await))
            };
            let (connection, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = next => next?,
            };
            let Ok((stream, client)) = accepted else {
                // The client left, or this process has no descriptor to spare until a connection closes.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            // One that has too many is cut off.
            if let Some(seat) = seats.take(client.ip()) {
                self.serve(stream, (connection, seat), stop);
            }
        }
        // Whoever has connected by now is answered by this runner: if nobody else has the port, to close it would cut them off.
        while let Ok(connection) = connections.clone().try_acquire_owned()
            && let Some(Ok((stream, client))) = self.listener.accept().now_or_never()
        {
            if let Some(seat) = seats.take(client.ip()) {
                self.serve(stream, (connection, seat), stop);
            }
        }
        drop(self.listener);
        give_way();
        let finished = async {
            self.connections.close();
            self.connections.wait().await;
            self.guest.idle().await;
        };
        // What is not finished by then is cut.
        let _in_time = timeout(GRACE, finished).await;
        Ok(())
    }

    fn serve(&self, stream: TcpStream, place: (OwnedSemaphorePermit, Seat), stop: &CancellationToken) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(STALLED));
        let (guest, requests) = (self.guest.clone(), self.requests.clone());
        let (stop, asked) = (stop.clone(), CancellationToken::new());
        let first_request = asked.clone();
        let service = service_fn(move |request| {
            asked.cancel();
            let (guest, requests) = (guest.clone(), requests.clone());
            async move { Ok::<_, Infallible>(answer(&guest, requests, request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_KEPT)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        self.connections.spawn(async move {
            let _place = place;
            let mut served = pin!(served);
            let last = async {
                stop.cancelled().await;
                // hyper closes a connection on which nothing has come yet.
                let _nothing_comes = timeout(FIRST_REQUEST, first_request.cancelled()).await;
            };
            // It fails when the client leaves or sends what is no HTTP: nobody is left to tell.
            tokio::select! {
                _ = served.as_mut() => return,
                () = last => served.as_mut().graceful_shutdown(),
            }
            let _ = served.await;
        });
    }
}

/// The place of one connection among those of its client, until it is dropped.
type Seat = Arc<()>;

/// The connections that each client has now. With IPv6 everybody has a whole /64.
#[derive(Default)]
struct Seats(HashMap<IpAddr, Weak<()>>);

impl Seats {
    /// Takes a place for one more connection of this client, if it may have one.
    fn take(&mut self, address: IpAddr) -> Option<Seat> {
        let client = match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        };
        self.0.retain(|_, seats| seats.strong_count() > 0);
        let seat = self.0.get(&client).and_then(Weak::upgrade).unwrap_or_default();
        self.0.insert(client, Arc::downgrade(&seat));
        // Each connection holds one, and this is one more.
        (Arc::strong_count(&seat) <= MAX_OF_A_CLIENT).then_some(seat)
    }
}

async fn answer(
    guest: &Arc<Guest>,
    requests: Arc<Semaphore>,
    request: Request<Incoming>,
) -> Response<HyperOutgoingBody> {
    if request.uri().authority().is_none() && !request.headers().contains_key(header::HOST) {
        return refusal(StatusCode::BAD_REQUEST, "the request names no host\n");
    }
    let Ok(permit) = requests.try_acquire_owned() else {
        guest.counters().refused.fetch_add(1, Ordering::Relaxed);
        let mut busy = refusal(StatusCode::SERVICE_UNAVAILABLE, "too many requests are in work\n");
        busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return busy;
    };
    match guest.answer(request, permit).await {
        Ok(response) => response,
        Err(HandleError::Timeout(_)) => refusal(StatusCode::GATEWAY_TIMEOUT, "the application took too long\n"),
        Err(HandleError::Failed(_) | HandleError::NoAnswer | HandleError::Answered(_)) => {
            // Why stands in the workload's log: it is not the client's business.
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "the application failed\n")
        }
    }
}

fn refusal(status: StatusCode, why: &'static str) -> Response<HyperOutgoingBody> {
    let body = Full::new(Bytes::from_static(why.as_bytes())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
