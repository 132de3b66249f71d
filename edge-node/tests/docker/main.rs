//! An update of containers that fails: at whatever step, the revision that was installed last runs again, and nothing of the
//! other one is left. A real Docker Engine, the real `docker compose`, a real NATS server with the permissions of production.
//!
//! The engine is started by the test, which needs root and the programs that `make setup` installs; without them each case says
//! that it was not run. What becomes of such an update when the agent is killed or the power fails stands in `tests/power`.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "the tests of the agent alone ask more of it")]
#[path = "../agent/agent.rs"]
mod agent;
#[allow(dead_code, reason = "the tests of the agent alone ask more of it")]
#[path = "../agent/site.rs"]
mod site;
#[allow(dead_code, reason = "the tests of the agent alone ask more of it")]
#[path = "../../src/testing.rs"]
mod testing;
mod world;

use std::env;

use bus::proto::{self, State};
use testkit::{DockerEngine, NotRun};
use world::{Image, Wanted, World};

/// Where an update fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The site's store has another content under the digest of a layer.
    Fetch,
    /// What was fetched is no archive.
    Extract,
    /// The engine refuses the image.
    Load,
    /// The engine refuses to make the container.
    Create,
    /// The container's program is not there.
    Start,
    /// The program ends by itself.
    Exit,
    /// The health check says no.
    Health,
    /// The health check says nothing within the time that the document grants.
    Timeout,
}

/// Who carries out the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The agent that installed the revision before.
    Same,
    /// A newer one.
    Upgraded,
}

const CASES: [(&str, Step, By); 11] = [
    ("an_update_of_containers_that_fails_at_fetch_goes_back", Step::Fetch, By::Same),
    ("an_update_of_containers_that_fails_at_extract_goes_back", Step::Extract, By::Same),
    ("an_update_of_containers_that_fails_at_load_goes_back", Step::Load, By::Same),
    ("an_update_of_containers_that_fails_at_create_goes_back", Step::Create, By::Same),
    ("an_update_of_containers_that_fails_at_start_goes_back", Step::Start, By::Same),
    ("an_update_of_containers_that_fails_by_an_exit_goes_back", Step::Exit, By::Same),
    ("an_update_of_containers_that_fails_by_its_health_check_goes_back", Step::Health, By::Same),
    ("an_update_of_containers_that_fails_by_a_timeout_goes_back", Step::Timeout, By::Same),
    // Before the container of the revision before is touched, when it is gone, and when another one ran in its place.
    ("an_update_of_containers_that_fails_at_load_goes_back_after_an_upgrade_of_the_agent", Step::Load, By::Upgraded),
    ("an_update_of_containers_that_fails_at_start_goes_back_after_an_upgrade_of_the_agent", Step::Start, By::Upgraded),
    ("an_update_of_containers_that_fails_by_an_exit_goes_back_after_an_upgrade_of_the_agent", Step::Exit, By::Upgraded),
];

fn main() {
    // Cargo hands the filter of the whole run to every target.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let chosen: Vec<_> = CASES.into_iter().filter(|(name, ..)| is_chosen(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, ..)| println!("{name}: test"));
        return;
    }
    if chosen.is_empty() {
        return;
    }
    match DockerEngine::start() {
        Err(NotRun(reason)) => chosen.iter().for_each(|(name, ..)| println!("test {name} ... not run: {reason}")),
        Ok(engine) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            for (name, step, by) in chosen {
                println!("test {name} ...");
                runtime.block_on(goes_back(&engine, step, by));
                println!("test {name} ... ok");
            }
        }
    }
}

/// A web server, with more to say about the service.
fn compose(image: &str, command: &str, more: &str) -> String {
    format!("services: {{ web: {{ image: '{image}:1', ports: ['8081:80'], command: {command}{more} }} }}\n")
}

const SERVE: &str = "[httpd, -f, -p, '80', -h, /www], init: true";

/// The revision that fails at a step, and the code of the failure.
fn failing(step: Step) -> (Wanted, &'static str) {
    let web = |command: &str, more: &str| compose("two", command, more);
    let wanted = Wanted { image: Image::Good("two"), compose: web(SERVE, ""), ..Wanted::default() };
    let check = |test: &str, more: &str| {
        web(SERVE, &format!(", healthcheck: {{ test: [CMD, /bin/busybox, {test}], interval: 1s, retries: 1{more} }}"))
    };
    match step {
        Step::Fetch => (wanted, "digest-mismatch"),
        Step::Extract => (Wanted { archive: Some(b"no archive"), ..wanted }, "invalid-artifact"),
        Step::Load => (Wanted { image: Image::WrongLayers("two"), ..wanted }, "image"),
        Step::Create => (Wanted { compose: web(SERVE, ", cpus: 10000"), ..wanted }, "compose"),
        Step::Start => (Wanted { compose: web("[/bin/none]", ""), ..wanted }, "compose"),
        Step::Exit => (Wanted { compose: web("[sh, -c, 'exit 3'], init: true", ""), ..wanted }, "exited"),
        Step::Health => (Wanted { compose: check("'false'", ""), ..wanted }, "unhealthy"),
        Step::Timeout => {
            let compose = check("'false'", ", start_period: 1000s");
            (Wanted { compose, timeout: Some("0m2s"), ..wanted }, "timeout")
        }
    }
}

async fn goes_back(engine: &DockerEngine, step: Step, by: By) {
    let mut world = match step {
        Step::Fetch => World::with_damaged(engine, Image::Good("two").layer()).await,
        _ => World::start(engine).await,
    };
    let first = Wanted { compose: compose("one", SERVE, ""), image: Image::Good("one"), ..Wanted::default() };
    let first = world.desire(1, &first).await;
    let is_installed =
        |it: &proto::DeploymentStatus| it.state() == State::Installed && it.digest == first && it.failure.is_none();
    world.told("the first to be installed", is_installed).await;
    world.answers("one").await;
    if by == By::Upgraded {
        let before = world.container();
        let reports = world.reports();
        world = world.upgrade_agent().await;
        world.told_after(reports, "the first to be installed, by the next agent", is_installed).await;
        assert_eq!(world.container(), before, "an upgrade of the agent restarts nothing");
    }

    let (wanted, code) = failing(step);
    let second = world.desire(2, &wanted).await;
    let undone = |it: &proto::DeploymentStatus| {
        let failure = it.failure.as_ref().is_some_and(|failure| failure.runs == first);
        it.digest == second && it.state() == State::Failed && failure
    };
    let told = world.told("the update to be undone", undone).await;
    assert_eq!(told.failure.unwrap().code, code, "{step:?}");
    world.answers("one").await;
    let image = format!("edgewright.local/image:{}", Image::Good("one").id().hex());
    let images = ["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"];
    world.has("the image of the first alone", &images, &[&image]).await;
    world.has("one container", &["ps", "--all", "--format", "{{.State}}"], &["running"]).await;
    world.keeps_one_revision().await;

    // Nothing of either is left when it is removed.
    world.desire_nothing(3).await;
    world.told("it to be removed", |it| it.state() == State::Removed).await;
    for what in [&["images", "--all", "--quiet"][..], &["ps", "--all", "--quiet"], &["volume", "ls", "--quiet"]] {
        world.has("nothing", what, &[]).await;
    }
    world.has("no network", &["network", "ls", "--quiet", "--filter", "label=dev.edgewright.agent"], &[]).await;
    assert_eq!(world.folders(), Vec::<String>::new());
    world.stop().await;
}
