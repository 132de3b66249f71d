//! What a repository with many commits costs its readers, once git-writer has looked after it.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use git_state::layout;
use tokio::{io::AsyncWriteExt, process::Command};

use super::{git, one, order};
use crate::{Samples, order::milliseconds, platform};

/// What is measured here.
pub const FIGURES: [&str; 3] = ["git_log_path_ms", "git_fetch_ms", "git_kept_mb"];

/// How many files' histories are read, and how often the newest commit is fetched.
const LOGS: usize = 100;
const FETCHES: usize = 50;

/// Looks after `fleet.git`, in which each of so many orders has put an assignment, and reads it.
pub async fn measure(fleet: &Path, orders: usize) -> anyhow::Result<Vec<Samples>> {
    let aggressive = fleet.with_extension("aggressive");
    platform::run(Command::new("cp").args(["-r", "--"]).arg(fleet).arg(&aggressive)).await?;
    let begin = Instant::now();
    git_writer::gather(fleet).await?;
    let gathered = begin.elapsed();
    platform::run(git(&aggressive).args(["gc", "--quiet", "--aggressive", "--prune=now"])).await?;
    let [kept, reference] = [megabytes(fleet).await?, megabytes(&aggressive).await?];
    println!(
        "{orders} orders in fleet.git: {kept:.1} MB, looked after in {gathered:.1?}; {reference:.1} MB by gc --aggressive"
    );

    let mut logs = Samples::new("git_log_path_ms");
    for number in (0..orders).step_by((orders / LOGS).max(1)) {
        let path = layout::assignment(&order::name(number));
        for (settings, times) in
            [(&["core.commitGraph=true"], &mut logs.values), (&["core.commitGraph=false"], &mut logs.references)]
        {
            let mut log = Command::new("git");
            log.args(settings.iter().flat_map(|setting| ["-c", setting])).arg("-C").arg(fleet);
            log.args(["log", "--format=%H", "main", "--", &path]);
            let begin = Instant::now();
            let found = platform::run(&mut log).await?;
            times.push(milliseconds(begin.elapsed()));
            ensure!(found.lines().count() == 1, "{path} has another history: {found}");
        }
    }

    let [newest, before] = [tip(fleet, "main").await?, tip(fleet, "main~1").await?];
    let wants = [
        line("command=fetch"),
        "0001".to_owned(),
        line("thin-pack"),
        line("ofs-delta"),
        line(&format!("want {newest}")),
    ]
    .concat();
    let wants = wants + &line(&format!("have {before}")) + &line("done") + "0000";
    let refs = [line("command=ls-refs"), "0001".to_owned(), line("peel"), "0000".to_owned()].concat();
    let mut fetches = Samples::new("git_fetch_ms");
    for _ in 0..FETCHES {
        let (took, answer) = served(fleet, &wants).await?;
        ensure!(answer.windows(4).any(|window| window == b"PACK"), "there is no pack in the answer");
        fetches.values.push(milliseconds(took));
        fetches.references.push(milliseconds(served(fleet, &refs).await?.0));
    }
    Ok(vec![Samples { references: vec![reference], ..one("git_kept_mb", kept) }, logs, fetches])
}

/// What `git upload-pack` answers, as git-writer runs it, and how long that takes.
async fn served(repository: &Path, request: &str) -> anyhow::Result<(Duration, Vec<u8>)> {
    let mut command = Command::new("git");
    command.args(["-c", "pack.threads=1", "upload-pack", "--strict", "--stateless-rpc"]).arg(repository);
    command.env("GIT_PROTOCOL", "version=2").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let begin = Instant::now();
    let mut child = command.spawn().context("running git")?;
    child.stdin.take().context("its input")?.write_all(request.as_bytes()).await.context("asking git")?;
    let output = child.wait_with_output().await.context("waiting for git")?;
    ensure!(output.status.success(), "git upload-pack failed");
    Ok((begin.elapsed(), output.stdout))
}

/// A line of git's protocol.
fn line(text: &str) -> String {
    format!("{:04x}{text}\n", text.len() + 5)
}

async fn tip(repository: &Path, name: &str) -> anyhow::Result<String> {
    Ok(platform::run(git(repository).args(["rev-parse", name])).await?.trim().to_owned())
}

async fn megabytes(repository: &Path) -> anyhow::Result<f64> {
    let told = platform::run(Command::new("du").args(["-sb", "--"]).arg(repository.join("objects"))).await?;
    let bytes: f64 = told.split_whitespace().next().context("du has told a number")?.parse()?;
    Ok(bytes / 1e6)
}
