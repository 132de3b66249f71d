//! The control socket: the agent asks how the runner is, and tells it to end.

use std::{
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use margo::Digest;
use runtime_wasm::{
    ProcessId, port, socket_path,
    spec::{Command, RunnerState, Status},
};
use rustix::net::{Shutdown, shutdown};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest},
    net::{TcpListener, UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::guest::Counters;

/// A conversation is a few short lines.
const MAX_CONVERSATION: u64 = 16 * 1024;
/// An agent asks and leaves.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the control socket shows and can do.
#[derive(Clone)]
pub struct Control {
    pub process: ProcessId,
    /// The document for which this runner was started.
    pub digest: Digest,
    /// The address on which the workload answers, if it does.
    pub listen: Option<SocketAddr>,
    /// The listening socket, as long as the runner accepts at it.
    pub port: Weak<TcpListener>,
    pub counters: Arc<Counters>,
    /// Cancelled when the runner is to end.
    pub stop: CancellationToken,
    /// Cancelled when port and lock are free for the next runner.
    pub gave_way: CancellationToken,
    /// The conversations under way, so that the answer to "stop" is sent before the process ends.
    pub conversations: TaskTracker,
}

/// The open control socket.
pub struct ControlSocket(UnixListener);

impl ControlSocket {
    /// Opens the socket in this folder, in the place of the one before.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let opening = || format!("opening the control socket in {}", folder.display());
        let (path, _folder) = socket_path(folder).with_context(opening)?;
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(opening);
        }
        let listener = UnixListener::bind(&path).with_context(opening)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(opening)?;
        Ok(Self(listener))
    }

    /// Answers whoever connects. It returns only when the socket fails.
    pub async fn answer(&self, control: &Control) -> anyhow::Result<()> {
        loop {
            let (stream, _) = self.0.accept().await.context("accepting at the control socket")?;
            control.begin(stream);
        }
    }

    /// Answers those who have connected by now; from here on nobody else can. The runner ends, so it has given way: whoever tells
    /// it to stop now is told that it did.
    pub fn answer_the_last(self, control: &Control) -> io::Result<()> {
        control.stop.cancel();
        control.gave_way.cancel();
        // Those who wait to be accepted stay in the queue, and whoever comes later is refused.
        shutdown(&self.0, Shutdown::Read)?;
        // Not by tokio, which may not have heard of the last one yet.
        let socket = self.0.into_std()?;
        while let Ok((stream, _)) = socket.accept() {
            stream.set_nonblocking(true)?;
            control.begin(UnixStream::from_std(stream)?);
        }
        Ok(())
    }
}

impl Control {
    /// Talks to whoever has connected. The conversation ends when patience does, at the latest.
    fn begin(&self, stream: UnixStream) {
        let control = self.clone();
        self.conversations.spawn(async move { timeout(PATIENCE, control.converse(stream)).await });
    }

    /// Returns when no conversation is under way any more.
    pub async fn ended(&self) {
        self.conversations.close();
        self.conversations.wait().await;
    }

    async fn converse(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut lines = BufReader::new((&mut stream).take(MAX_CONVERSATION)).lines();
        while let Some(line) = lines.next_line().await? {
            let command: Command = serde_json::from_str(&line)?;
            if command == Command::Stop {
                self.stop.cancel();
                self.gave_way.cancelled().await;
            }
            let port = self.port.upgrade().filter(|_| command == Command::Port);
            let mut status = serde_json::to_vec(&self.status())?;
            status.push(b'\n');
            let stream: &UnixStream = lines.get_ref().get_ref().get_ref();
            let send = || port::send(stream, &status, port.as_ref().map(|port| port.as_fd()));
            stream.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }

    fn status(&self) -> Status {
        let running = !self.stop.is_cancelled();
        Status {
            state: if running { RunnerState::Running } else { RunnerState::Stopping },
            process: self.process,
            digest: self.digest,
            listen: self.listen,
            requests: self.counters.requests.load(Ordering::Relaxed),
            failures: self.counters.failures.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            instantiating: Duration::from_nanos(self.counters.instantiating.load(Ordering::Relaxed)),
        }
    }
}
