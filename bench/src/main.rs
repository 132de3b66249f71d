//! `make bench`: measures the platform as a whole, each figure beside a reference in the same run.
//!
//! ```text
//! bench run [--only NAME]…    measures, writes bench/results.json and docs/performance.md, prints a table
//! bench report                writes docs/performance.md from what was measured
//! bench commits …             is the process that `run` starts to have git-writer's part measured
//! ```
//!
//! A group of figures shares its platform, which runs on loopback addresses and in folders of its own and ends with the
//! group. A group that fails or takes too long is named, the others go on, and the program ends with an error. One that needs
//! what this machine does not have is named as not run.

#![allow(clippy::disallowed_methods, reason = "it measures what ships, and does not ship")]

mod catalogue;
mod commit_to_site;
mod commits;
mod containers;
mod dead;
mod deployments;
mod figure;
mod fleet;
mod folder;
mod idle;
mod instances;
mod machine;
mod memory;
mod mirror;
mod order;
mod orders;
mod platform;
mod report;
mod reports;
mod rest;
mod start;
mod storms;
mod watch;

use std::{
    any::Any,
    collections::BTreeSet,
    ffi::OsString,
    fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand, ValueEnum};
use futures::FutureExt;
use testkit::NotRun;
use tokio_util::sync::CancellationToken;

use crate::figure::Figure;

/// Measures Edgewright as a whole.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The folder of the project, in which `bench/` and `docs/` lie.
    #[arg(long, default_value = ".", global = true)]
    project: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and write results and report.
    Run {
        /// Only these figures; the results of the others stay. An empty name means all.
        #[arg(long)]
        only: Vec<String>,
        /// How many runs each figure gets.
        #[arg(long, default_value = "usual")]
        effort: Effort,
        /// The folder in which the data of this run lies; otherwise, and where it is empty, it lies beside the programs.
        #[arg(long)]
        data: Option<OsString>,
    },
    /// Write docs/performance.md from bench/before.json and bench/results.json.
    Report,
    #[command(hide = true)]
    Commits(commits::child::Arguments),
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Effort {
    /// Small numbers, to see whether everything works. Nothing is written.
    Trial,
    /// Everything within 15 minutes.
    Usual,
    /// The same with more runs, and storms, in about an hour.
    Long,
}

impl Effort {
    fn of(self, trial: usize, usual: usize, long: usize) -> usize {
        match self {
            Self::Trial => trial,
            Self::Usual => usual,
            Self::Long => long,
        }
    }
}

/// The runs of one figure.
#[derive(Clone)]
struct Samples {
    /// A name of the catalogue.
    name: &'static str,
    values: Vec<f64>,
    references: Vec<f64>,
}

impl Samples {
    fn new(name: &'static str) -> Self {
        Self { name, values: Vec::new(), references: Vec::new() }
    }

    /// The median, or zero when nothing was measured.
    fn median(&self) -> f64 {
        figure::median(&self.values).unwrap_or_default()
    }
}

type Measured<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<Samples>>> + 'a>>;

/// Figures that are measured together.
struct Group {
    figures: &'static [&'static str],
    /// How long they may take together with the usual effort.
    limit: Duration,
    /// Whether it is measured only by the long effort, or when it is asked for by name.
    long: bool,
    measure: for<'a> fn(Effort, &'a BTreeSet<&'static str>) -> Measured<'a>,
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const GROUPS: [Group; 18] = [
    Group {
        figures: &["order_to_wasm_ms", "accepted_ms"],
        limit: minutes(3),
        long: false,
        measure: |effort, _| Box::pin(order::measure(effort)),
    },
    Group {
        figures: &["order_to_compose_ms", "dead_container_back_ms", "removed_container_back_ms"],
        limit: minutes(5),
        long: false,
        measure: |effort, wanted| Box::pin(containers::measure(effort, wanted)),
    },
    Group {
        figures: &["commit_to_site_ms"],
        limit: minutes(3),
        long: false,
        measure: |effort, _| Box::pin(commit_to_site::measure(effort)),
    },
    Group {
        figures: &["start_ms"],
        limit: minutes(3),
        long: false,
        measure: |effort, _| Box::pin(start::measure(effort)),
    },
    Group {
        figures: &["dead_workload_back_ms"],
        limit: minutes(4),
        long: false,
        measure: |effort, _| Box::pin(dead::measure(effort)),
    },
    Group {
        figures: &["wasm_instantiate_us"],
        limit: minutes(3),
        long: false,
        measure: |effort, _| Box::pin(instances::measure(effort)),
    },
    Group {
        figures: &["edge_node_pss_mib", "edge_node_pss_100_mib", "wasm_workload_pss_mib"],
        limit: minutes(4),
        long: false,
        measure: |effort, _| Box::pin(memory::measure(effort)),
    },
    Group {
        figures: &["edge_node_pss_docker_mib"],
        limit: minutes(2),
        long: false,
        measure: |effort, _| Box::pin(memory::with_docker(effort)),
    },
    Group {
        figures: &["idle_cpu_percent_hub", "idle_cpu_percent_site", "idle_cpu_percent_node"],
        limit: minutes(4),
        long: false,
        measure: |effort, _| Box::pin(idle::measure(effort)),
    },
    Group {
        figures: &["reports_per_second"],
        limit: minutes(3),
        long: false,
        measure: |effort, _| Box::pin(reports::measure(effort)),
    },
    Group {
        figures: &["flooded_report_p99_ms"],
        limit: minutes(3),
        long: false,
        measure: |effort, _| Box::pin(reports::flooded(effort)),
    },
    Group {
        figures: &["deployments_per_second"],
        limit: minutes(5),
        long: false,
        measure: |effort, _| Box::pin(deployments::measure(effort)),
    },
    Group {
        figures: &[
            "orders_per_second",
            "orders_per_second_2k",
            "orders_per_second_10k",
            "hub_memory_10k_orders_mib",
            "start_10k_orders_ms",
        ],
        limit: minutes(10),
        long: false,
        measure: |effort, wanted| Box::pin(orders::measure(effort, wanted)),
    },
    Group {
        figures: &[
            "signed_orders_per_second_10k_1",
            "signed_orders_per_second_10k_10",
            "signed_orders_per_second_10k_1000",
            "git_kb_per_order_10k_1000",
            "git_writer_memory_1000_mib",
        ],
        limit: minutes(5),
        long: false,
        measure: |effort, _| Box::pin(commits::ten_thousand(effort)),
    },
    Group {
        figures: &[
            "signed_orders_per_second",
            "signed_orders_per_second_100k_1",
            "signed_orders_per_second_100k_10",
            "signed_orders_per_second_100k_1000",
            "signed_orders_last_window_percent",
            "git_kb_per_order_1",
            "git_kb_per_order_10",
            "git_kb_per_order_1000",
            "git_writer_memory_mib",
            "git_writer_memory_100k_1000_mib",
            "git_log_path_ms",
            "git_fetch_ms",
            "git_kept_mb",
        ],
        limit: minutes(40),
        long: true,
        measure: |effort, names| Box::pin(commits::all(effort, names)),
    },
    Group {
        figures: &["mirror_behind_ms"],
        limit: minutes(4),
        long: true,
        measure: |effort, _| Box::pin(mirror::measure(effort)),
    },
    Group {
        figures: &["storm_sites_s", "change_to_sites_ms"],
        limit: minutes(5),
        long: true,
        measure: |effort, _| Box::pin(storms::of_sites(effort)),
    },
    Group {
        figures: &["storm_nodes_s"],
        limit: minutes(10),
        long: true,
        measure: |effort, _| Box::pin(storms::of_nodes(effort)),
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Report => report(&arguments.project),
        Command::Commits(arguments) => commits::child::run(arguments),
        Command::Run { only, effort, data } => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting the runtime").and_then(
                |runtime| runtime.block_on(run(&arguments.project, only, *effort, data.as_deref().map(Path::new))),
            )
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(project: &Path, only: &[String], effort: Effort, data: Option<&Path>) -> anyhow::Result<()> {
    let wanted = wanted(only)?;
    let shutdown = process::shutdown_token()?;
    let data = folder::for_this_run(data.filter(|data| !data.as_os_str().is_empty()))?;
    let disk = folder::file_system(data.path());
    // What a build has left to write would be written while the first figures wait for the disk.
    machine::sync().await?;
    let is_named = only.iter().any(|name| !name.is_empty());
    let mut failed = Vec::new();
    for group in &GROUPS {
        let names: BTreeSet<_> = group.figures.iter().copied().filter(|name| wanted.contains(name)).collect();
        if names.is_empty() || (group.long && effort == Effort::Usual && !is_named) {
            continue;
        }
        let list = names.iter().copied().collect::<Vec<_>>().join(", ");
        println!("measuring {list}");
        let begin = Instant::now();
        match attempt(group, effort, &names, &shutdown).await {
            Ok(samples) => {
                let figures = samples.iter().filter_map(|samples| {
                    let figure = Figure::new(catalogue::find(samples.name)?, &samples.values, &samples.references)?;
                    Some(Figure { disk: disk.clone(), ..figure })
                });
                let figures: Vec<_> = figures.collect();
                print!("{}in {:.0} s\n\n", report::table(&figures), begin.elapsed().as_secs_f64());
                if effort != Effort::Trial {
                    store(project, figures)?;
                }
            }
            // What this machine cannot run is no failure of what is measured.
            Err(error) if error.is::<NotRun>() => println!("not run: {list}: {error:#}\n"),
            Err(error) => {
                eprintln!("not measured: {list}: {error:#}\n");
                failed.push(list);
            }
        }
        if shutdown.is_cancelled() {
            bail!("ended by a signal; what was measured before is kept");
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("not measured: {}", failed.join(", ")) }
}

/// Keeps what one group has given, so that the end of a later one costs nothing but that one.
fn store(project: &Path, measured: Vec<Figure>) -> anyhow::Result<()> {
    let path = results(project);
    let held = if path.exists() { read(&path)? } else { Vec::new() };
    write(&path, &merge(held, measured))?;
    report(project)
}

/// Measures a group: within its limit, and so that its end, whatever the reason, ends its processes.
async fn attempt(
    group: &Group,
    effort: Effort,
    names: &BTreeSet<&'static str>,
    shutdown: &CancellationToken,
) -> anyhow::Result<Vec<Samples>> {
    let limit = group.limit * effort.of(1, 1, 4) as u32;
    let measuring = AssertUnwindSafe((group.measure)(effort, names)).catch_unwind();
    tokio::select! {
        ended = tokio::time::timeout(limit, measuring) => match ended {
            Ok(Ok(samples)) => samples,
            Ok(Err(panic)) => bail!("{}", words(&*panic)),
            Err(_) => bail!("not done within {limit:?}"),
        },
        () = shutdown.cancelled() => bail!("ended by a signal"),
    }
}

/// What a panic said: the library of the end-to-end tests fails by panics.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

/// The figures that are to be measured.
fn wanted(only: &[String]) -> anyhow::Result<BTreeSet<&'static str>> {
    let named: Vec<_> = only.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    if named.is_empty() {
        return Ok(catalogue::FIGURES.iter().map(|kind| kind.name).collect());
    }
    named
        .into_iter()
        .map(|name| match catalogue::find(name) {
            Some(kind) => Ok(kind.name),
            None => {
                let known = catalogue::FIGURES.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
                bail!("there is no figure {name:?}; there are {known}")
            }
        })
        .collect()
}

/// New figures replace those of the same name; the order is that of the catalogue.
fn merge(held: Vec<Figure>, measured: Vec<Figure>) -> Vec<Figure> {
    let figure = |name: &str| measured.iter().chain(&held).find(|figure| figure.name == name).cloned();
    catalogue::FIGURES.iter().filter_map(|kind| figure(kind.name)).collect()
}

fn results(project: &Path) -> PathBuf {
    project.join("bench/results.json")
}

/// Writes docs/performance.md from bench/results.json, compared with bench/before.json where there is one.
fn report(project: &Path) -> anyhow::Result<()> {
    let now = read(&results(project))?;
    let before = project.join("bench/before.json");
    let before = if before.exists() { read(&before)? } else { Vec::new() };
    let path = project.join("docs/performance.md");
    fs::write(&path, report::document(&before, &now)).with_context(|| format!("writing {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<Vec<Figure>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not a list of figures", path.display()))
}

fn write(path: &Path, figures: &[Figure]) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(figures).context("figures as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(name: &str, value: f64) -> Figure {
        Figure::new(catalogue::find(name).unwrap(), &[value], &[]).unwrap()
    }

    #[test]
    fn every_figure_of_the_catalogue_is_measured_by_one_group() {
        let mut measured: Vec<_> = GROUPS.iter().flat_map(|group| group.figures).copied().collect();
        let mut known: Vec<_> = catalogue::FIGURES.iter().map(|kind| kind.name).collect();
        measured.sort_unstable();
        known.sort_unstable();
        assert_eq!(measured, known);
    }

    #[test]
    fn one_figure_is_replaced_and_the_others_stay() {
        let held = vec![figure("start_ms", 1.0), figure("accepted_ms", 2.0)];
        let merged = merge(held, vec![figure("start_ms", 3.0), figure("reports_per_second", 4.0)]);
        let values: Vec<_> = merged.iter().map(|figure| (figure.name.as_str(), figure.value)).collect();
        assert_eq!(values, [("accepted_ms", 2.0), ("start_ms", 3.0), ("reports_per_second", 4.0)]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_there_are() {
        let refused = wanted(&["begin_ms".to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("\"begin_ms\"") && refused.contains("start_ms"), "{refused}");
        assert_eq!(wanted(&[String::new()]).unwrap().len(), catalogue::FIGURES.len());
        assert_eq!(wanted(&["start_ms".to_owned()]).unwrap().len(), 1);
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("results.json");
        let figures = [figure("start_ms", 1.5), figure("edge_node_pss_mib", 2.0)];
        write(&path, &figures).unwrap();
        assert_eq!(read(&path).unwrap(), figures);
        fs::write(&path, "[{}]").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("is not a list of figures"));
    }
}
