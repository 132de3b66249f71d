//! One order to a thousand nodes of ten sites: `deployments_per_second`.
//!
//! Hub and sites are real processes. The nodes are agents of `edge-node`'s library in this process, each with its own
//! credentials, connection and folder, and with a runtime that starts nothing.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use end_to_end::{Application, Platform, SiteLayout, sample};
use tempfile::TempDir;

use crate::{
    Effort, Samples,
    fleet::{Fleet, THREADS},
    machine, platform,
    rest::{Rest, Targets, Wish},
};

const fn site(name: &'static str) -> SiteLayout {
    SiteLayout { name, nodes: &[] }
}

/// The nodes are added later, by many clients at once.
const SITES: &[SiteLayout] = &[
    site("s0"),
    site("s1"),
    site("s2"),
    site("s3"),
    site("s4"),
    site("s5"),
    site("s6"),
    site("s7"),
    site("s8"),
    site("s9"),
];

/// The sample application and its assignment.
const APP: &str = "hello";

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let per_site = effort.of(10, 100, 100);
    let count = SITES.len() * per_site;
    let mut running = Platform::start(SITES, Application::Nothing).await;
    let rest = Rest::of(&running);
    let folder = TempDir::new().context("a folder for the agents")?;
    running.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);

    let fleet = Fleet::start(&running, &rest, folder.path(), SITES, per_site).await?;
    fleet.known(&rest, count).await?;
    let sites = SITES.iter().map(|site| site.name.to_owned()).collect();
    let mut wish = Wish { app: APP.to_owned(), greeting: "First".to_owned(), targets: Targets::Sites(sites) };
    // The first order has every node fetch the artifact; it is not counted.
    rest.create(APP, &wish).await?;
    fleet.carried_out(&rest, APP, count).await?;

    let processes = platform::all_processes(&mut running);
    let mut samples = Samples::new("deployments_per_second");
    for run in 0..effort.of(2, 5, 15) {
        machine::rest_beside(&processes, count).await?;
        wish.greeting = format!("Order {run}");
        let (etag, _) = rest.etag(APP).await?;
        let begin = Instant::now();
        let started = fleet.starts();
        rest.update(APP, &etag, &wish).await?;
        fleet.carried_out(&rest, APP, started + count).await?;
        samples.values.push(count as f64 / begin.elapsed().as_secs_f64());
        machine::rest_beside(&processes, count).await?;
        samples.references.push(count as f64 / write_durably(folder.path(), count).await?.as_secs_f64());
    }
    fleet.stop().await?;
    Ok(vec![samples])
}

/// Replaces as many files durably as there are nodes, by as many threads as the agents have: what this machine's disk
/// could give.
async fn write_durably(folder: &Path, count: usize) -> anyhow::Result<Duration> {
    let folder = folder.join("reference");
    tokio::task::spawn_blocking(move || {
        let write = |number: usize| -> std::io::Result<()> {
            let own = folder.join(number.to_string());
            fs::create_dir_all(&own)?;
            let (next, path) = (own.join("next"), own.join("file"));
            let mut file = File::create(&next)?;
            file.write_all(&[b'x'; 2048])?;
            file.sync_all()?;
            fs::rename(next, path)?;
            File::open(own)?.sync_all()
        };
        let begin = Instant::now();
        let write = &write;
        std::thread::scope(|scope| {
            let threads = (0..THREADS)
                .map(|thread| scope.spawn(move || (thread..count).step_by(THREADS).try_for_each(write)))
                .collect::<Vec<_>>();
            threads.into_iter().try_for_each(|thread| thread.join().expect("writing files does not panic"))
        })
        .context("writing files durably")?;
        Ok(begin.elapsed())
    })
    .await
    .context("writing files durably")?
}
