//! How far a mirror is behind while orders come steadily: `mirror_behind_ms`.
//!
//! Hub and services are real processes; the remote is a bare repository on this machine, to which stock git pushes as to any other.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use end_to_end::{Application, Platform, SiteLayout, sample};
use tempfile::TempDir;
use tokio::{
    process::Command,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    Effort, Samples,
    order::milliseconds,
    platform,
    rest::{Rest, Targets, Wish},
};

/// No site is a process.
const NOBODY: &[SiteLayout] = &[];

/// Orders a second. Each is a commit in `fleet.git` and one in the repository of the client.
const RATE: u32 = 100;

/// Orders that wait for their answer at most: a token has a limit, and a moment's pause must not end the measurement.
const IN_WORK: usize = 32;

/// How long the mirror may take from the last order on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at both repositories.
const LOOK: Duration = Duration::from_millis(5);

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let mut running = Platform::start(NOBODY, Application::Nothing).await;
    let rest = Rest::of(&running);
    running.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
    rest.add_site("plant", &identity::nats::generate().1).await?;
    rest.add_node("plant/n", &identity::nats::generate().1).await?;
    let folder = TempDir::new().context("a folder for the mirror")?;
    platform::run(Command::new("git").args(["init", "--quiet", "--bare"]).arg(folder.path())).await?;
    let settings = running.hub().join("hub.toml");
    let text = fs::read_to_string(&settings).context("the settings of the hub")?;
    let url = folder.path().display();
    let mirrors = format!("\n[[mirrors]]\nname = \"backup\"\nurl = \"file://{url}\"\nlayout = \"one\"\n");
    fs::write(&settings, text + &mirrors).context("the settings of the hub")?;
    running.kill("git-writer");
    running.run("git-writer");

    let ours = running.hub().join("repositories/default/fleet.git/refs/heads/main");
    let theirs = folder.path().join("refs/heads/fleet");
    let orders = effort.of(50, 20 * RATE as usize, 60 * RATE as usize);
    let giving = tokio::spawn(give(rest, orders));
    let mut samples = Samples::new("mirror_behind_ms");
    // The tips that the mirror lacks, and since when.
    let (mut lacked, mut newest): (VecDeque<(String, Instant)>, _) = (VecDeque::new(), String::new());
    let (mut all_given, mut known) = (None, BTreeSet::new());
    loop {
        if let Some(tip) = tip(&ours)?
            && tip != newest
        {
            lacked.push_back((tip.clone(), Instant::now()));
            newest = tip;
        }
        if let Some(there) = tip(&theirs)?
            && known.insert(there.clone())
            && let Some(at) = lacked.iter().position(|(tip, _)| *tip == there)
        {
            samples.values.extend(lacked.drain(..=at).map(|(_, since)| milliseconds(since.elapsed())));
        }
        if giving.is_finished() {
            let since = all_given.get_or_insert_with(Instant::now).elapsed();
            if lacked.is_empty() && since > Duration::from_secs(1) {
                break;
            }
            ensure!(since < PATIENCE, "the mirror lacks {} tips after {since:?}", lacked.len());
        }
        sleep(LOOK).await;
    }
    giving.await.context("giving orders")??;
    Ok(vec![samples])
}

/// Gives orders steadily, whatever becomes of those before.
async fn give(rest: Rest, orders: usize) -> anyhow::Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut given = JoinSet::new();
    for number in 0..orders {
        ticks.tick().await;
        let rest = rest.clone();
        given.spawn(async move {
            let targets = Targets::Nodes(vec!["plant/n".to_owned()]);
            let wish = Wish { app: "hello".to_owned(), greeting: number.to_string(), targets };
            rest.create(&format!("hello-{number}"), &wish).await
        });
        while given.len() >= IN_WORK
            && let Some(ended) = given.join_next().await
        {
            ended.context("giving an order")??;
        }
    }
    while let Some(ended) = given.join_next().await {
        ended.context("giving an order")??;
    }
    Ok(())
}

/// The commit that a branch names.
fn tip(reference: &Path) -> anyhow::Result<Option<String>> {
    let text = disk::read_optional(reference).context("reading a branch")?;
    Ok(text
        .and_then(|text| String::from_utf8(text).ok())
        .map(|text| text.trim().to_owned())
        .filter(|it| !it.is_empty()))
}
