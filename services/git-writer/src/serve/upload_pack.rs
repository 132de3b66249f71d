//! `git upload-pack`, one process for each request: it reads the request from memory and writes its answer into a file without a
//! name.

use std::{
    fs::File,
    io::{self, Seek},
    os::unix::process::ExitStatusExt,
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::sync::Semaphore;

use super::queues::Place;
use crate::git::{self, Limits};

/// Processes at the same time. Each may keep a core busy, and orders go first.
const PROCESSES: usize = 2;

/// What one answer may take. A clone of a repository with 100,000 commits takes some seconds; one of ten million objects takes
/// gigabytes of memory, and is for the upkeep of that day.
const LIMITS: Limits = Limits { patience: Duration::from_secs(600), memory: 2 << 30, file: None, niceness: 0 };

/// What stays free on the disk of the repositories, however many answers wait there for slow readers: orders are written there, too.
const KEPT_FREE: u64 = 1 << 30;

/// The longest line of a request that names a filter. Git takes apart whatever stands in one before it refuses it.
const LONGEST_FILTER: usize = 200;

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
    #[error("there is no room on the disk for the answer")]
    NoRoom,
    #[error("git was ended by signal {0}")]
    Ended(i32),
    #[error(transparent)]
    Git(#[from] git::Failed),
    #[error("the answer cannot be kept")]
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
        run(repository, version_2, question).await
    }
}

async fn run(repository: &Path, version_2: bool, question: Question) -> Result<File, Failed> {
    // Beside the repository, where there is room for what it holds.
    let folder = repository.parent().unwrap_or(repository).to_owned();
    let spool = disk::blocking(move || Ok((disk::free(&folder)?, tempfile::tempfile_in(folder)?)));
    let (free, mut spool) = spool.await?;
    // The others that write answers now leave as much as this one does.
    let room = free.checked_sub(KEPT_FREE).ok_or(Failed::NoRoom)? / PROCESSES as u64;
    let mut command = git::command(&SETTINGS, &[], Limits { file: Some(room), ..LIMITS });
    if version_2 {
        command.env("GIT_PROTOCOL", "version=2");
    }
    command.args(["upload-pack", "--strict", "--stateless-rpc"]);
    let body = match question {
        Question::Refs => {
            command.arg("--http-backend-info-refs");
            Bytes::new()
        }
        Question::Wants(body) if longest_filter(&body) > LONGEST_FILTER => {
            return Err(Failed::Refused(format!("its filter has more than {LONGEST_FILTER} bytes")));
        }
        Question::Wants(body) => body,
    };
    command.arg(repository);
    command.stdout(spool.try_clone()?);
    let ended = git::run(command, LIMITS.patience, &body).await?;
    match ended.status.signal() {
        None if ended.status.success() => {
            spool.rewind()?;
            Ok(spool)
        }
        None => {
            // Where the repository lies is nobody's business.
            let words = ended.words.replace(&*repository.to_string_lossy(), "the repository");
            Err(Failed::Refused(words.chars().take(500).collect()))
        }
        Some(signal) if signal == Signal::XFSZ.as_raw() => Err(Failed::NoRoom),
        Some(signal) => Err(Failed::Ended(signal)),
    }
}

/// The length of the longest filter that a request names; what is no line of git's protocol ends the look, as it will end git's.
fn longest_filter(request: &[u8]) -> usize {
    let (mut rest, mut longest) = (request, 0);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = std::str::from_utf8(length).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        // Lengths below four are marks between lines.
        let line = match length.map(|length| length.saturating_sub(4)) {
            Some(length) if length <= after.len() => after.split_at(length),
            Some(_) | None => break,
        };
        rest = line.1;
        if let Some(filter) = line.0.strip_prefix(b"filter ") {
            longest = longest.max(filter.len());
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_found_in_requests_of_both_versions() {
        let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
        let short =
            [line("command=fetch\n"), "0001".to_owned(), line("filter blob:none\n"), "0000".to_owned()].concat();
        assert_eq!(longest_filter(short.as_bytes()), "blob:none\n".len());
        let long = "filter ".to_owned() + &"combine:".repeat(100);
        let old = [line("want 01234 filter\n"), line(&long), "0000".to_owned(), line("done")].concat();
        assert_eq!(longest_filter(old.as_bytes()), 800);
        for none in ["", "0", "zzzz", "0032filter", "0000", "00040001", "0009filter"] {
            assert_eq!(longest_filter(none.as_bytes()), 0, "{none}");
        }
    }
}
