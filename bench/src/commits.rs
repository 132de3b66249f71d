//! Orders as git-writer commits them, without the platform around it: `signed_orders_per_second…`, what they take on the disk
//! and in memory.
//!
//! An order is one signed commit in `fleet.git` and one, with a signed head, in the repository of a client. A process of its
//! own drives git-writer's store, so that its memory can be measured. The reference is `git fast-import` of the same commits into
//! copies of the same repositories, two processes at a time, and one `sync`. fast-import refuses signatures, so its commits
//! have none.

pub mod child;
mod kept;
mod order;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{process::Command, task::JoinSet};

use crate::{Effort, Samples, machine, platform};

/// How many processes import at a time, in the reference.
const IMPORTS: usize = 2;

/// What is measured of so many orders over so many clients.
#[derive(Clone, Copy)]
struct Case {
    orders: usize,
    clients: usize,
    /// How many orders are committed together: two rows each.
    group: usize,
    rate: &'static str,
    kilobytes: Option<&'static str>,
    memory: Option<&'static str>,
    /// Whether `fleet.git` is looked after in the end, and read.
    kept: bool,
}

impl Case {
    /// Whether one of its figures is wanted.
    fn is_among(&self, wanted: &BTreeSet<&'static str>) -> bool {
        let own = [Some(self.rate), self.kilobytes, self.memory];
        let of_kept = kept::FIGURES.iter().copied().filter(|_| self.kept);
        own.into_iter().flatten().chain(of_kept).any(|name| wanted.contains(name))
    }
}

const fn case(orders: usize, clients: usize, rate: &'static str) -> Case {
    let group = if clients < 1_000 { 500 } else { git_writer::MAX_ROWS / 2 };
    Case { orders, clients, group, rate, kilobytes: None, memory: None, kept: false }
}

const TEN_THOUSAND: [Case; 3] = [
    case(10_000, 1, "signed_orders_per_second_10k_1"),
    case(10_000, 10, "signed_orders_per_second_10k_10"),
    Case {
        kilobytes: Some("git_kb_per_order_10k_1000"),
        memory: Some("git_writer_memory_1000_mib"),
        ..case(10_000, 1_000, "signed_orders_per_second_10k_1000")
    },
];

const HUNDRED_THOUSAND: [Case; 3] = [
    Case {
        kilobytes: Some("git_kb_per_order_1"),
        memory: Some("git_writer_memory_mib"),
        ..case(100_000, 1, "signed_orders_per_second_100k_1")
    },
    Case {
        kilobytes: Some("git_kb_per_order_10"),
        kept: true,
        ..case(100_000, 10, "signed_orders_per_second_100k_10")
    },
    Case {
        kilobytes: Some("git_kb_per_order_1000"),
        memory: Some("git_writer_memory_100k_1000_mib"),
        ..case(100_000, 1_000, "signed_orders_per_second_100k_1000")
    },
];

/// What the process tells that has committed the orders.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    /// How long all took.
    seconds: f64,
    /// Orders a second, of each tenth of them.
    windows: Vec<f64>,
    /// The memory that it takes when all is done, and the most that it has taken.
    resident_mib: f64,
    most_resident_mib: f64,
}

/// The figures at ten thousand orders.
pub async fn ten_thousand(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    Ok(measure(&TEN_THOUSAND, effort).await?.0)
}

/// The figures at a hundred thousand orders, and the worst of all; without those of all, only the cases that are wanted.
pub async fn all(effort: Effort, wanted: &BTreeSet<&'static str>) -> anyhow::Result<Vec<Samples>> {
    if !["signed_orders_per_second", "signed_orders_last_window_percent"].iter().any(|name| wanted.contains(name)) {
        let cases: Vec<_> = HUNDRED_THOUSAND.into_iter().filter(|case| case.is_among(wanted)).collect();
        return Ok(measure(&cases, effort).await?.0);
    }
    let (few, mut last) = measure(&TEN_THOUSAND, effort).await?;
    let (mut samples, last_of_many) = measure(&HUNDRED_THOUSAND, effort).await?;
    last.extend(last_of_many);
    let rates = few.iter().chain(&samples).filter(|samples| samples.name.starts_with("signed_orders_per_second_"));
    let ratio = |samples: &Samples| samples.values[0] / samples.references[0];
    let worst = rates.min_by(|a, b| f64::total_cmp(&ratio(a), &ratio(b))).context("there are cases")?.clone();
    samples.push(Samples { name: "signed_orders_per_second", ..worst });
    let slowest = last.into_iter().min_by(f64::total_cmp).context("there are cases")?;
    samples.push(one("signed_orders_last_window_percent", slowest));
    Ok(samples)
}

/// Measures these cases. Also returns, of each, the rate of the last tenth in percent of the first.
async fn measure(cases: &[Case], effort: Effort) -> anyhow::Result<(Vec<Samples>, Vec<f64>)> {
    let (mut samples, mut last) = (Vec::new(), Vec::new());
    for case in cases {
        let case = Case { orders: effort.of(case.orders / 50, case.orders, case.orders), ..*case };
        let folder = TempDir::new().context("a folder for the repositories")?;
        let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
        child(&case, &ours, true).await?;
        platform::run(Command::new("cp").args(["-r", "--"]).arg(&ours).arg(&theirs)).await?;
        machine::sync().await?;
        let told = child(&case, &ours, false).await?;
        let kilobytes = kilobytes(&ours).await?;
        let reference = import(&case, &ours, &theirs).await?;
        let rate = case.orders as f64 / told.seconds;
        let (first, end) = (told.windows[0], told.windows[told.windows.len() - 1]);
        println!(
            "{} orders, {} clients: {rate:.0}/s, first window {first:.0}/s, last {end:.0}/s, all {:.0?}; fast-import {reference:.0}/s; \
             {:.1} KB an order; {:.0} MiB resident, at most {:.0}",
            case.orders,
            case.clients,
            told.windows,
            kilobytes / case.orders as f64,
            told.resident_mib,
            told.most_resident_mib
        );
        samples.push(Samples { references: vec![reference], ..one(case.rate, rate) });
        samples.extend(case.kilobytes.map(|name| one(name, kilobytes / case.orders as f64)));
        samples.extend(case.memory.map(|name| one(name, told.most_resident_mib)));
        last.push(100.0 * end / first);
        if case.kept {
            samples.extend(kept::measure(&ours.join("default/fleet.git"), case.orders).await?);
        }
    }
    Ok((samples, last))
}

fn one(name: &'static str, value: f64) -> Samples {
    Samples { values: vec![value], ..Samples::new(name) }
}

/// Runs the process that makes the repositories, each with one commit, or commits the orders in them.
async fn child(case: &Case, folder: &Path, make: bool) -> anyhow::Result<Told> {
    let program = std::env::current_exe().context("asking for the path of this program")?;
    let mut command = Command::new(program);
    command.arg("commits").arg("--folder").arg(folder);
    for (name, value) in [("--orders", case.orders), ("--clients", case.clients), ("--group", case.group)] {
        command.arg(name).arg(value.to_string());
    }
    command.args(make.then_some("--make"));
    let told = platform::run(&mut command).await?;
    serde_json::from_str(&told).context("what the process told")
}

/// What the repositories take on the disk, without the journal, which is empty when all is done.
async fn kilobytes(folder: &Path) -> anyhow::Result<f64> {
    let told = platform::run(Command::new("du").args(["-sk", "--"]).arg(folder)).await?;
    let number = told.split_whitespace().next().context("du has told a number")?;
    number.parse().context("what du has told")
}

/// Imports the commits of the orders into copies of the repositories without them. Returns orders a second.
async fn import(case: &Case, ours: &Path, theirs: &Path) -> anyhow::Result<f64> {
    let mut repositories = vec![("fleet.git".to_owned(), "main")];
    repositories.extend((0..case.clients).map(|client| (format!("clients/{}.git", order::client(client)), "desired")));
    let streams = TempDir::new().context("a folder for what is imported")?;
    let mut imports = Vec::new();
    for (number, (name, branch)) in repositories.iter().enumerate() {
        let [ours, theirs] = [ours, theirs].map(|folder| folder.join("default").join(name));
        let before = platform::run(git(&theirs).args(["rev-parse", branch])).await?;
        let range = format!("{}..{branch}", before.trim());
        let stream = streams.path().join(number.to_string());
        let file = std::fs::File::create(&stream).with_context(|| format!("making {}", stream.display()))?;
        let mut export = git(&ours);
        export.args(["fast-export", "--reference-excluded-parents", &range]).stdout(file);
        let status = export.status().await.context("running git")?;
        ensure!(status.success(), "git fast-export of {name} failed");
        imports.push((theirs, stream));
    }
    machine::sync().await?;
    let begin = Instant::now();
    let mut running = JoinSet::new();
    for (repository, stream) in imports {
        if running.len() == IMPORTS
            && let Some(ended) = running.join_next().await
        {
            ended.context("waiting for an import")??;
        }
        running.spawn(import_one(repository, stream));
    }
    while let Some(ended) = running.join_next().await {
        ended.context("waiting for an import")??;
    }
    machine::sync().await?;
    Ok(case.orders as f64 / begin.elapsed().as_secs_f64())
}

async fn import_one(repository: PathBuf, stream: PathBuf) -> anyhow::Result<()> {
    let stream = std::fs::File::open(&stream).with_context(|| format!("opening {}", stream.display()))?;
    platform::run(git(&repository).args(["fast-import", "--quiet"]).stdin(Stdio::from(stream))).await.map(drop)
}

/// Git, in a repository.
fn git(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository);
    command
}
