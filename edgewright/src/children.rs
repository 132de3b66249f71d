//! Child processes: nats-servers and edge-nodes.
//!
//! A supervisor that is killed leaves its children running. Each child's process id stands in a file; the next start
//! ends a child that is still there before it starts a new one, so there is never more than one for a folder.

use std::{
    fs,
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

/// The server version that the platform was measured with.
pub const NATS_SERVER_VERSION: &str = "2.15.1";

/// A program to keep running.
pub struct Program {
    /// What it is called in logs.
    pub name: String,
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its process id and its output go.
    pub folder: PathBuf,
}

impl Program {
    fn pid_file(&self) -> PathBuf {
        self.folder.join(format!("{}.pid", self.name))
    }

    /// Keeps the program running until shutdown; restarts it with growing pauses.
    pub async fn supervise(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        self.end_leftover().await?;
        crate::supervise::restarting(&self.name, &shutdown, || self.run_once(&shutdown)).await
    }

    async fn run_once(&self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut child = self.start()?;
        tokio::select! {
            status = child.wait() => bail!("{} ended: {}; see {}", self.name, status?, self.log_file().display()),
            () = shutdown.cancelled() => self.end(&mut child).await,
        }
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
        if let Some(pid) = child.id() {
            fs::write(self.pid_file(), pid.to_string())?;
            info!(name = self.name, pid, "started");
        }
        Ok(child)
    }

    async fn end(&self, child: &mut Child) -> anyhow::Result<()> {
        if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid as i32)) {
            // It may have ended by itself since.
            let _ = kill_process(pid, Signal::TERM);
        }
        if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
            warn!(name = self.name, "killed: it did not end within the grace period");
            child.kill().await?;
        }
        fs::remove_file(self.pid_file())?;
        Ok(())
    }

    /// Whether this process runs the program. The number may belong to another one by now: only one with our arguments is
    /// ours. One that has ended and that nobody waited for has no arguments any longer.
    fn is_run_by(&self, pid: Pid) -> bool {
        let command_line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&command_line).replace('\0', " ").contains(&self.arguments.join(" "))
    }

    /// Ends the child of a supervisor that was killed.
    async fn end_leftover(&self) -> anyhow::Result<()> {
        let Some(pid) = fs::read_to_string(self.pid_file()).ok().and_then(|text| text.trim().parse().ok()) else {
            return Ok(());
        };
        let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
        if !self.is_run_by(pid) {
            return Ok(());
        }
        info!(name = self.name, %pid, "ending the child of an earlier supervisor");
        let _ = kill_process(pid, Signal::TERM);
        let begin = std::time::Instant::now();
        while self.is_run_by(pid) {
            if begin.elapsed() > GRACE {
                let _ = kill_process(pid, Signal::KILL);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Refuses a server of another version: the bus relies on what was measured with this one.
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

/// A nats-server with the configuration `nats.conf` of a folder.
pub fn nats_server(path: &Path, folder: &Path) -> Program {
    Program {
        name: "nats-server".to_owned(),
        path: path.to_owned(),
        arguments: vec!["--config".to_owned(), folder.join("nats.conf").display().to_string()],
        folder: folder.to_owned(),
    }
}
