//! The folder of one workload.
//!
//! **Two runners of one workload never run at once**, wherever the agent is killed, because the kernel keeps count: a
//! runner is started with the locked file `lock` as its stdin. The lock lies on the open file, so it is held from before
//! the process exists until its last breath, whoever dies first:
//!
//! - killed before the start: the lock dies with the agent, nobody runs;
//! - killed after it: the runner holds the lock. The next agent cannot take it, waits for the record that every runner
//!   writes first, and takes the runner up (or stops it, when it was started for another document);
//! - the specification is written before an old runner is stopped, so no crash brings an old document back to life;
//! - it is deleted before the rest of the folder: a folder without one is a leftover.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use margo::Digest;
use runtime::WorkloadId;
use rustix::process::Signal;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    ask,
    process::Process,
    spec::{self, GRACE, LastWords, RECORD, Record, SPEC, Spec},
};

const LOCK: &str = "lock";
const STDERR: &str = "stderr";
/// A runner records itself within milliseconds of its start; a loaded node may take seconds.
const RECORD_PATIENCE: Duration = Duration::from_secs(20);
/// More than a runner takes for the requests in work.
const STOP_PATIENCE: Duration = GRACE.saturating_add(Duration::from_secs(2));
/// The end of stderr that is searched for last words.
const STDERR_TAIL: u64 = 16 * 1024;

/// The folder of one workload. Several values may name the same one.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// While this is held, no runner of the folder runs and nobody else can start one.
pub struct Lock(File);

/// Who holds the lock of a folder.
pub enum Holder {
    /// Now we do.
    Nobody(Lock),
    /// This runner, started for this document.
    Runner(Process, Digest),
}

impl Folder {
    /// The folder of this workload.
    pub fn of(root: &Path, id: &WorkloadId) -> Self {
        // Neither part may hold a dot.
        Self(root.join(format!("{}.{}", id.deployment, id.component)))
    }

    /// All folders there are.
    pub fn list(root: &Path) -> io::Result<Vec<Self>> {
        let entries = fs::read_dir(root)?.map(|entry| Ok(Self(entry?.path())));
        entries.filter(|folder| folder.as_ref().map_or(true, |Self(path)| path.is_dir())).collect()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What shall run; `None` in a leftover.
    pub fn spec(&self) -> io::Result<Option<Spec>> {
        read_json(&self.0.join(SPEC))
    }

    /// Durably says what shall run. The parameters in it are nobody else's business.
    pub fn write_spec(&self, spec: &Spec) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        let new = self.0.join(format!("{SPEC}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(spec)?)?;
        file.sync_all()?;
        fs::rename(&new, self.0.join(SPEC))?;
        sync(&self.0)?;
        self.0.parent().map_or(Ok(()), sync)
    }

    /// Takes the lock, or finds the runner that has it.
    pub async fn holder(&self) -> io::Result<Holder> {
        let begin = Instant::now();
        loop {
            let lock =
                OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.0.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => return Ok(Holder::Nobody(Lock(lock))),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let record: Option<Record> = read_json(&self.0.join(RECORD))?;
            if let Some(record) = record
                && let Some(process) = Process::open(record.process)?
            {
                return Ok(Holder::Runner(process, record.digest));
            }
            // Just started and not recorded yet, or just ended and its files are being closed.
            if begin.elapsed() > RECORD_PATIENCE {
                let message =
                    format!("the lock of {} is held by a process that did not record itself", self.0.display());
                return Err(io::Error::other(message));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a runner. It takes the lock with it.
    pub fn start(&self, Lock(lock): Lock, runner: &Path) -> io::Result<Child> {
        // A record that is there while the lock is held is the holder's.
        absent_is_fine(fs::remove_file(self.0.join(RECORD)))?;
        absent_is_fine(fs::remove_file(self.0.join(spec::CONTROL)))?;
        let stderr =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(self.0.join(STDERR))?;
        Command::new(runner)
            .arg("--spec")
            .arg(self.0.join(SPEC))
            // Nothing of the agent's own, such as its credentials.
            .env_clear()
            .current_dir("/")
            // Out of reach of a Ctrl-C that is meant for the agent.
            .process_group(0)
            .stdin(lock)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
    }

    /// Stops the runner, if there is one: politely first. With the lock returned it stays so.
    pub async fn stop(&self) -> io::Result<Lock> {
        loop {
            let process = match self.holder().await? {
                Holder::Nobody(lock) => return Ok(lock),
                Holder::Runner(process, _) => process,
            };
            if ask(&self.0, spec::Command::Stop).await.is_err() {
                // It has no control socket yet, or hangs.
                process.signal(Signal::TERM)?;
            }
            if let Ok(ended) = timeout(STOP_PATIENCE, process.ended()).await {
                ended?;
            } else {
                tracing::warn!(folder = %self.0.display(), "the runner did not end in time and is killed");
                process.signal(Signal::KILL)?;
                process.ended().await?;
            }
        }
    }

    /// Removes everything, the specification first. The lock says that no runner needs it any more.
    pub fn delete(&self, _lock: Lock) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.0.join(SPEC)))?;
        sync(&self.0)?;
        absent_is_fine(fs::remove_dir_all(&self.0))
    }

    /// What the last runner said when it ended, and the last line it wrote at all.
    pub fn last_words(&self) -> io::Result<(Option<LastWords>, Option<String>)> {
        let mut file = File::open(self.0.join(STDERR))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(STDERR_TAIL)))?;
        let mut tail = Vec::new();
        file.take(STDERR_TAIL).read_to_end(&mut tail)?;
        let tail = String::from_utf8_lossy(&tail);
        let last_line = tail.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
        Ok((LastWords::find(&tail), last_line))
    }
}

/// `None` when the file is absent or does not hold a `T`: whoever writes these files puts that right.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
