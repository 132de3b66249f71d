//! What a runner does once, at its start: it waits until it is told to go, records itself, takes its port, and writes a
//! line for each start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
};

use anyhow::Context;
use runtime_wasm::{
    ProcessId,
    spec::{ARTIFACT, GO, LISTENING, READY, RECORD, Record, STARTS, Spec},
};
use tokio::net::TcpSocket;

/// Hundreds of starts; older lines give way.
const MAX_STARTS: u64 = 64 * 1024;

/// Reasons that the agent tells apart, each with a word for it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else has the port.
    #[error("listening on {0}: the address is in use")]
    AddressInUse(SocketAddr),
    /// The node does not have the address.
    #[error("listening on {0}: this node has no such address")]
    AddressUnknown(SocketAddr),
    /// The component is not the one that was ordered, or is no component at all.
    #[error("{0}")]
    Artifact(String),
}

impl StartError {
    /// Returns the stable word for the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AddressInUse(_) => "address-in-use",
            Self::AddressUnknown(_) => "address-unknown",
            Self::Artifact(_) => ARTIFACT,
        }
    }
}

/// The socket to the agent that a runner started with `--wait` has as its stdout.
pub struct Channel(UnixStream);

impl Channel {
    /// Takes this process's stdout for the socket.
    pub fn of_stdout() -> anyhow::Result<Self> {
        let socket = io::stdout().as_fd().try_clone_to_owned().context("taking stdout for the agent's socket")?;
        Ok(Self(socket.into()))
    }

    /// Says that this runner could answer at once, and waits. Returns whether it is to go: if not, the agent has no use
    /// for it any more or has died, which looks the same.
    pub fn wait(&mut self) -> bool {
        let mut line = String::new();
        let told = self.say(READY).and_then(|()| BufReader::new(&self.0).read_line(&mut line));
        told.is_ok() && line.trim_end() == GO
    }

    /// Says that this runner takes requests. An agent that has died meanwhile finds it by its record.
    pub fn listening(&mut self) {
        let _nobody_listens = self.say(LISTENING);
    }

    /// The socket, for whoever wants to know whether the agent is still there.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn say(&mut self, word: &str) -> io::Result<()> {
        self.0.write_all(format!("{word}\n").as_bytes())
    }
}

/// Gives up what only one runner of a workload may have, so that the next one takes over while this one finishes the
/// requests in work. The record goes first: whoever then finds the lock held knows that it is another one's.
pub fn give_way(spec: &Spec) {
    let _gone = fs::remove_file(spec.folder.join(RECORD));
    // The lock lies on the open file behind stdin. A runner that somebody started by hand has none, which is no fault.
    if let Ok(stdin) = io::stdin().as_fd().try_clone_to_owned() {
        let _unlocked = File::from(stdin).unlock();
    }
}

/// Says which process runs the workload. The first thing a runner does when it takes over: until then, an agent
/// that finds the lock taken does not know by whom.
#[expect(
    clippy::disallowed_methods,
    reason = "the record need not outlast a power cut, which ends the process as well"
)]
pub fn record(spec: &Spec) -> anyhow::Result<()> {
    let process = ProcessId::own().context("reading /proc/self/stat")?;
    let record = serde_json::to_vec(&Record { process, digest: spec.digest }).context("encoding the record")?;
    let new = spec.folder.join(format!("{RECORD}.new"));
    let path = spec.folder.join(RECORD);
    // Not synced: after a power cut the process is gone too.
    fs::write(&new, record)
        .and_then(|()| fs::rename(&new, &path))
        .with_context(|| format!("writing {}", path.display()))
}

/// A socket with the workload's address that does not listen yet.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpSocket> {
    let socket =
        if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.context("making a socket")?;
    // Or connections of the runner before this one would hold the port for a minute.
    socket.set_reuseaddr(true).context("preparing a socket")?;
    socket.bind(address).map_err(|error| listen_error(address, error))?;
    Ok(socket)
}

/// Turns the usual reasons why a port cannot be taken into errors with a word of their own.
pub fn listen_error(address: SocketAddr, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse(address).into(),
        io::ErrorKind::AddrNotAvailable => StartError::AddressUnknown(address).into(),
        _ => anyhow::Error::new(error).context(format!("listening on {address}")),
    }
}

/// Adds the line `<pid> <kernel start time> <digest of the component>`, before the runner listens: whoever counts the lines knows
/// how often this revision of the workload was started, and by `/proc` which start still runs. A runner that is only
/// prepared writes none. Not synced: the line outlives every process, and after a power cut no start of before runs.
pub fn log_start(spec: &Spec) -> anyhow::Result<()> {
    let path = spec.folder.join(STARTS);
    append(&path, &spec.digest.to_string()).with_context(|| format!("writing {}", path.display()))
}

fn append(path: &Path, digest: &str) -> io::Result<()> {
    let ProcessId { pid, start_time } = ProcessId::own()?;
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_STARTS) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.write_all(format!("{pid} {start_time} {digest}\n").as_bytes())
}
