//! Orders made durable in signed commits, and what a hub with many of them costs: `orders_per_second_…`,
//! `hub_memory_10k_orders_mib` and `start_10k_orders_ms`, which share their platforms.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use end_to_end::Platform;
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};

use crate::{
    Effort, Samples, machine, platform,
    rest::{Rest, Targets, Wish, by_clients},
    start::Existing,
};

/// Clients that give orders at the same time; each waits for its answer before it gives the next.
const CLIENTS: usize = 16;

/// The orders deploy to these many nodes, each its own share. They have no agent: what is measured ends in Git.
const NODES: usize = 100;

/// From the last 202 to the last commit.
const PATIENCE: Duration = Duration::from_secs(300);

/// The figures of this file that need a platform with ten thousand orders.
const LATE: [&str; 3] = ["orders_per_second_10k", "hub_memory_10k_orders_mib", "start_10k_orders_ms"];

pub async fn measure(effort: Effort, wanted: &BTreeSet<&'static str>) -> anyhow::Result<Vec<Samples>> {
    let both = wanted.contains("orders_per_second");
    let early = both || wanted.contains("orders_per_second_2k");
    let late = both || LATE.iter().any(|name| wanted.contains(name));
    let batch = effort.of(100, 2_000, 2_000);
    let mut at_2k = Samples::new("orders_per_second_2k");
    let mut results = Vec::new();

    // The platform of ten thousand orders begins with another run of these.
    let stages = if late { effort.of(1, 1, 3) } else { effort.of(1, 2, 4) };
    for _ in 0..if early { stages } else { 0 } {
        let mut stage = Stage::set().await?;
        stage.run(batch, &mut at_2k).await?;
    }
    if late {
        let mut stage = Stage::set().await?;
        let hub = platform::hub_processes(&mut stage.platform);
        let mut memory = Samples::new("hub_memory_10k_orders_mib");
        memory.references.push(machine::pss_mib(&hub)?);
        stage.run(batch, &mut at_2k).await?;
        let total = effort.of(300, 10_000, 10_000);
        stage.give(total - stage.given).await?;
        for _ in 0..5 {
            memory.values.push(machine::pss_mib(&hub)?);
            sleep(Duration::from_millis(500)).await;
        }
        let mut at_10k = Samples::new("orders_per_second_10k");
        if both || wanted.contains(&"orders_per_second_10k") {
            for _ in 0..effort.of(1, 3, 5) {
                stage.run(effort.of(100, 200, 1_000), &mut at_10k).await?;
            }
        }
        results.push(memory);
        results.push(at_10k);
        if wanted.contains("start_10k_orders_ms") {
            let Stage { mut platform, .. } = stage;
            let address = platform::address(&platform)?;
            platform::stop(&mut platform).await;
            let existing = Existing::of_stopped(&platform, address)?;
            let mut start = Samples::new("start_10k_orders_ms");
            existing.measure(&mut start, effort.of(1, 5, 15)).await?;
            results.push(start);
        }
    }
    results.push(at_2k);
    if both {
        let worse = results
            .iter()
            .filter(|samples| samples.name.starts_with("orders_per_second_") && !samples.values.is_empty())
            .min_by(|a, b| f64::total_cmp(&a.median(), &b.median()))
            .context("one of both was measured")?;
        results.push(Samples { name: "orders_per_second", ..worse.clone() });
    }
    Ok(results)
}

/// A platform that takes orders, and how many it has taken.
struct Stage {
    platform: Platform,
    rest: Rest,
    processes: Vec<u32>,
    given: usize,
    /// Copies of the two repositories, for the reference.
    copies: TempDir,
}

/// The repositories that an order is committed in, and their branches.
const REPOSITORIES: [(&str, &str); 2] = [("fleet.git", "main"), ("clients/plant.git", "desired")];

/// How stock Git sends what the copies lack: without a search for deltas, which takes a minute at ten thousand orders.
const SEND: &str = "git -c pack.window=0 upload-pack";

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let mut platform = Platform::with_sample(None).await;
        let rest = Rest::of(&platform);
        let nodes = rest.clone();
        by_clients(8, NODES, move |number| {
            let rest = nodes.clone();
            async move { rest.add_node(&node(number), &identity::nats::generate().1).await }
        })
        .await?;
        let processes = platform::all_processes(&mut platform);
        machine::rest(&processes).await?;
        let copies = TempDir::new().context("a folder for copies of the repositories")?;
        for (repository, branch) in REPOSITORIES {
            let copy = copies.path().join(repository.replace('/', "-"));
            let mut init = git(copies.path());
            platform::run(init.args(["init", "--quiet", "--bare", "--initial-branch", branch]).arg(copy)).await?;
        }
        Ok(Self { platform, rest, processes, given: 0, copies })
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.platform.hub().join("repositories/default").join(name)
    }

    /// Gives orders and waits until both repositories hold them. Gives the time from the first request on.
    async fn give(&mut self, count: usize) -> anyhow::Result<Duration> {
        let mut before = Vec::new();
        for (repository, branch) in REPOSITORIES {
            before.push(handled(&self.repository(repository), branch).await?);
        }
        let (rest, first) = (self.rest.clone(), self.given);
        let begin = Instant::now();
        by_clients(CLIENTS, count, move |number| {
            let (rest, number) = (rest.clone(), first + number);
            let wish = Wish {
                app: "hello".to_owned(),
                greeting: format!("Order {number}"),
                targets: Targets::Nodes(vec![node(number % NODES)]),
            };
            async move { rest.create(&format!("order-{number}"), &wish).await }
        })
        .await?;
        self.given += count;
        let accepted = Instant::now();
        for ((repository, branch), before) in REPOSITORIES.into_iter().zip(before) {
            let path = self.repository(repository);
            loop {
                let now = handled(&path, branch).await?;
                if now >= before + count as u64 {
                    break;
                }
                let missing = before + count as u64 - now;
                ensure!(accepted.elapsed() < PATIENCE, "{missing} orders are not in {repository} after {PATIENCE:?}");
                sleep(Duration::from_millis(10)).await;
            }
        }
        let took = begin.elapsed();
        machine::rest(&self.processes).await?;
        Ok(took)
    }

    /// Measures so many orders, then the import of the same commits.
    async fn run(&mut self, count: usize, samples: &mut Samples) -> anyhow::Result<()> {
        let mut tips = Vec::new();
        for (repository, branch) in REPOSITORIES {
            let path = self.repository(repository);
            tips.push(platform::run(git(&path).args(["rev-parse", branch])).await?.trim().to_owned());
            // What was there before is at hand for the import, too.
            let copy = self.copies.path().join(repository.replace('/', "-"));
            let refspec = format!("+{branch}:refs/heads/before");
            platform::run(git(&copy).args(["fetch", "--quiet", "--upload-pack", SEND]).arg(&path).arg(refspec)).await?;
        }
        let took = self.give(count).await?;
        samples.values.push(count as f64 / took.as_secs_f64());
        samples.references.push(count as f64 / self.import(&tips, count).await?.as_secs_f64());
        Ok(())
    }

    /// Has stock Git import the commits since these tips, and syncs the disk once.
    async fn import(&self, tips: &[String], count: usize) -> anyhow::Result<Duration> {
        let mut exports = Vec::new();
        for ((repository, branch), tip) in REPOSITORIES.into_iter().zip(tips) {
            let path = self.repository(repository);
            let range = format!("{tip}..{branch}");
            let commits = platform::run(git(&path).args(["rev-list", "--count", &range])).await?;
            ensure!(
                commits.trim() == count.to_string(),
                "{repository} has {} new commits, not {count}",
                commits.trim()
            );
            let file = self.copies.path().join("export");
            let mut export = git(&path);
            export.args(["fast-export", "--reference-excluded-parents", &range]);
            let stream = output(&mut export).await?;
            let file = file.with_extension(branch);
            std::fs::write(&file, stream).with_context(|| format!("writing {}", file.display()))?;
            exports.push((self.copies.path().join(repository.replace('/', "-")), file));
        }
        machine::sync().await?;
        let begin = Instant::now();
        for (copy, export) in &exports {
            let stream = std::fs::File::open(export).with_context(|| format!("opening {}", export.display()))?;
            platform::run(git(copy).args(["fast-import", "--quiet", "--force"]).stdin(stream)).await?;
        }
        machine::sync().await?;
        Ok(begin.elapsed())
    }
}

fn node(number: usize) -> String {
    format!("plant/n{number}")
}

/// Git, in a repository.
fn git(repository: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository);
    command
}

/// The number of the last order that the tip of a branch has handled.
async fn handled(repository: &Path, branch: &str) -> anyhow::Result<u64> {
    let format = "--format=%(trailers:key=Handled,valueonly)";
    let trailer = platform::run(git(repository).args(["log", "-1", format, branch])).await;
    // A client without an order has no branch yet.
    Ok(trailer.map_or(0, |trailer| number_of(&trailer, "deployment-registry")))
}

/// Reads the number of one source from a list such as `app-registry=1 deployment-registry=42`. A source that the list
/// does not name has the number 0.
fn number_of(trailer: &str, source: &str) -> u64 {
    let numbers = trailer.split_whitespace().filter_map(|entry| entry.split_once('='));
    numbers.filter(|(name, _)| *name == source).find_map(|(_, number)| number.parse().ok()).unwrap_or(0)
}

/// What a program wrote, as bytes.
async fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.kill_on_drop(true).output().await.context("running git")?;
    ensure!(output.status.success(), "git failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_one_source_is_read_and_no_other() {
        assert_eq!(number_of("app-registry=1 deployment-registry=42\n", "deployment-registry"), 42);
        assert_eq!(number_of("app-registry=1\n", "deployment-registry"), 0);
        assert_eq!(number_of("", "deployment-registry"), 0);
    }
}
