//! Child processes, which are nats-servers and edge-nodes: started, restarted, and ended in order.
//!
//! A supervisor that is killed leaves its children running. Each child's process id stands in a file, by which the next
//! start ends a child that still runs before it starts a new one. So a folder never has two children of the same name.

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
        tokio::select! {
            status = child.wait() => bail!("{} ended: {}; see its logs in {}", self.name, status?, self.folder.display()),
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

    /// Whether the process with this id runs the program. The id may belong to another process by now, so its arguments have
    /// to be ours. A process that has ended has none any longer, even while nobody has waited for it.
    fn is_run_by(&self, pid: Pid) -> bool {
        let command_line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        String::from_utf8_lossy(&command_line).replace('\0', " ").contains(&self.arguments.join(" "))
    }

    /// Ends a child that a killed supervisor left running, and waits until it has ended.
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
