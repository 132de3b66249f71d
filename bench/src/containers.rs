//! From an order to the new answer of an application of containers, and from a container's death to its next answer:
//! `order_to_compose_ms`, `dead_container_back_ms`, `removed_container_back_ms`.
//!
//! The engine is one of the measurement's own, with a network of its own. What is done by hand there is done with the same image,
//! beside the container of the platform.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use end_to_end::{Platform, SiteLayout};
use tempfile::TempDir;
use testkit::{DockerEngine, wait_for};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    Effort, Samples,
    order::milliseconds,
    platform,
    rest::{Rest, Targets, Wish},
    watch::first_answer_of_container,
};

const PLANT: &[SiteLayout] = &[SiteLayout { name: "plant", nodes: &["dock"] }];

/// The name of the image in the Compose file of the application.
pub const IMAGE: &str = "hello-compose:1.0.0";

/// The port of the application's container, and that of the one by hand.
const PORT: u16 = 8088;
const PORT_BY_HAND: u16 = 8089;

/// The first orders meet cold caches and make the network; they are given and not counted.
const WARM_UP: usize = 3;

/// Between two orders, so that each begins at rest.
const PAUSE: Duration = Duration::from_millis(300);

/// How long an order may take, or a container's return.
const PATIENCE: Duration = Duration::from_secs(30);

/// So many orders for each start by hand.
const ORDERS_PER_START: usize = 2;

/// A container that ran for ten seconds is started again at once when it dies; this is a little more.
const STEADY: Duration = Duration::from_millis(10_500);

/// One service whose page is the value of a variable.
pub fn compose(image: &str, port: &str) -> String {
    format!(
        "services:
  web:
    image: {image}
    init: true
    environment: {{ GREETING: '${{GREETING}}' }}
    command: [sh, -c, 'echo \"$$GREETING\" > /www/index.html; exec httpd -f -p 8080 -h /www']
    ports: ['{port}:8080']
"
    )
}

pub async fn measure(effort: Effort, wanted: &BTreeSet<&'static str>) -> anyhow::Result<Vec<Samples>> {
    let engine = DockerEngine::start()?;
    let mut running = Platform::with_docker(PLANT, engine.socket()).await;
    let rest = Rest::of(&running);
    let site = Container { engine: &engine, address: running.node_address("dock"), port: PORT };
    let nodes = running.nodes();
    let wish =
        |greeting: String| Wish { app: "hello-compose".to_owned(), greeting, targets: Targets::Nodes(nodes.clone()) };
    running.add_compose_version("1.0.0", &compose(IMAGE, &PORT.to_string()), "nothing yet");
    runs_compose(&rest).await;
    let mut first = site.watch("The first.")?;
    rest.create("pages", &wish("The first.".to_owned())).await?;
    site.answered(&mut first).await.context("the first order")?;
    rest.installed("", 1, PAUSE, PATIENCE).await?;
    let by_hand = ByHand::new(&engine, site.address)?;
    let processes = platform::all_processes(&mut running);
    crate::machine::rest(&processes).await?;

    let mut orders = Samples::new("order_to_compose_ms");
    if wanted.contains(orders.name) {
        for round in 0..WARM_UP + effort.of(2, 20, 100) {
            let wish = wish(format!("Order {round}."));
            let (etag, _) = rest.etag("pages").await?;
            sleep(PAUSE).await;
            let mut watcher = site.watch(&wish.greeting)?;
            let begin = Instant::now();
            rest.update("pages", &etag, &wish).await?;
            let done = site.answered(&mut watcher).await.with_context(|| format!("order {round}"))?;
            rest.installed("", 1, Duration::from_millis(10), PATIENCE).await?;
            sleep(PAUSE).await;
            let took = if round % ORDERS_PER_START == 0 {
                Some(by_hand.up(&format!("By hand {round}.")).await?)
            } else {
                None
            };
            if round >= WARM_UP {
                orders.values.push(milliseconds(done - begin));
                orders.references.extend(took);
            }
        }
    }
    let mut samples = vec![orders];
    let deaths: [(&'static str, &[&str]); 2] =
        [("dead_container_back_ms", &["kill"]), ("removed_container_back_ms", &["rm", "--force"])];
    for (name, death) in deaths.into_iter().filter(|(name, _)| wanted.contains(name)) {
        let mut back = Samples::new(name);
        for round in 0..effort.of(1, 5, 20) {
            sleep(STEADY).await;
            // The answer is that of the last order.
            let mut watcher = site.watch(".")?;
            let died = site.die(&site.id("label=dev.edgewright.agent")?, death).await?;
            let answered = site.answered(&mut watcher).await.with_context(|| format!("round {round} of {name}"))?;
            back.values.push(milliseconds(answered - died));
            back.references.push(by_hand.back(death, round).await?);
        }
        samples.push(back);
    }
    samples.retain(|samples| !samples.values.is_empty());
    Ok(samples)
}

/// Waits until a node tells that it runs Compose.
pub async fn runs_compose(rest: &Rest) {
    wait_for("the node to tell that it runs Compose", async || {
        let nodes = rest.list("/nodes").await.map_err(|error| error.to_string())?;
        let known = format!("{nodes:?}");
        if known.contains("compose") { Ok(()) } else { Err(known) }
    })
    .await;
}

/// A container whose port is published on an address of the engine's host.
struct Container<'a> {
    engine: &'a DockerEngine,
    address: Ipv4Addr,
    port: u16,
}

impl Container<'_> {
    /// Watches for the first answer that holds this text, of a container that is started from now on.
    fn watch(&self, wanted: &str) -> anyhow::Result<JoinHandle<anyhow::Result<Instant>>> {
        first_answer_of_container(self.engine, SocketAddr::from((self.address, self.port)), wanted, PATIENCE)
    }

    async fn answered(&self, watcher: &mut JoinHandle<anyhow::Result<Instant>>) -> anyhow::Result<Instant> {
        // The watcher gives up by itself; it is waited for a little longer.
        timeout(2 * PATIENCE, watcher).await.context("no container was started")?.context("a watcher died")?
    }

    /// The id of the one container that this filter of `docker ps` finds.
    fn id(&self, filter: &str) -> anyhow::Result<String> {
        let found = self.engine.docker(&["ps", "--quiet", "--filter", filter]).context("asking for containers")?;
        ensure!(found.lines().count() == 1, "one container was expected for {filter}: {found:?}");
        Ok(found)
    }

    /// Kills or removes a container, and returns when its process was gone.
    async fn die(&self, id: &str, death: &[&str]) -> anyhow::Result<Instant> {
        let pid = self.engine.docker(&["inspect", "--format", "{{.State.Pid}}", id]).context("asking for a process")?;
        let process = Path::new("/proc").join(pid);
        let mut command = quietly(self.engine.command().args(death).arg(id)).context("ending a container")?;
        while process.exists() {
            tokio::task::yield_now().await;
        }
        let died = Instant::now();
        ended(&mut command, "ending a container").await?;
        Ok(died)
    }
}

/// The same service, started by hand.
struct ByHand<'a> {
    folder: TempDir,
    container: Container<'a>,
}

impl<'a> ByHand<'a> {
    /// With the image that the platform has brought to the engine.
    fn new(engine: &'a DockerEngine, address: Ipv4Addr) -> anyhow::Result<Self> {
        let images = engine.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).context("asking for images")?;
        let image = images.lines().find(|name| name.starts_with("edgewright.local/"));
        let folder = TempDir::new().context("a folder for a container by hand")?;
        let port = format!("{address}:{PORT_BY_HAND}");
        let text = compose(image.context("the platform has brought an image")?, &port);
        fs::write(folder.path().join("compose.yaml"), text).context("writing a Compose file")?;
        Ok(Self { folder, container: Container { engine, address, port: PORT_BY_HAND } })
    }

    fn compose_up(&self, greeting: &str) -> Command {
        let mut command = self.container.engine.command();
        command.args(["compose", "--project-name", "by-hand", "up", "--detach"]);
        command.current_dir(self.folder.path()).env("GREETING", greeting);
        command
    }

    /// Milliseconds since then until the first answer with this text of the container that this command starts.
    async fn measured(&self, greeting: &str, begin: Instant, command: &mut Command) -> anyhow::Result<f64> {
        let mut watcher = self.container.watch(greeting)?;
        let mut child = quietly(command).context("starting a container by hand")?;
        let answered = self.container.answered(&mut watcher).await?;
        ended(&mut child, "starting a container by hand").await?;
        Ok(milliseconds(answered - begin))
    }

    async fn up(&self, greeting: &str) -> anyhow::Result<f64> {
        self.measured(greeting, Instant::now(), &mut self.compose_up(greeting)).await
    }

    /// Ends the container by hand, and starts it again as soon as the engine has noted that, as a person would who does both in
    /// one line.
    async fn back(&self, death: &[&str], round: usize) -> anyhow::Result<f64> {
        let greeting = format!("By hand, {} {round}.", death[0]);
        self.up(&greeting).await?;
        let id = self.container.id("label=com.docker.compose.project=by-hand")?;
        let died = self.container.die(&id, death).await?;
        match death {
            ["kill"] => {
                let mut start = self.container.engine.command();
                self.measured(&greeting, died, start.args(["start", &id])).await
            }
            _ => self.measured(&greeting, died, &mut self.compose_up(&greeting)).await,
        }
    }
}

fn quietly(command: &mut Command) -> std::io::Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

async fn ended(child: &mut Child, what: &'static str) -> anyhow::Result<()> {
    let status =
        wait_for(what, async || child.try_wait().map_err(|error| error.to_string())?.ok_or_else(String::new)).await;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}
