//! The agent's side of a runner's control socket: one command, one answer, one connection.

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use crate::spec::{CONTROL, Command, Status};

/// A runner answers at once, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// Far more than a status is long.
const MAX_ANSWER: u64 = 64 * 1024;

/// Sends a command to the runner of this folder.
pub async fn ask(folder: &Path, command: Command) -> io::Result<Status> {
    let asked = async {
        let (path, _folder) = socket_path(folder)?;
        let mut stream = UnixStream::connect(path).await?;
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream).take(MAX_ANSWER).read_line(&mut answer).await?;
        Ok(serde_json::from_str(&answer)?)
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The path of a folder's control socket, valid as long as the file beside it is open: a socket's path has at most 107
/// bytes, a folder's may have more.
pub fn socket_path(folder: &Path) -> io::Result<(PathBuf, File)> {
    let opened = File::open(folder)?;
    let path = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(CONTROL);
    Ok((path, opened))
}
