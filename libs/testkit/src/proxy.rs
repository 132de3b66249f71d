//! A TCP line between two programs that a test can cut and stall.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What the line does with bytes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Bytes pass in both directions.
    Open,
    /// Connections stay and nothing passes, as with a dead router.
    Stalled,
    /// Connections end, and new ones end at once, as with a pulled cable.
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct State {
    line: Line,
    /// How often the line was cut. A connection from before a cut is over, also when the line is open again.
    cuts: u64,
}

/// Passes TCP connections on to another address until it is told otherwise. The line ends when this value is
/// dropped.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Opens a line to `target`, which is `host:port` or `nats://host:port`.
    pub async fn start(target: &str) -> Self {
        Self::start_with(target, None).await
    }

    /// Opens a line on which every connection ends after the target has sent so many bytes, as with a radio link that
    /// never holds for long.
    pub async fn start_cutting(target: &str, bytes: u64) -> Self {
        Self::start_with(target, Some(bytes)).await
    }

    async fn start_with(target: &str, bytes: Option<u64>) -> Self {
        let target = target.strip_prefix("nats://").unwrap_or(target).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let state = watch::Sender::new(State { line: Line::Open, cuts: 0 });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target, bytes, state.subscribe()));
        Self { address, state, _accepting: accepting }
    }

    /// Returns the address of this end of the line.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of this end of the line, `nats://host:port`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Ends all connections, and lets none through until [`Proxy::open`] is called.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { line: Line::Cut, cuts: state.cuts + 1 });
    }

    /// Holds every byte back, in both directions, until [`Proxy::open`] is called.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.line = Line::Stalled);
    }

    /// Lets bytes pass again. Connections that a cut has ended stay ended.
    pub fn open(&self) {
        self.state.send_modify(|state| state.line = Line::Open);
    }
}

async fn accept(listener: TcpListener, target: String, bytes: Option<u64>, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else {
            // Out of files: others have to end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let State { line, cuts } = *state.borrow();
        if line != Line::Cut {
            connections.spawn(connect(near, target.clone(), bytes, cuts, state.clone()));
        }
    }
}

async fn connect(near: TcpStream, target: String, bytes: Option<u64>, born: u64, state: watch::Receiver<State>) {
    // The target may be down: then the near end sees its connection end, as without a proxy.
    let Ok(far) = TcpStream::connect(&target).await else { return };
    // The line adds no delay of its own: small messages must not wait for an acknowledgement of those before them.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    // One direction that ends takes the other along: half a connection is of no use to NATS.
    tokio::select! {
        () = pass(near_reads, far_writes, u64::MAX, born, state.clone()) => {}
        () = pass(far_reads, near_writes, bytes.unwrap_or(u64::MAX), born, state) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut left: u64,
    born: u64,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let State { line, cuts } = *state.borrow_and_update();
        if cuts != born {
            return;
        }
        let read = async {
            match line {
                Line::Open => from.read(&mut buffer[..most]).await.unwrap_or(0),
                Line::Stalled => std::future::pending().await,
                Line::Cut => 0,
            }
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            read = read => {
                if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                left -= read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A server that sends back what it gets, and a line to it.
    async fn echo() -> (Proxy, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(&listener.local_addr().unwrap().to_string()).await;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut connection, _)) = listener.accept().await {
                connections.spawn(async move {
                    let (mut reads, mut writes) = connection.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        (proxy, server)
    }

    async fn passes(connection: &mut TcpStream) -> bool {
        let mut byte = [0];
        connection.write_all(b"x").await.is_ok() && connection.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_lets_none_through_until_it_is_open() {
        let (proxy, _server) = echo().await;
        let mut before = TcpStream::connect(proxy.address).await.unwrap();
        assert!(passes(&mut before).await);
        proxy.cut();
        let mut during = TcpStream::connect(proxy.address).await.unwrap();
        assert!(!passes(&mut during).await);
        proxy.open();
        assert!(!passes(&mut before).await);
        assert!(passes(&mut TcpStream::connect(proxy.address).await.unwrap()).await);
    }

    #[tokio::test]
    async fn a_line_that_cuts_passes_so_many_bytes_on_each_connection() {
        let (whole, _server) = echo().await;
        let proxy = Proxy::start_cutting(&whole.address.to_string(), 2).await;
        for _ in 0..2 {
            let mut connection = TcpStream::connect(proxy.address).await.unwrap();
            connection.write_all(b"xyz").await.unwrap();
            let mut echoed = Vec::new();
            let _ends = connection.read_to_end(&mut echoed).await;
            assert_eq!(echoed, b"xy");
        }
    }

    #[tokio::test]
    async fn a_stalled_line_holds_bytes_back_and_loses_none() {
        let (proxy, _server) = echo().await;
        let mut connection = TcpStream::connect(proxy.address).await.unwrap();
        assert!(passes(&mut connection).await);
        proxy.stall();
        connection.write_all(b"y").await.unwrap();
        let mut byte = [0];
        assert!(timeout(Duration::from_millis(50), connection.read_exact(&mut byte)).await.is_err());
        proxy.open();
        connection.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, *b"y");
    }
}
