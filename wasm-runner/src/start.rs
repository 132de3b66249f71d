//! What a runner does once, at its start: it waits until it is told to go, records itself, takes its port, and writes a
//! line for each start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
};

use anyhow::Context;
use runtime_wasm::{
    ProcessId, port,
    spec::{ARTIFACT, GO, LISTENING, READY, RECORD, Record, STARTS, Spec},
};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 256;
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

    /// Says that this runner could answer at once, and waits.
    pub fn wait(&mut self) -> Told {
        let told = self.say(READY, None).and_then(|()| self.hear());
        match told {
            Ok((line, port)) if line.strip_suffix(b"\n") == Some(GO.as_bytes()) => Told::Go(port),
            _ => Told::Nothing,
        }
    }

    /// Says that this runner takes requests, or that its command runs, and gives the agent the port. An agent that has died
    /// meanwhile finds the runner by its record.
    pub fn listening(&mut self, port: Option<BorrowedFd<'_>>) {
        let _nobody_listens = self.say(LISTENING, port);
    }

    /// The socket, for whoever wants to know whether the agent is still there.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn say(&self, word: &str, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
        port::send(&self.0, format!("{word}\n").as_bytes(), file)
    }

    fn hear(&self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        loop {
            match port::receive(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                heard => return heard,
            }
        }
    }
}

/// What the agent said to a runner that waits.
pub enum Told {
    /// To take over, on this port if the agent has it.
    Go(Option<OwnedFd>),
    /// Nothing: the agent has no use for the runner any more or has died, which looks the same.
    Nothing,
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

/// The port of the workload, before this runner accepts at it.
pub enum Port {
    /// One that listens already: those who connected while nobody accepted wait in it.
    Handed(OwnedFd),
    /// A socket with the workload's address that does not listen yet.
    Bound(TcpSocket),
}

impl Port {
    /// Takes the socket that was handed over or, when none was, makes one. Fails when somebody else has the address.
    pub fn take(address: SocketAddr, handed: Option<OwnedFd>) -> anyhow::Result<Self> {
        if let Some(handed) = handed.filter(|handed| port::listens_on(handed, address)) {
            return Ok(Self::Handed(handed));
        }
        let socket =
            if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.context("making a socket")?;
        // Or connections of the runner before this one would hold the port for a minute.
        socket.set_reuseaddr(true).context("preparing a socket")?;
        socket.bind(address).map_err(|error| listen_error(address, error))?;
        Ok(Self::Bound(socket))
    }

    /// Takes requests from now on; they wait until somebody accepts them.
    pub fn listen(self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        match self {
            Self::Bound(socket) => socket.listen(BACKLOG).map_err(|error| listen_error(address, error)),
            Self::Handed(socket) => {
                let listener = std::net::TcpListener::from(socket);
                let prepared = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
                prepared.context("taking the port that was handed over")
            }
        }
    }
}

/// Turns the usual reasons why a port cannot be taken into errors with a word of their own.
fn listen_error(address: SocketAddr, error: io::Error) -> anyhow::Error {
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
