//! Waiting for an application's answer to the tenth of a millisecond, without loading what is measured.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::task::JoinHandle;

/// Between two questions while the application still gives another answer. Each one makes a fresh instance of it: asking
/// every 3 ms took a fifth of this machine.
const ANSWERING: Duration = Duration::from_millis(50);

/// Between two questions while nobody listens, and between two looks for a new runner: either costs some microseconds.
const SILENT: Duration = Duration::from_micros(200);

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The port of the sample application.
pub const PORT: u16 = 8080;

/// Watches this address from now on, by a thread of its own. Gives the time of the first answer that holds this text.
/// `starts` is a file to which every new runner of the application writes just before it takes requests, if there is
/// one: then the application is asked at once.
pub fn first_answer(
    address: Ipv4Addr,
    wanted: &str,
    starts: Option<PathBuf>,
    patience: Duration,
) -> JoinHandle<anyhow::Result<Instant>> {
    let wanted = wanted.to_owned();
    tokio::task::spawn_blocking(move || {
        let (address, begin) = (SocketAddr::from((address, PORT)), Instant::now());
        let length = || starts.as_ref().and_then(|path| fs::metadata(path).ok()).map(|metadata| metadata.len());
        loop {
            let before = length();
            let answer = ask(address);
            let now = Instant::now();
            if answer.as_ref().is_ok_and(|text| text.contains(&wanted)) {
                return Ok(now);
            }
            if now - begin > patience {
                bail!("http://{address}/ did not answer {wanted:?} within {patience:?}; last: {answer:?}");
            }
            sleep(SILENT);
            while answer.is_ok() && now.elapsed() < ANSWERING && length() == before {
                sleep(SILENT);
            }
        }
    })
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

/// Waits until something listens at this address and says its first word, as a NATS server does.
pub fn first_word(address: SocketAddr, patience: Duration) -> JoinHandle<anyhow::Result<Instant>> {
    tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        loop {
            let word = TcpStream::connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(ANSWER_TIME))?;
                stream.read(&mut [0; 16])
            });
            if word.as_ref().is_ok_and(|bytes| *bytes > 0) {
                return Ok(Instant::now());
            }
            if begin.elapsed() > patience {
                bail!("nothing answers at {address} within {patience:?}; last: {word:?}");
            }
            sleep(SILENT);
        }
    })
}
