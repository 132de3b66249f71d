//! Child processes, which are nats-servers and edge-nodes: started, restarted, and ended in order.
//!
//! A supervisor that is killed leaves its children running. The next start finds a child that still runs by its command
//! line, which is that of no other process, and ends it before it starts a new one. So a folder never has two children of the
//! same name, wherever the supervisor was killed. The process id stands in a file too, for people.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long a child may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(6);

/// Bytes of a child's log, and of the older one beside it: some ten thousand lines, and a small disk does not feel them.
const MAX_LOG: u64 = 8 << 20;

/// Between two looks at the length of a log.
const LOOK_AT_LOG: Duration = Duration::from_secs(60);

/// The version of nats-server that the platform was tested and measured with; it starts no other.
pub const NATS_SERVER_VERSION: &str = "2.15.1";

/// A program that shall be kept running.
pub struct Program {
    /// The name in logs and of the files in `folder`.
    pub name: String,
    pub path: PathBuf,
    /// The whole command line after the program's name. It must be that of no other process on the machine, because a
    /// leftover child is recognised by it.
    pub arguments: Vec<String>,
    /// The folder of `<name>.pid` and `<name>.log`, which holds all that the program writes, but for what it has a log of its own.
    /// A log that is full becomes `<name>.log.1`.
    pub folder: PathBuf,
}

impl Program {
    fn pid_file(&self) -> PathBuf {
        self.folder.join(format!("{}.pid", self.name))
    }

    /// Ends what an earlier supervisor left, then keeps the program running until shutdown, with growing pauses between
    /// its starts.
    pub async fn supervise(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        disk::make_private_folder(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        self.end_leftover().await?;
        crate::supervise::restarting(&self.name, &shutdown, || self.run_once(&shutdown)).await
    }

    async fn run_once(&self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut child = self.start()?;
        let keep_log_short = async {
            loop {
                tokio::time::sleep(LOOK_AT_LOG).await;
                let log = self.log_file();
                if let Err(error) = disk::blocking(move || shorten(&log, MAX_LOG)).await {
                    warn!(name = self.name, error = &error as &dyn std::error::Error, "its log goes on growing");
                }
            }
        };
        tokio::select! {
            status = child.wait() => bail!("{} ended: {}; see its logs in {}", self.name, status?, self.folder.display()),
            () = shutdown.cancelled() => {}
            () = keep_log_short => {}
        }
        self.end(&mut child).await
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn start(&self) -> anyhow::Result<Child> {
        let log = fs::File::options().create(true).append(true).open(self.log_file())?;
        let child = Command::new(&self.path)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A signal from the terminal goes to the supervisor alone, which ends its children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.path.display()))?;
        process::stop_point("edgewright.child-started");
        if let Some(pid) = child.id() {
            disk::write_private(&self.pid_file(), pid.to_string().as_bytes())?;
            info!(name = self.name, pid, "started");
        }
        Ok(child)
    }

    async fn end(&self, child: &mut Child) -> anyhow::Result<()> {
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            // The child may have ended by itself since, and then there is nobody to signal.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            warn!(name = self.name, "killed: it did not end within the grace period");
            child.kill().await?;
        }
        fs::remove_file(self.pid_file())?;
        Ok(())
    }

    /// The processes that run the program, by their arguments. One that has ended has none any longer, even while nobody has
    /// waited for it.
    fn running(&self) -> Vec<Pid> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = processes.filter_map(|process| Pid::from_raw(process.file_name().to_str()?.parse().ok()?));
        pids.filter(|pid| {
            let command_line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
            let arguments = command_line.strip_suffix(b"\0").unwrap_or_default().split(|byte| *byte == 0).skip(1);
            !self.arguments.is_empty() && arguments.eq(self.arguments.iter().map(|argument| argument.as_bytes()))
        })
        .collect()
    }

    /// Ends a child that a killed supervisor left running, and waits until it has ended.
    async fn end_leftover(&self) -> anyhow::Result<()> {
        let begin = std::time::Instant::now();
        let mut signal = Signal::TERM;
        loop {
            let leftovers = self.running();
            if leftovers.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > GRACE {
                signal = Signal::KILL;
            }
            for pid in leftovers {
                info!(name = self.name, %pid, "ending the child of an earlier supervisor");
                // It may have ended since.
                let _ = kill_process(pid, signal);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Keeps the content of a log that is longer than this in `<log>.1`, and empties the log. The child that writes it, or one that
/// a killed supervisor left, keeps it open, so it cannot be renamed; lines that come between the two steps are lost. Blocks.
fn shorten(log: &Path, limit: u64) -> io::Result<()> {
    if fs::metadata(log)?.len() <= limit {
        return Ok(());
    }
    let mut older = log.as_os_str().to_owned();
    older.push(".1");
    fs::copy(log, older)?;
    // The child appends: its next line is the first one.
    fs::File::options().write(true).open(log)?.set_len(0)
}

/// Fails when the program is missing or is of another version than [`NATS_SERVER_VERSION`].
pub async fn check_nats_server(path: &Path) -> anyhow::Result<()> {
    let output = Command::new(path).arg("--version").output().await.with_context(|| {
        format!("running {} (`make setup` installs it; EDGEWRIGHT_NATS_SERVER names another place)", path.display())
    })?;
    let version = String::from_utf8_lossy(&output.stdout);
    ensure!(
        version.trim().ends_with(&format!("v{NATS_SERVER_VERSION}")),
        "{} is {:?}, but the platform needs nats-server v{NATS_SERVER_VERSION}: run `make setup`",
        path.display(),
        version.trim(),
    );
    Ok(())
}

/// The nats-server that runs with `nats.conf` of this folder.
pub fn nats_server(path: &Path, folder: &Path) -> Program {
    Program {
        name: "nats-server".to_owned(),
        path: path.to_owned(),
        arguments: vec!["--config".to_owned(), folder.join("nats.conf").display().to_string()],
        folder: folder.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_full_log_gives_way_to_what_its_child_writes_next() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("child.log");
        let mut log = fs::File::options().create(true).append(true).open(&path).unwrap();
        for line in ["first", "second", "third"] {
            writeln!(log, "{line}").unwrap();
            shorten(&path, 10).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("child.log.1").as_str(), read("child.log").as_str()), ("first\nsecond\n", "third\n"));
    }

    #[tokio::test]
    async fn a_child_of_which_no_file_tells_is_found_and_ended() {
        let folder = TempDir::new().unwrap();
        // A number that no other process sleeps for.
        let seconds = format!("600.{}", std::process::id());
        let program = Program {
            name: "child".to_owned(),
            path: "/bin/sleep".into(),
            arguments: vec![seconds.clone()],
            folder: folder.path().to_owned(),
        };
        let mut child = Command::new("/bin/sleep").arg(&seconds).spawn().unwrap();
        testkit::wait_for("the child to be seen", async || match program.running() {
            pids if pids.len() == 1 => Ok(()),
            pids => Err(format!("{pids:?}")),
        })
        .await;
        program.end_leftover().await.unwrap();
        assert!(!child.wait().await.unwrap().success());
        assert_eq!(program.running(), []);
    }
}
