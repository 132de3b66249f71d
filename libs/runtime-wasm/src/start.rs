//! A runner on its way: started, ready beside the one that answers, told to go.
//!
//! The runner's stdin is the file of the workload's lock, its stdout one end of a socket whose other end the agent has.
//! Over it the runner says `ready` when it has loaded its component, the agent says `go`, and the runner says `listening`.
//! With the last two goes the listening socket of the workload's port (`port`).
//! Nothing is polled, and a runner that was never told to go ends when the agent's end of the socket does.

use std::{
    fs::TryLockError,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::Path,
    process::Stdio,
    sync::Arc,
};

use tokio::{
    io::Interest,
    net::UnixStream,
    process::{Child, Command},
};

use crate::{
    control::read_line,
    folder::Folder,
    port,
    spec::{GO, LISTENING, LastWords, READY},
};

/// The words of a runner on its way are short.
const MAX_WORD: usize = 64;

/// A runner that does not take requests yet. It is killed with this value.
pub struct Starting {
    folder: Folder,
    child: KilledOnDrop,
    channel: Channel,
    /// The open file that is also the runner's stdin.
    lock: std::fs::File,
}

/// `None` once the runner was told to go: then it lives on by itself.
struct KilledOnDrop(Option<Child>);

/// A runner that was told to go.
pub struct Gone {
    pub child: Child,
    /// What it says on its way.
    pub channel: Channel,
}

/// The agent's end of a runner's stdout.
pub struct Channel(UnixStream);

/// Why a runner did not get ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runner ended and said why.
    #[error("{0}")]
    Ended(LastWords),
    /// The runner could not be started.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Starting {
    /// Starts a runner with this file as its specification.
    pub fn spawn(folder: &Folder, runner: &Path, spec: &Path) -> io::Result<Self> {
        let lock = folder.open_lock()?;
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = Command::new(runner)
            .arg("--wait")
            .arg("--spec")
            .arg(spec)
            // Nothing of the agent's own, such as its credentials.
            .env_clear()
            .current_dir("/")
            // Out of reach of a Ctrl-C that is meant for the agent.
            .process_group(0)
            .stdin(lock.try_clone()?)
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stderr(folder.open_next_stderr()?)
            .spawn()?;
        let channel = Channel(UnixStream::from_std(ours)?);
        Ok(Self { folder: folder.clone(), child: KilledOnDrop(Some(child)), channel, lock })
    }

    /// Returns when the runner could answer at once.
    pub async fn ready(&mut self) -> Result<(), StartError> {
        if self.channel.hears(READY).await.is_some() {
            return Ok(());
        }
        let Some(child) = &mut self.child.0 else { return Err(io::Error::other("the runner was told to go").into()) };
        let status = child.wait().await?;
        Err(StartError::Ended(self.folder.last_words_of_next(status).await?))
    }

    /// Whether the runner still waits to be told to go.
    pub fn waits(&mut self) -> bool {
        self.child.0.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Takes the lock for the runner, and has it take over, on this port if there is one. Fails when somebody else has the
    /// lock.
    pub async fn go(self, port: Option<Arc<OwnedFd>>) -> io::Result<Gone> {
        let Self { folder, mut child, channel, lock } = self;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::Error::other("another runner has the lock")),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        folder.make_way()?;
        let go = format!("{GO}\n");
        let port = port.as_ref().map(|port| port.as_fd());
        channel.0.async_io(Interest::WRITABLE, || port::send(&channel.0, go.as_bytes(), port)).await?;
        let child = child.0.take().ok_or_else(|| io::Error::other("the runner was told to go before"))?;
        // The runner has the open file of the lock; closing ours does not give it up.
        drop(lock);
        Ok(Gone { child, channel })
    }
}

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended by itself needs no killing. Either way it is reaped in the background.
            let _ended = child.start_kill();
        }
    }
}

impl Channel {
    /// Waits for the next line. Returns what came with it when it is this one; the end of the channel is not.
    async fn hears(&self, wanted: &str) -> Option<Option<OwnedFd>> {
        let (line, file) = read_line(&self.0, MAX_WORD).await.ok()?;
        (line.strip_suffix(b"\n") == Some(wanted.as_bytes())).then_some(file)
    }

    /// Returns when the runner takes requests or its command runs, with the listening socket if there is one, and closes the
    /// channel, of which no more is heard. Never returns when the runner ends before: that is seen at the process.
    pub async fn listening(self) -> Option<OwnedFd> {
        match self.hears(LISTENING).await {
            Some(port) => port,
            None => std::future::pending().await,
        }
    }
}
