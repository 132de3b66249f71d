//! The folder of one workload: all that an agent and its runners keep of it, so that either may die.
//!
//! **Layout.** Everything is a file of this one folder:
//!
//! ```text
//! spec.json    what is in force            lock         held by the runner that takes requests
//! next.json    what is prepared, or gone   runner.json  who that is
//! starts.log   a line for each start       control      its socket
//! log, log.1   the component's output      stderr       its last words (stderr.next: of the one that is prepared)
//! data/        what the component keeps    done         which revision's command has done its work
//! ```
//!
//! **Two runners of one workload never take requests at once**, wherever the agent is killed, because the kernel keeps
//! count. Every runner is started with the file `lock` as its stdin, opened but not locked. The agent locks that open file
//! when no other runner holds it, then tells the runner to go. The lock lies on the open file, which agent and runner
//! share, so it is held from before the runner takes over until it gives the lock up or dies, whoever dies first:
//!
//! - killed before the lock is taken: the runner's channel ends, and so does the runner. It never took a request and wrote
//!   no line into `starts.log`;
//! - killed between the lock and "go": the same, and the lock ends with the runner;
//! - killed after "go": the runner holds the lock. The next agent cannot take it, waits for the record that every runner
//!   writes first, and takes the runner up (or stops it, when it was started for another document);
//! - a runner that is told to stop accepts no more, removes its record and gives the lock up before it finishes the
//!   requests in work: its successor need not wait for them. It ends by itself within [`GRACE`].
//!
//! **Updates.** `next.json` is on the disk, synced, before the revision counts as prepared (its runner is loading
//! meanwhile); it becomes `spec.json` by a rename before the old runner is stopped, so no kill brings an old document
//! back to life. The rename itself is synced beside the switch and not before it. A folder is deleted beginning with
//! `spec.json`.
//!
//! **Data.** `data` is made by the first runner whose component asks for it. No update touches it; it goes with the folder,
//! when the workload is removed.
//!
//! **After a crash.** A folder with `next.json` has a revision that was being prepared: its runner ended with the
//! agent, and the file is forgotten. A folder without `spec.json` is a leftover and goes. Should the power fail between
//! the rename and its sync, the node boots with the old specification, and the agent, which had the new desired state
//! on its disk before all this began, replaces it at once. A specification that this version cannot read is not taken
//! for a leftover: its runner goes on, and the folder waits until the workload is applied or removed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use disk::{blocking, read_optional, remove_deep_folder_if_there, remove_folder_if_there, remove_if_there};
use margo::Digest;
use runtime::WorkloadId;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    ask,
    process_id::Process,
    spec::{self, DATA, DONE, FULL_LOG, GRACE, LOG, LastWords, NEXT, RECORD, Record, SPEC, Spec},
    tail,
};

const LOCK: &str = "lock";
const STDERR: &str = "stderr";
const NEXT_STDERR: &str = "stderr.next";
/// Where the data folder is taken apart.
const GONE: &str = "data.gone";
/// A runner records itself within milliseconds after it was told to go; a loaded node may take seconds.
const RECORD_PATIENCE: Duration = Duration::from_secs(20);
/// More than a runner takes for the requests in work.
const STOP_PATIENCE: Duration = GRACE.saturating_add(Duration::from_secs(2));
/// A process that was killed is gone within milliseconds, unless it hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at a lock whose end nobody announces. Rare: a runner that is asked says when it has given it up.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The end of stderr that is searched for last words.
const STDERR_TAIL: u64 = 16 * 1024;
/// The end of a log that is searched for its last lines: more than a person reads.
const LOG_TAIL: u64 = 256 * 1024;

/// The folder of one workload. Several values may name the same one.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// While this is held, no runner of the folder takes requests and nobody else can have one go.
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing: a process that is being started may share the open file for a moment.
        let _unlocked = self.0.unlock();
    }
}

/// Who holds the lock of a folder.
pub enum Holder {
    /// Nobody held it; the caller does now.
    Nobody(Lock),
    /// This runner, started for the revision with this digest.
    Runner(Process, Digest),
}

impl Folder {
    /// The folder of this workload.
    pub fn of(root: &Path, id: &WorkloadId) -> Self {
        Self(runtime::folder_of(root, id))
    }

    /// Returns all folders there are.
    pub fn list(root: &Path) -> io::Result<Vec<Self>> {
        Ok(runtime::folders(root)?.into_iter().map(Self).collect())
    }

    /// Returns where the folder is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns what is in force; `None` in a leftover. A file that does not read is an error of the kind `InvalidData`.
    pub fn spec(&self) -> io::Result<Option<Spec>> {
        read_json(&self.0.join(SPEC))
    }

    /// Returns what is prepared, which may be half written.
    pub fn next_spec(&self) -> io::Result<Option<Spec>> {
        read_json(&self.0.join(NEXT))
    }

    /// Returns the file of the specification in force.
    pub fn spec_file(&self) -> PathBuf {
        self.0.join(SPEC)
    }

    /// Writes the specification of the revision to be prepared, and returns its file. The parameters in it are nobody
    /// else's business. Nobody but its runner reads the file before it is in force. Blocks.
    pub fn write_next(&self, spec: &Spec) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        self.forget_next()?;
        let next = self.0.join(NEXT);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec_pretty(spec)?)?;
        Ok(next)
    }

    /// Puts the prepared specification in force. It may be lost with the next power cut until [`Folder::sync_spec`] has
    /// returned; then the agent, whose desired state is on the disk, applies it again.
    pub fn enforce_next(&self) -> io::Result<()> {
        fs::rename(self.0.join(NEXT), self.0.join(SPEC))?;
        // A revision that is applied runs, also one that had done its work before another one took its place.
        self.forget_done()
    }

    /// Waits until the specification in force, and the folder itself, are on the disk.
    pub async fn sync_spec(&self) -> io::Result<()> {
        let mut paths = vec![self.0.join(SPEC), self.0.clone()];
        paths.extend(self.0.parent().map(Path::to_owned));
        blocking(move || disk::sync_together(&paths)).await
    }

    /// Removes what an earlier life of the agent had prepared. Its runner ended with that life.
    pub fn forget_next(&self) -> io::Result<()> {
        remove_if_there(&self.0.join(NEXT))?;
        remove_if_there(&self.0.join(NEXT_STDERR))
    }

    /// Whether the command of the revision with this digest has done what it was to do.
    pub fn is_done(&self, digest: Digest) -> io::Result<bool> {
        Ok(read_optional(&self.0.join(DONE))?.is_some_and(|done| done == digest.to_string().as_bytes()))
    }

    /// Has a command that has done its work run again.
    pub fn forget_done(&self) -> io::Result<()> {
        remove_if_there(&self.0.join(DONE))
    }

    /// Opens the file of the lock for a runner, without taking the lock.
    pub fn open_lock(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.0.join(LOCK))
    }

    /// Takes the lock; returns `None` when somebody has it.
    fn try_lock(&self) -> io::Result<Option<Lock>> {
        let lock = self.open_lock()?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Lock(lock))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Takes the lock, or finds the runner that has it.
    pub async fn holder(&self) -> io::Result<Holder> {
        let begin = Instant::now();
        loop {
            if let Some(lock) = self.try_lock()? {
                return Ok(Holder::Nobody(lock));
            }
            let record: Option<Record> = read_json(&self.0.join(RECORD))?;
            if let Some(record) = record
                && let Some(process) = Process::open(record.process)?
            {
                return Ok(Holder::Runner(process, record.digest));
            }
            // Just told to go and not recorded yet, or just ended and its files are being closed.
            if begin.elapsed() > RECORD_PATIENCE {
                let message =
                    format!("the lock of {} is held by a process that did not record itself", self.0.display());
                return Err(io::Error::other(message));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Has the runner, if there is one, give up port and lock: politely first. Returns the lock, and the runner when it
    /// may still be finishing the requests in work.
    pub async fn stop(&self) -> io::Result<(Lock, Option<Process>)> {
        let mut leaving = None;
        loop {
            let process = match self.holder().await? {
                Holder::Nobody(lock) => return Ok((lock, leaving)),
                Holder::Runner(process, _) => process,
            };
            if ask(&self.0, spec::Command::Stop).await.is_err() {
                // It hangs, or it has just begun and has no control socket yet.
                process.signal(Signal::TERM)?;
            }
            match timeout(STOP_PATIENCE, self.released(&process)).await {
                Ok(released) => released?,
                Err(_elapsed) => {
                    tracing::warn!(folder = %self.0.display(), "the runner did not stop in time and is killed");
                    kill(&process).await?;
                }
            }
            leaving = Some(process);
        }
    }

    /// Returns when the runner has given up the lock or has ended.
    async fn released(&self, process: &Process) -> io::Result<()> {
        while self.try_lock()?.is_none() {
            tokio::select! {
                ended = process.ended() => return ended,
                () = sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(())
    }

    /// Removes everything, the specification first. The lock says that no runner needs it any more.
    pub async fn delete(&self, lock: Lock) -> io::Result<()> {
        let path = self.0.clone();
        blocking(move || {
            let _nobody_starts_one_meanwhile = lock;
            remove_if_there(&path.join(SPEC))?;
            if path.exists() {
                disk::sync(&path)?;
            }
            // Whoever could make the folders in it could make them as deep as they liked.
            remove_deep_folder_if_there(&path.join(DATA), &path.join(GONE))?;
            remove_folder_if_there(&path)
        })
        .await
    }

    /// Opens the file that takes the stderr of a runner until it takes over.
    pub fn open_next_stderr(&self) -> io::Result<File> {
        let path = self.0.join(NEXT_STDERR);
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)
    }

    /// Makes way for a runner that is about to be told to go, while the agent holds the lock: from now on its words count,
    /// and a record that is there would be another one's.
    pub fn make_way(&self) -> io::Result<()> {
        remove_if_there(&self.0.join(RECORD))?;
        match fs::rename(self.0.join(NEXT_STDERR), self.0.join(STDERR)) {
            // Another runner took over after this one had been started, and both write into the same file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed,
        }
    }

    /// Returns why the last runner that took over ended: what it said or, when it died without a word, how it ended and
    /// the last line that it wrote.
    pub async fn last_words(&self, how: impl std::fmt::Display) -> io::Result<LastWords> {
        last_words(self.0.join(STDERR), how).await
    }

    /// The same of a runner that ended before it took over.
    pub async fn last_words_of_next(&self, how: impl std::fmt::Display) -> io::Result<LastWords> {
        last_words(self.0.join(NEXT_STDERR), how).await
    }

    /// Returns the last lines of the component's output.
    pub async fn logs(&self, lines: usize) -> io::Result<Vec<String>> {
        let paths = [self.0.join(FULL_LOG), self.0.join(LOG)];
        blocking(move || {
            let texts: io::Result<Vec<_>> = paths.iter().map(|path| tail::end_of(path, LOG_TAIL)).collect();
            Ok(tail::last_lines(&texts?, lines))
        })
        .await
    }
}

/// Sees a runner off that has given up its lock: it finishes the requests in work, or is killed.
pub async fn see_off(process: Process) -> io::Result<()> {
    match timeout(STOP_PATIENCE, process.ended()).await {
        Ok(ended) => ended,
        Err(_elapsed) => kill(&process).await,
    }
}

async fn kill(process: &Process) -> io::Result<()> {
    process.signal(Signal::KILL)?;
    let ended = timeout(KILL_PATIENCE, process.ended()).await;
    ended.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the runner was killed and does not end")))
}

async fn last_words(stderr: PathBuf, how: impl std::fmt::Display) -> io::Result<LastWords> {
    let how = how.to_string();
    let end = blocking(move || tail::end_of(&stderr, STDERR_TAIL)).await?;
    Ok(LastWords::find(&end).unwrap_or_else(|| {
        let last_line = end.lines().rev().find(|line| !line.trim().is_empty());
        let message = last_line.map_or_else(|| how.clone(), |line| format!("{how}: {line}"));
        LastWords { code: "exited".to_owned(), message }
    }))
}

/// Returns `None` when the file is absent. One that does not hold a `T` is an error of the kind `InvalidData`.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}
