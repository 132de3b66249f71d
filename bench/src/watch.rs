//! Waiting for an application's answer to the tenth of a millisecond, without loading what is measured.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use testkit::DockerEngine;
use tokio::task::JoinHandle;

/// Between two questions while the application still gives another answer and nothing tells of a new runner. Each one
/// makes a fresh instance of it: asking every 3 ms took a fifth of this machine.
const ANSWERING: Duration = Duration::from_millis(50);

/// Between two questions while nobody listens: it costs some microseconds.
const SILENT: Duration = Duration::from_micros(200);

/// Between two questions where a new runner is told of, should that have been missed.
const TOLD: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The port of the sample application.
pub const PORT: u16 = 8080;

/// Watches this address by a thread of its own. Gives the time of the first answer that holds this text. With `starts`, the
/// application is not asked before a new runner has said there that it takes requests.
pub fn first_answer(
    address: Ipv4Addr,
    wanted: &str,
    mut starts: Option<Starts>,
    patience: Duration,
) -> JoinHandle<anyhow::Result<Instant>> {
    let wanted = wanted.to_owned();
    tokio::task::spawn_blocking(move || {
        let (address, begin) = (SocketAddr::from((address, PORT)), Instant::now());
        if let Some(starts) = &mut starts {
            starts.next()?;
        }
        loop {
            let answer = ask(address);
            let now = Instant::now();
            if answer.as_ref().is_ok_and(|text| text.contains(&wanted)) {
                return Ok(now);
            }
            if now - begin > patience {
                bail!("http://{address}/ did not answer {wanted:?} within {patience:?}; last: {answer:?}");
            }
            match (&answer, &mut starts) {
                (Ok(_), Some(starts)) => starts.next()?,
                (Ok(_), None) => sleep(ANSWERING),
                (Err(_), _) => sleep(SILENT),
            }
        }
    })
}

/// The file to which every new runner of an application writes just before it takes requests.
pub struct Starts {
    path: PathBuf,
    changes: OwnedFd,
    /// The length of the file when it was looked at last.
    length: u64,
}

impl Starts {
    /// Tells of every runner that starts from now on.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        let changes = inotify::init(inotify::CreateFlags::CLOEXEC).context("watching files")?;
        let watched = inotify::add_watch(&changes, path, inotify::WatchFlags::MODIFY);
        watched.with_context(|| format!("watching {}", path.display()))?;
        Ok(Self { path: path.to_owned(), changes, length: length(path) })
    }

    /// Returns when the file has another length than before, and after a while also if it has not. Costs nothing
    /// meanwhile.
    fn next(&mut self) -> anyhow::Result<()> {
        loop {
            let before = std::mem::replace(&mut self.length, length(&self.path));
            if self.length != before {
                return Ok(());
            }
            let told = poll(&mut [PollFd::new(&self.changes, PollFlags::IN)], Some(&TOLD)).context("watching files")?;
            if told == 0 {
                return Ok(());
            }
            // What is written there tells no more than that something was.
            rustix::io::read(&self.changes, &mut [0; 4096]).context("watching files")?;
        }
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Between two questions while a container gives another answer: it is on its way to the wanted one.
const STARTED: Duration = Duration::from_millis(2);

/// Watches a container's port by a thread of its own, which is in the network of the engine's host. Gives the time of the first
/// answer that holds this text. The port is asked only when the engine has said that a container was started: a question that
/// comes too early waits a second for its answer. When this returns, the engine is being listened to.
pub fn first_answer_of_container(
    engine: &DockerEngine,
    address: SocketAddr,
    wanted: &str,
    patience: Duration,
) -> anyhow::Result<JoinHandle<anyhow::Result<Instant>>> {
    let network = fs::File::open(engine.network().context("the engine runs")?).context("opening its network")?;
    let mut starts = ContainerStarts::of(&engine.socket(), patience)?;
    let wanted = wanted.to_owned();
    let watch = move || -> anyhow::Result<Instant> {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).context("entering a network")?;
        let begin = Instant::now();
        starts.next()?;
        loop {
            let answer = ask(address);
            let now = Instant::now();
            match &answer {
                Ok(text) if text.contains(&wanted) => return Ok(now),
                _ if now - begin > patience => {
                    bail!("http://{address}/ did not answer {wanted:?} within {patience:?}; last: {answer:?}");
                }
                Ok(_) => sleep(STARTED),
                Err(_) => sleep(SILENT),
            }
        }
    };
    // A thread of the pool would stay in that network.
    let thread = std::thread::Builder::new().name("watcher".to_owned()).spawn(watch).context("starting a watcher")?;
    Ok(tokio::task::spawn_blocking(move || thread.join().map_err(|_| anyhow!("a watcher died"))?))
}

/// What the engine says of containers that it starts, over a connection of its own.
struct ContainerStarts(UnixStream);

impl ContainerStarts {
    /// Listens to the engine from now on.
    fn of(socket: &Path, patience: Duration) -> anyhow::Result<Self> {
        let mut stream = UnixStream::connect(socket).context("connecting to Docker Engine")?;
        stream.set_read_timeout(Some(patience)).context("connecting to Docker Engine")?;
        // {"event":["start"],"type":["container"]}
        let filters = "%7B%22event%22%3A%5B%22start%22%5D%2C%22type%22%3A%5B%22container%22%5D%7D";
        let request = format!("GET /events?filters={filters} HTTP/1.1\r\nhost: docker\r\n\r\n");
        stream.write_all(request.as_bytes()).context("asking Docker Engine")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            ensure!(stream.read(&mut byte).context("listening to Docker Engine")? == 1, "Docker Engine hung up");
            head.push(byte[0]);
        }
        ensure!(head.starts_with(b"HTTP/1.1 200"), "Docker Engine: {}", String::from_utf8_lossy(&head));
        Ok(Self(stream))
    }

    /// Returns when a container has been started.
    fn next(&mut self) -> anyhow::Result<()> {
        let length = self.0.read(&mut [0; 4096]).context("waiting for a container to be started")?;
        ensure!(length > 0, "Docker Engine hung up");
        Ok(())
    }
}

/// The latest of what several watchers saw.
pub async fn last_of(watchers: Vec<JoinHandle<anyhow::Result<Instant>>>) -> anyhow::Result<Instant> {
    let mut last = None;
    for watcher in watchers {
        last = last.max(Some(watcher.await.context("a watcher died")??));
    }
    last.context("nothing was watched")
}

/// One request on a connection of its own.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1 << 16).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Waits until something listens at this address and says its first word, as a NATS server does. One that speaks TLS from the
/// first byte on says in it that what it was sent is no TLS, or ends the connection.
pub fn first_word(address: SocketAddr, patience: Duration) -> JoinHandle<anyhow::Result<Instant>> {
    tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        loop {
            let word = TcpStream::connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(ANSWER_TIME))?;
                stream.write_all(b"PING\r\n")?;
                match stream.read(&mut [0; 16]) {
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(0),
                    read => read,
                }
            });
            if word.is_ok() {
                return Ok(Instant::now());
            }
            if begin.elapsed() > patience {
                bail!("nothing answers at {address} within {patience:?}; last: {word:?}");
            }
            sleep(SILENT);
        }
    })
}
