//! The agent's side of a runner's control socket: one command, one answer, one connection.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};

use crate::{
    port,
    spec::{CONTROL, Command, Status},
};

/// A runner answers at once, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// Far more than a status is long.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends a command to the runner of this folder.
pub async fn ask(folder: &Path, command: Command) -> io::Result<Status> {
    converse(folder, command).await.map(|(status, _)| status)
}

/// Asks the runner of this folder for the listening socket; returns `None` when it has none.
pub async fn ask_port(folder: &Path) -> io::Result<Option<OwnedFd>> {
    converse(folder, Command::Port).await.map(|(_, socket)| socket)
}

async fn converse(folder: &Path, command: Command) -> io::Result<(Status, Option<OwnedFd>)> {
    let asked = async {
        let (path, _folder) = socket_path(folder)?;
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let (answer, file) = read_line(&stream, MAX_ANSWER).await?;
        Ok((serde_json::from_slice(&answer)?, file))
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads a line of at most so many bytes and the file that comes with it. The peer waits for an answer after each line, so
/// nothing is read beyond it. At the end of the stream the line is empty or has no end.
pub(crate) async fn read_line(stream: &UnixStream, max: usize) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let (mut line, mut file) = (Vec::new(), None);
    while !line.ends_with(b"\n") && line.len() <= max {
        let (more, came_with_it) = stream.async_io(Interest::READABLE, || port::receive(stream)).await?;
        file = came_with_it.or(file);
        if more.is_empty() {
            break;
        }
        line.extend(more);
    }
    Ok((line, file))
}

/// The path of a folder's control socket, valid as long as the file beside it is open: a socket's path has at most 107
/// bytes, a folder's may have more.
pub fn socket_path(folder: &Path) -> io::Result<(PathBuf, File)> {
    let opened = File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(CONTROL);
    Ok((path, opened))
}
