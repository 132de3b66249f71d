//! `git upload-pack`, one process for each request: it reads the request from memory and writes its answer into a file without a
//! name.

use std::{
    fs::File,
    io::{self, Seek},
    path::Path,
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, sync::Semaphore, time::timeout};

use super::queues::Place;
use crate::git;

/// Processes at the same time. Each may keep a core busy, and orders go first.
const PROCESSES: usize = 2;

/// How long one process may work. A clone of a repository with 100,000 commits takes some seconds.
const PATIENCE: Duration = Duration::from_secs(600);

/// What git is told. What the machine's and the user's configuration say is left out. Of the filters those are allowed that cost little: a
/// combination of thousands in one request took gigabytes.
const SETTINGS: [&str; 8] = [
    "uploadpack.allowFilter=true",
    "uploadpackfilter.allow=false",
    "uploadpackfilter.blob:none.allow=true",
    "uploadpackfilter.blob:limit.allow=true",
    "uploadpackfilter.tree.allow=true",
    "pack.threads=1",
    "core.logAllRefUpdates=false",
    "safe.directory=*",
];

/// Runs the processes.
pub struct UploadPack {
    processes: Semaphore,
}

impl Default for UploadPack {
    fn default() -> Self {
        Self { processes: Semaphore::new(PROCESSES) }
    }
}

/// What git is asked for.
pub enum Question {
    /// What the repository has.
    Refs,
    /// What a client wants, as its request says.
    Wants(Bytes),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Git does not accept the request; these are its words.
    #[error("git refuses the request: {0}")]
    Refused(String),
    #[error("git has worked for {PATIENCE:?} and was ended")]
    TooLong,
    #[error("git cannot be run")]
    Io(#[from] io::Error),
}

impl UploadPack {
    /// Answers from this repository. `version_2` says that the client speaks version 2 of the protocol. The answer begins where the
    /// file stands.
    pub async fn answer(
        &self,
        place: &Place,
        repository: &Path,
        version_2: bool,
        question: Question,
    ) -> Result<File, Failed> {
        let closed = |_| io::Error::other("nobody closes this semaphore");
        // First the own turn: whoever asks much waits for itself, and not in front of others.
        let _turn = place.turn.acquire().await.map_err(closed)?;
        let _process = self.processes.acquire().await.map_err(closed)?;
        timeout(PATIENCE, run(repository, version_2, question)).await.unwrap_or(Err(Failed::TooLong))
    }
}

async fn run(repository: &Path, version_2: bool, question: Question) -> Result<File, Failed> {
    // Beside the repository, where there is room for what it holds.
    let folder = repository.parent().unwrap_or(repository).to_owned();
    let spool = disk::blocking(move || tempfile::tempfile_in(folder)).await?;
    let mut command = git::command(&SETTINGS, &[]);
    if version_2 {
        command.env("GIT_PROTOCOL", "version=2");
    }
    command.args(["upload-pack", "--strict", "--stateless-rpc"]);
    let body = match question {
        Question::Refs => {
            command.arg("--http-backend-info-refs");
            Bytes::new()
        }
        Question::Wants(body) => body,
    };
    command.arg(repository);
    command.stdin(Stdio::piped()).stdout(spool.try_clone()?).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A process that has seen enough closes its end; its exit code tells whether that was right.
        let _ = input.write_all(&body).await;
    }
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(Failed::Refused(words.trim().chars().take(500).collect()));
    }
    let mut spool = spool;
    spool.rewind()?;
    Ok(spool)
}
