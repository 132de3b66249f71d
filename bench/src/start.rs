//! `edgewright up` on existing data until both nodes answer: `start_ms`, and the same for data with many orders.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use end_to_end::{Platform, Process, after, kill_runners, last_lines, program, sample};
use rustix::process::Signal;
use tempfile::TempDir;
use testkit::{loopback, nats_server_binary};
use tokio::time::sleep;

use crate::{
    Effort, Samples,
    order::milliseconds,
    platform::NODES,
    watch::{first_answer, first_word, last_of},
};

/// How long a start may take, also on much data.
const PATIENCE: Duration = Duration::from_secs(120);

/// What `up` writes when it has nothing left to do.
const READY: &str = "Everything runs";

/// Folders from which `edgewright up` starts.
pub struct Existing {
    folder: TempDir,
    address: Ipv4Addr,
}

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let existing = Existing { folder: TempDir::new().context("a folder for `up`")?, address: loopback() };
    // Makes the data.
    existing.start().await?;
    let mut samples = Samples::new("start_ms");
    existing.measure(&mut samples, effort.of(2, 15, 40)).await?;
    Ok(vec![samples])
}

impl Existing {
    /// The folders of a platform that was stopped, put where `up` looks for them.
    pub fn of_stopped(platform: &Platform, address: Ipv4Addr) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("a folder for `up`")?;
        let data = folder.path().join("data");
        let put = |from: &Path, to: PathBuf| {
            let parent = to.parent().context("a target has a folder")?;
            fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
            fs::rename(from, &to).with_context(|| format!("moving {} to {}", from.display(), to.display()))
        };
        put(&platform.hub(), data.clone())?;
        put(&platform.site("plant"), data.join("sites/plant"))?;
        for node in NODES {
            let own = data.join("nodes/plant").join(node);
            put(&platform.node(node), own.join("data"))?;
            put(&platform.node(node).with_extension("toml"), own.join("credentials.toml"))?;
            // What it says of running workloads names the folders of before; the agent makes it anew.
            let workloads = own.join("data/wasm/workloads");
            fs::remove_dir_all(&workloads).with_context(|| format!("removing {}", workloads.display()))?;
        }
        Ok(Self { folder, address })
    }

    /// Measures starts and stops, after one that is not counted: it puts right what moving has changed.
    pub async fn measure(&self, samples: &mut Samples, runs: usize) -> anyhow::Result<()> {
        // The servers' own files name where they were, until `up` has put that right.
        self.start().await?;
        for _ in 0..runs {
            samples.references.push(self.start_servers().await?);
            samples.values.push(self.start().await?);
        }
        Ok(())
    }

    /// Milliseconds from the start of `up` to the answer of the slower node. Ends it again.
    async fn start(&self) -> anyhow::Result<f64> {
        let mut command = Command::new(program("edgewright"));
        command
            .args(["--log", "error", "up", "--host", &self.address.to_string(), "--data"])
            .arg(self.data())
            .args(["--sample", &sample().display().to_string()])
            .env("EDGEWRIGHT_NATS_SERVER", nats_server_binary());
        let log = self.folder.path().join("up.log");
        // It would hold the word of an earlier start.
        let _ = fs::remove_file(&log);
        let watchers =
            [1, 2].map(|offset| first_answer(after(self.address, offset), "from Edgewright", None, PATIENCE));
        let begin = Instant::now();
        let mut up = Process::start("up", self.folder.path(), &mut command);
        let took = last_of(watchers.into()).await.with_context(|| last_lines(&log))? - begin;
        while !up.log().contains(READY) {
            ensure!(begin.elapsed() < PATIENCE, "`up` was not done within {PATIENCE:?}:\n{}", last_lines(&log));
            sleep(Duration::from_millis(20)).await;
        }
        up.signal(Signal::TERM);
        let status = up.ended().await;
        ensure!(status.success(), "`up` ended with {status}:\n{}", last_lines(&log));
        Ok(milliseconds(took))
    }

    /// Milliseconds until the two NATS servers alone answer, on the same data.
    async fn start_servers(&self) -> anyhow::Result<f64> {
        let folders = [self.data().join("nats"), self.data().join("sites/plant/nats")];
        let ports = [4222, 4323];
        let watchers = ports.map(|port| first_word(SocketAddr::from((self.address, port)), PATIENCE));
        let begin = Instant::now();
        let mut servers = folders.each_ref().map(|folder| {
            let mut command = Command::new(nats_server_binary());
            Process::start("servers", self.folder.path(), command.arg("--config").arg(folder.join("nats.conf")))
        });
        let took = last_of(watchers.into()).await? - begin;
        for server in &mut servers {
            server.signal(Signal::TERM);
            server.ended().await;
        }
        Ok(milliseconds(took))
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }
}

impl Drop for Existing {
    fn drop(&mut self) {
        // A start that failed may have left workloads; servers and agents end with their supervisor's next start, or here.
        kill_runners(self.folder.path());
        crate::platform::kill_users_of(self.folder.path());
    }
}
