//! The program `docker-compose`, which the command `docker compose` runs too. Without the command around it, it starts faster
//! and reads nobody's settings.

use std::{ffi::OsStr, io, path::PathBuf, process::Stdio};

use runtime::RuntimeError;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::{Instant, timeout_at},
};

/// The end of what the program writes that is kept: what went wrong stands in the last lines.
const KEPT: usize = 8 << 10;

/// The words of the last lines that a failure shows.
const SHOWN_LINES: usize = 4;

/// The program, and what it needs to know.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The program.
    pub program: PathBuf,
    /// The socket of the engine.
    pub socket: PathBuf,
    /// An empty folder, in place of a person's home with settings and credentials.
    pub home: PathBuf,
}

impl Tool {
    /// Runs the program until then at the latest. Fails with its last lines when it does not succeed.
    pub async fn run<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        deadline: Instant,
    ) -> Result<String, RuntimeError> {
        let program = self.program.display();
        let mut child = Command::new(&self.program)
            .args(["--ansi", "never", "--progress", "quiet"])
            .args(arguments)
            // Neither the agent's environment nor a person's: each variable of Compose and Docker would change what is done.
            .env_clear()
            .env("DOCKER_HOST", format!("unix://{}", self.socket.display()))
            .env("DOCKER_CONFIG", &self.home)
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| RuntimeError::Io { attempt: format!("starting {program}"), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = async { tokio::join!(child.wait(), tail(stdout), tail(stderr)) };
        let Ok((status, stdout, stderr)) = timeout_at(deadline, ended).await else {
            let message = "docker compose did not end in time".to_owned();
            return Err(RuntimeError::Failed { code: "timeout".to_owned(), message });
        };
        let status = status.map_err(|source| RuntimeError::Io { attempt: format!("waiting for {program}"), source })?;
        if status.success() {
            return Ok(stdout.unwrap_or_default());
        }
        let lines = stderr.unwrap_or_default();
        let lines: Vec<_> = lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("; ");
        Err(RuntimeError::Failed { code: "compose".to_owned(), message: format!("docker compose: {status}: {last}") })
    }
}

/// Reads to the end and returns the last bytes.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let Some(mut stream) = stream else { return Ok(String::new()) };
    let (mut kept, mut buffer) = (Vec::new(), [0; 4 << 10]);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
}
