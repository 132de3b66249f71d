//! An update of containers that fails: at whatever step, the revision that was installed last runs again, and nothing of the
//! other one is left. A real Docker Engine, the real `docker compose`, a real NATS server with the permissions of production.
//!
//! The engine is started by the test, which needs root and the programs that `make setup` installs; without them it says that it
//! was not run.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "the tests of the agent alone ask more of it")]
#[path = "../agent/site.rs"]
mod site;
#[allow(dead_code, reason = "the tests of the agent alone ask more of it")]
#[path = "../../src/testing.rs"]
mod testing;
mod world;

use std::env;

use margo::{Digest, State};
use testkit::{DockerEngine, NotRun};
use world::{Image, Wanted, World};

const NAME: &str = "a_failed_update_of_containers_restores_the_last_installed_revision_at_every_step";

fn main() {
    // Cargo hands the filter of the whole run to every target.
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
        return;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return;
    }
    match DockerEngine::start() {
        Err(NotRun(reason)) => println!("test {NAME} ... not run: {reason}"),
        Ok(engine) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            for step in STEPS {
                println!("{step:?}");
                runtime.block_on(goes_back(&engine, step));
            }
            println!("test {NAME} ... ok");
        }
    }
}

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

const STEPS: [Step; 8] =
    [Step::Fetch, Step::Extract, Step::Load, Step::Create, Step::Start, Step::Exit, Step::Health, Step::Timeout];

/// A web server, with more to say about the service.
fn compose(image: &str, command: &str, more: &str) -> String {
    format!("services: {{ web: {{ image: '{image}:1', ports: ['8081:80'], command: {command}{more} }} }}\n")
}

const SERVE: &str = "[httpd, -f, -p, '80', -h, /www], init: true";

async fn goes_back(engine: &DockerEngine, step: Step) {
    let mut world = World::start(engine).await;
    let first = Wanted { compose: compose("one", SERVE, ""), image: Image::Good("one"), ..Wanted::default() };
    let first = world.desire(1, &first).await;
    world.told("the first to be installed", |it| it.state() == proto(State::Installed) && it.digest == first).await;
    world.answers("one").await;

    let web = |command: &str, more: &str| compose("two", command, more);
    let wanted = Wanted { image: Image::Good("two"), compose: web(SERVE, ""), ..Wanted::default() };
    let check = |test: &str, more: &str| {
        web(SERVE, &format!(", healthcheck: {{ test: [CMD, /bin/busybox, {test}], interval: 1s, retries: 1{more} }}"))
    };
    let (wanted, code) = match step {
        Step::Fetch => (Wanted { damaged: true, ..wanted }, "digest-mismatch"),
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
    };
    let second = world.desire(2, &wanted).await;
    let told = world
        .told("the update to be undone", |it| {
            let failure = it.failure.as_ref().is_some_and(|failure| failure.runs == first);
            it.digest == second && it.state() == proto(State::Failed) && failure
        })
        .await;
    assert_eq!(told.failure.unwrap().code, code, "{step:?}");
    world.answers("one").await;
    let image = format!("edgewright.local/image:{}", Image::Good("one").id().hex());
    world
        .has("the image of the first alone", &["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"], &[&image])
        .await;
    world.has("one container", &["ps", "--all", "--format", "{{.State}}"], &["running"]).await;
    world.keeps_one_revision().await;

    // Nothing of either is left when it is removed.
    world.desire_nothing(3).await;
    world.told("it to be removed", |it| it.state() == proto(State::Removed)).await;
    for what in [&["images", "--all", "--quiet"][..], &["ps", "--all", "--quiet"], &["volume", "ls", "--quiet"]] {
        world.has("nothing", what, &[]).await;
    }
    world.has("no network", &["network", "ls", "--quiet", "--filter", "label=dev.edgewright.agent"], &[]).await;
    assert_eq!(world.folders(), Vec::<String>::new());
    world.stop().await;
}

fn proto(state: State) -> bus::proto::State {
    match state {
        State::Installed => bus::proto::State::Installed,
        State::Failed => bus::proto::State::Failed,
        State::Removed => bus::proto::State::Removed,
        other => panic!("{other}"),
    }
}

impl Image {
    /// The id by which the lock and the engine know it.
    fn id(self) -> Digest {
        Digest::of(&self.parts().config)
    }
}
