//! The component's log: what it writes to stdout and stderr, and why its requests failed. Whoever writes without end is
//! cut, because flash memory wears out; the log says how much is missing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as TaskContext, Poll},
    time::Instant,
};

use anyhow::Context;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

/// Of a file; the one before it is kept, so a log takes up to twice as much.
const MAX_SIZE: u64 = 1 << 20;
/// What a component may write at once.
const MAX_WRITE: usize = 64 * 1024;
/// What a component may write in a moment, after it has been quiet: a long backtrace or a page of a start.
const BURST: u64 = 256 * 1024;
/// What it may write in the long run: some 200 lines a second, and less than 2 GiB a day.
const BYTES_PER_SECOND: u64 = 16 * 1024;
/// After it was cut, it is heard again once so much is allowed: not sooner, or every other line would be about lines
/// that are missing.
const ENOUGH: u64 = BURST / 2;

/// A file that starts anew when it is full, and keeps the last full one beside it (`log.1`).
#[derive(Clone)]
pub struct Log(Arc<Mutex<Rotating>>);

struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    allowance: Allowance,
}

/// How much may be written now, and how much was not.
struct Allowance {
    bytes: u64,
    /// Up to when `bytes` has grown.
    at: Instant,
    dropped: u64,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { bytes: BURST, at: now, dropped: 0 }
    }

    /// Returns whether so many bytes may be written now. Counts them either way.
    fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.at).as_millis() * u128::from(BYTES_PER_SECOND) / 1000;
        if let Ok(grown @ 1..) = u64::try_from(grown) {
            self.bytes = self.bytes.saturating_add(grown).min(BURST);
            self.at = now;
        }
        let wanted = if self.dropped > 0 { bytes.max(ENOUGH) } else { bytes };
        if self.bytes < wanted {
            self.dropped = self.dropped.saturating_add(bytes);
            return false;
        }
        self.bytes -= bytes;
        true
    }

    /// The line that tells what is missing, once. No line when nothing is.
    fn missing(&mut self) -> Option<String> {
        let dropped = std::mem::take(&mut self.dropped);
        let rate = BYTES_PER_SECOND >> 10;
        (dropped > 0)
            .then(|| format!("\nwasm-runner: {dropped} bytes are missing here; {rate} KiB a second are kept\n"))
    }
}

impl Log {
    /// Goes on where an earlier runner stopped.
    pub fn open(path: PathBuf) -> anyhow::Result<Self> {
        let opened = open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (size, file) = opened.with_context(|| format!("opening {}", path.display()))?;
        let allowance = Allowance::new(Instant::now());
        Ok(Self(Arc::new(Mutex::new(Rotating { path, file, size, allowance }))))
    }

    /// Opens the file anew, for when another process may have begun a new one meanwhile.
    pub fn reopen(&self) -> anyhow::Result<()> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = open(&log.path).and_then(|file| Ok((file.metadata()?.len(), file)));
        (log.size, log.file) = opened.with_context(|| format!("opening {}", log.path.display()))?;
        Ok(())
    }

    /// Adds to the log, unless too much was written lately. A disk that takes no more lines must not stop the service.
    pub fn write(&self, bytes: &[u8]) {
        self.write_at(bytes, Instant::now());
    }

    fn write_at(&self, bytes: &[u8], now: Instant) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if log.allowance.take(bytes.len() as u64, now) {
            let _full_disk = log.tell_missing().and_then(|()| log.write(bytes));
        }
    }
}

impl Drop for Rotating {
    fn drop(&mut self) {
        let _full_disk = self.tell_missing();
    }
}

impl Rotating {
    fn tell_missing(&mut self) -> io::Result<()> {
        self.allowance.missing().map_or(Ok(()), |line| self.write(line.as_bytes()))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > MAX_SIZE {
            fs::rename(&self.path, self.path.with_extension("1"))?;
            self.file = open(&self.path)?;
            self.size = 0;
        }
        self.size += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    // Written at once: what a component says before it fails is what one wants to read.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > MAX_WRITE {
            return Err(StreamError::trap("more was written than permitted"));
        }
        Log::write(self, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(MAX_WRITE)
    }
}

impl AsyncWrite for Log {
    fn poll_write(self: Pin<&mut Self>, _: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = bytes.len().min(MAX_WRITE);
        Log::write(&self, &bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn log() -> (tempfile::TempDir, PathBuf, Log) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let log = Log::open(path.clone()).unwrap();
        (folder, path, log)
    }

    #[test]
    fn a_log_never_takes_more_than_two_files() {
        let (folder, path, log) = log();
        let (line, begin) = ([b'x'; 1000], Instant::now());
        for second in 0..5_000 {
            log.write_at(&line, begin + second * SECOND);
        }
        log.write_at(b"last\n", begin + 5_000 * SECOND);
        let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), 2);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= MAX_SIZE));
        assert!(fs::read(&path).unwrap().ends_with(b"last\n"));
    }

    #[test]
    fn who_writes_without_end_is_cut_and_one_line_says_how_much_is_missing() {
        let (_folder, path, log) = log();
        let (line, begin) = ([b'x'; 1024], Instant::now());
        for _ in 0..5_000 {
            log.write_at(&line, begin);
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), BURST);
        let missing = 5_000 * 1024 - BURST;
        // Not as soon as one line fits, but once it was quiet for a while.
        log.write_at(b"too early\n", begin + SECOND);
        log.write_at(b"heard\n", begin + 8 * SECOND);
        let text = fs::read_to_string(&path).unwrap();
        let end = text.trim_start_matches('x');
        let said = format!("wasm-runner: {} bytes are missing here", missing + 10);
        assert!(end.trim_start().starts_with(&said) && end.ends_with("\nheard\n"), "{end}");
        assert_eq!(end.matches("missing").count(), 1);
    }

    #[test]
    fn what_is_missing_at_the_end_is_told_at_the_end() {
        let (_folder, path, log) = log();
        let begin = Instant::now();
        for _ in 0..5 {
            log.write_at(&[b'x'; MAX_WRITE], begin);
        }
        drop(log);
        assert!(fs::read_to_string(&path).unwrap().contains("65536 bytes are missing"));
    }

    #[test]
    fn who_writes_little_is_always_heard() {
        let (_folder, path, log) = log();
        let begin = Instant::now();
        // In steps that are shorter than one byte takes to be allowed again.
        for step in 0..1_000_000 {
            log.write_at(b"x", begin + step * SECOND / 16_000);
        }
        assert_eq!(
            fs::read(path.with_extension("1")).map_or(0, |old| old.len()) + fs::read(&path).unwrap().len(),
            1_000_000
        );
    }
}
