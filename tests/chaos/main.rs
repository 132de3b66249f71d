//! Everything is killed at random, again and again, while four clients order; then it is checked what became of the orders.
//!
//! `make chaos SEED=7 SECONDS=600` repeats a campaign of ten minutes; `make test` has one of a minute. From the seed follow
//! the plan of kills ([`plan`]) and the decisions of the clients ([`orders`]); how the two meet is up to the machine, so a
//! seed that failed fails again often, not always.
//!
//! The [`ledger`] holds what the clients were promised. At the end everything runs again, and the campaign waits until
//! [`check`] finds nothing wrong with the [`evidence`]. What cannot be made good, such as an order that was committed twice
//! or two runners of one workload, makes it wait in vain and is then named.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod check;
mod collect;
mod evidence;
mod git;
mod killer;
mod ledger;
mod orders;
mod plan;
mod settings;
mod watch;

use std::{fs, path::PathBuf, time::Duration};

use end_to_end::{Application, Platform, SiteLayout, random::Random, sample};
use futures::future::join_all;
use testkit::wait_for_within;
use tokio::time::Instant;

use crate::{
    check::{Finding, check},
    collect::Places,
    evidence::Witnessed,
    killer::{Chronicle, carry_out},
    ledger::{Answer, Sent},
    orders::{Client, Orderer},
    plan::plan,
    settings::Settings,
    watch::Watch,
};

const SITES: &[SiteLayout] =
    &[SiteLayout { name: "north", nodes: &["press", "oven"] }, SiteLayout { name: "south", nodes: &["kiln", "crane"] }];

/// The id of the sample application that the platform comes with.
const HELLO: &str = "hello";
/// The same under another name and on another port, so that two applications fit on one node.
const SECOND: &str = "second";

/// The ports that an application may have.
const PORTS: [u16; 2] = [8080, 8081];

/// Two clients each have nodes of their own and the first port there; the other two share a line of assignments on the
/// second port of every node.
const CLIENTS: [Client; 4] = [
    Client { name: "ada", line: "ada", app: HELLO, targets: &[&["north/press"], &["north/press", "south/kiln"]] },
    Client { name: "ben", line: "ben", app: HELLO, targets: &[&["south/crane"], &["south/crane", "north/oven"]] },
    Client { name: "cleo", line: "shared", app: SECOND, targets: SHARED },
    Client { name: "dora", line: "shared", app: SECOND, targets: SHARED },
];
const SHARED: &[&[&str]] =
    &[&["north/oven"], &["north/press", "south/crane"], &["north/press", "north/oven", "south/kiln", "south/crane"]];

/// Runners that are killed while every process dies once.
const RUNNERS_A_ROUND: usize = 2;

/// Until everything is as ordered after the last kill. A runner that was killed often is started again after up to a
/// minute, and a repository that stood still is tried again after as long.
const SETTLING: Duration = Duration::from_secs(300);

/// The port on which an application answers.
fn port(app: &str) -> u16 {
    PORTS[usize::from(app == SECOND)]
}

/// What there is when not everything is as promised.
#[derive(Debug)]
#[expect(dead_code, reason = "read by whoever reads the failure")]
enum Unsettled {
    NoEvidence(String),
    Broken(Vec<Finding>),
}

#[tokio::test]
async fn every_promise_is_kept_whoever_is_killed() {
    let settings = Settings::from_environment();
    println!("chaos: SEED={} SECONDS={}", settings.seed, settings.duration.as_secs());
    let mut platform = Platform::start(SITES, Application::Nothing).await;
    platform.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
    platform.edgectl_ok(&["co", "add", "app", &second(&platform).display().to_string()]);
    let places = Places::of(&platform, SITES);
    let steps = plan(settings.seed, settings.duration, &platform.process_names(), RUNNERS_A_ROUND);

    let mut chronicle = Chronicle::new(settings);
    let watch = Watch::begin(platform.folder().to_owned());
    let end = Instant::now() + settings.duration;
    let clients = (1..).zip(CLIENTS).map(|(number, client)| {
        Orderer::new(client, places.rest.clone(), Random::new(settings.seed, number)).order_until(end)
    });
    let killing = carry_out(steps, &mut platform, &mut chronicle);
    let ((), sent) = tokio::join!(killing, join_all(clients));
    let ledger = sent.concat();
    println!("{}", summary(&ledger, &chronicle));

    settle(&places, &ledger, &chronicle.witnessed).await;
    chronicle.witnessed.doubles = watch.end();
    // Once more, with what was seen meanwhile: nothing may have changed any more.
    settle(&places, &ledger, &chronicle.witnessed).await;
    for process in platform.process_names() {
        assert_eq!(platform.process(&process).exit(), None, "{process} has ended by itself");
    }
}

/// Waits until everything is as promised, and says how long that took and what came last.
async fn settle(places: &Places, ledger: &[Sent], witnessed: &Witnessed) {
    let begin = Instant::now();
    let mut last = Vec::new();
    wait_for_within(SETTLING, "every promise to be kept", async || {
        let evidence = places.collect(ledger, witnessed).await.map_err(Unsettled::NoEvidence)?;
        let findings = check(&evidence);
        if findings.is_empty() {
            return Ok(());
        }
        last.clone_from(&findings);
        Err(Unsettled::Broken(findings))
    })
    .await;
    println!("settled after {:.1} s; the last to come right: {last:?}", begin.elapsed().as_secs_f64());
}

/// The folder of the second application.
fn second(platform: &Platform) -> PathBuf {
    let folder = platform.folder().join(SECOND);
    fs::create_dir(&folder).unwrap();
    let description = fs::read_to_string(sample().join("margo.yaml")).unwrap();
    let description = description
        .replace("id: hello", &format!("id: {SECOND}"))
        .replace("oci://edgewright.local/hello", &format!("oci://edgewright.local/{SECOND}"))
        .replace(&format!("port: {}", PORTS[0]), &format!("port: {}", PORTS[1]));
    fs::write(folder.join("margo.yaml"), description).unwrap();
    fs::copy(sample().join("hello.wasm"), folder.join("hello.wasm")).unwrap();
    folder
}

/// What a campaign came to, in a few lines.
fn summary(ledger: &[Sent], chronicle: &Chronicle) -> String {
    let count = |is: fn(&Answer) -> bool| ledger.iter().filter(|sent| is(&sent.answer)).count();
    format!(
        "{} orders accepted, {} refused, {} not sent, {} without a clear answer\n{:?}",
        count(|answer| matches!(answer, Answer::Accepted { .. })),
        count(|answer| matches!(answer, Answer::Refused(_))),
        count(|answer| matches!(answer, Answer::NotSent)),
        count(|answer| matches!(answer, Answer::Unknown(_))),
        chronicle.deaths(),
    )
}
