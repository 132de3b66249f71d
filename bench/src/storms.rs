//! Everybody comes at once, after a NATS server was away: `storm_sites_s`, `change_to_sites_ms` and `storm_nodes_s`.
//!
//! Hub and site are real processes. Nodes are agents of edge-node's library. A site is simulated: its connection and its
//! login are those of an LO, it asks what its client shall run as the LO's road does, and has a report stored.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use bus::{
    Bus, Jwt, Login, Pattern, SiteVerb, Subject, User, decode_within,
    proto::{self, DocumentName, desired_part::Part},
};
use bytes::Bytes;
use end_to_end::{Application, Platform, SiteLayout, sample};
use futures::StreamExt;
use identity::tls::{Peer, Trust};
use margo::{ClientName, Head, NodeEntry, parse_folder, parse_top};
use process::Backoff;
use prost::Message;
use renewal::Renewal;
use tempfile::TempDir;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Effort, Samples,
    fleet::Fleet,
    machine, platform, reports,
    rest::{Rest, Targets, Wish, by_clients},
};

/// One site whose nodes are simulated.
const PLANT: &[SiteLayout] = &[SiteLayout { name: "plant", nodes: &[] }];

/// No site is a process.
const NOBODY: &[SiteLayout] = &[];

/// The sample application and its assignment.
const APP: &str = "hello";

/// How long a storm may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(180);

/// The longest answer to an ask: a page of 1 MiB, and room for the head.
pub const LONGEST_ANSWER: usize = 2 << 20;

/// Sites report only so much of themselves: one node with one deployment.
const NODES_PER_SITE: usize = 1;

/// The NATS server of one site with 2,000 nodes restarts, and something was ordered meanwhile.
pub async fn of_nodes(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let count = effort.of(50, 2_000, 2_000);
    let mut running = Platform::start(PLANT, Application::Nothing).await;
    let rest = Rest::of(&running);
    let folder = TempDir::new().context("a folder for the agents")?;
    running.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
    let fleet = Fleet::start(&running, &rest, folder.path(), PLANT, count).await?;
    fleet.known(&rest, count).await?;
    let targets = Targets::Sites(vec!["plant".to_owned()]);
    let mut wish = Wish { app: APP.to_owned(), greeting: "First".to_owned(), targets };
    // The first order has every node fetch the artifact; it is not counted.
    rest.create(APP, &wish).await?;
    fleet.carried_out(&rest, APP, count).await?;

    let mut samples = Samples::new("storm_nodes_s");
    for run in 0..effort.of(1, 3, 5) {
        for calm in [true, false] {
            machine::rest_beside(&platform::all_processes(&mut running), count).await?;
            let started = fleet.starts();
            wish.greeting = format!("Order {run}, {}", if calm { "calm" } else { "storm" });
            let (etag, _) = rest.etag(APP).await?;
            if !calm {
                running.kill("plant.nats");
            }
            let mut begin = Instant::now();
            rest.update(APP, &etag, &wish).await?;
            if !calm {
                begin = Instant::now();
                running.run("plant.nats");
            }
            fleet.carried_out(&rest, APP, started + count).await?;
            let took = begin.elapsed().as_secs_f64();
            if calm { samples.references.push(took) } else { samples.values.push(took) }
        }
    }
    fleet.stop().await?;
    Ok(vec![samples])
}

/// The NATS server of a hub with 1,000 sites restarts; and all of them have something new at the same time.
pub async fn of_sites(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let count = effort.of(20, 1_000, 1_000);
    let mut running = Platform::start(NOBODY, Application::Nothing).await;
    let rest = Rest::of(&running);
    let folder = TempDir::new().context("a folder for the sites")?;
    running.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
    let sites = Sites::start(&running, &rest, folder.path(), count).await?;
    let targets = Targets::Nodes((0..count).map(|number| format!("{}/n0", name(number))).collect());
    let mut wish = Wish { app: APP.to_owned(), greeting: "First".to_owned(), targets };
    rest.create(APP, &wish).await?;

    let (mut storm, mut change) = (Samples::new("storm_sites_s"), Samples::new("change_to_sites_ms"));
    for run in 0..effort.of(1, 3, 5) {
        machine::rest(&platform::all_processes(&mut running)).await?;
        running.kill("hub-nats");
        let begin = Instant::now();
        running.run("hub-nats");
        let served = sites.all(|_, state| state.served.filter(|at| *at > begin)).await?;
        let connected = sites.all(|_, state| state.connected.filter(|at| *at > begin)).await?;
        storm.values.push((last(&served)? - begin).as_secs_f64());
        storm.references.push((last(&connected)? - begin).as_secs_f64());

        // The signals of all come at once when git-observer was away while the commits were made.
        machine::rest(&platform::all_processes(&mut running)).await?;
        running.kill("git-observer");
        let before = sites.versions();
        wish.greeting = format!("Order {run}");
        let (etag, _) = rest.etag(APP).await?;
        rest.update(APP, &etag, &wish).await?;
        machine::rest(&platform::all_processes_but(&mut running, "git-observer")).await?;
        running.run("git-observer");
        let changed = sites.all(|number, state| state.changed.filter(|_| state.version > before[number])).await?;
        let signalled = sites.all(|_, state| state.signalled).await?;
        let first = *signalled.iter().min().context("there are sites")?;
        change.values.push((last(&changed)? - first).as_secs_f64() * 1_000.0);
        change.references.push((last(&signalled)? - first).as_secs_f64() * 1_000.0);
    }
    sites.stop().await?;
    Ok(vec![storm, change])
}

fn last(times: &[Instant]) -> anyhow::Result<Instant> {
    times.iter().max().copied().context("there are no sites")
}

fn name(number: usize) -> String {
    format!("site-{number}")
}

/// The login of a simulated site with this seed, and what fetches its JWT into the folder and renews it.
pub fn renewed_login(
    running: &Platform,
    folder: &Path,
    client: &ClientName,
    seed: String,
) -> anyhow::Result<(Login, Renewal)> {
    let minter = format!("https://{}:8083", platform::address(running)?);
    let trust = Trust::load(&running.trust_file()).context("the root that `init` made")?;
    let jwt = Jwt::File(folder.join(format!("{client}.jwt")));
    let login = running.login("hub", User::Site(client.clone()), seed, jwt);
    let renewal = Renewal::new(&login, &minter, Some(trust.peer(&Peer::Hub)))?.context("a login in a file")?;
    Ok((login, renewal))
}

/// What a simulated site has come to.
#[derive(Clone, Copy, Default)]
struct State {
    /// When it was connected last.
    connected: Option<Instant>,
    /// When it had been told what its client shall run, and its report was stored, after it was connected last.
    served: Option<Instant>,
    /// When the last signal came.
    signalled: Option<Instant>,
    /// When the newest version came.
    changed: Option<Instant>,
    version: u64,
}

/// All simulated sites.
struct Sites {
    states: Vec<watch::Receiver<State>>,
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Sites {
    /// Adds the sites and a node of each by REST, and connects them.
    async fn start(running: &Platform, rest: &Rest, folder: &Path, count: usize) -> anyhow::Result<Self> {
        let keys: Arc<Vec<_>> = Arc::new((0..count).map(|_| identity::nats::generate()).collect());
        let (adding, adder) = (keys.clone(), rest.clone());
        by_clients(16, count, move |number| {
            let (rest, keys) = (adder.clone(), adding.clone());
            async move {
                rest.add_site(&name(number), &keys[number].1).await?;
                rest.add_node(&format!("{}/n0", name(number)), &identity::nats::generate().1).await
            }
        })
        .await?;
        let shutdown = CancellationToken::new();
        let (mut states, mut tasks) = (Vec::new(), JoinSet::new());
        for (number, (seed, _)) in keys.iter().enumerate() {
            let client: ClientName = name(number).parse().context("the name of a site")?;
            let (login, renewal) = renewed_login(running, folder, &client, seed.clone())?;
            let (tell, state) = watch::channel(State::default());
            states.push(state);
            let site = Site { client, login, tell };
            tasks.spawn(site.run(renewal, shutdown.clone()));
        }
        let sites = Self { states, tasks, shutdown };
        sites.all(|_, state| state.served).await?;
        Ok(sites)
    }

    /// Waits until something can be told of every site, and gives it in their order.
    async fn all(&self, told: impl Fn(usize, &State) -> Option<Instant>) -> anyhow::Result<Vec<Instant>> {
        let all = async {
            let mut times = Vec::new();
            for (number, state) in self.states.iter().enumerate() {
                let told = |state: &State| told(number, state);
                let state = *state.clone().wait_for(|state| told(state).is_some()).await.context("a site died")?;
                times.extend(told(&state));
            }
            anyhow::Ok(times)
        };
        match timeout(PATIENCE, all).await {
            Ok(times) => times,
            Err(_) => {
                let states = self.states.iter().enumerate();
                let missing = states.filter(|(number, state)| told(*number, &state.borrow()).is_none()).count();
                anyhow::bail!("{missing} of {} sites are not there after {PATIENCE:?}", self.states.len())
            }
        }
    }

    fn versions(&self) -> Vec<u64> {
        self.states.iter().map(|state| state.borrow().version).collect()
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a simulated site died")??;
        }
        Ok(())
    }
}

struct Site {
    client: ClientName,
    login: Login,
    tell: watch::Sender<State>,
}

impl Site {
    async fn run(self, renewal: Renewal, shutdown: CancellationToken) -> anyhow::Result<()> {
        let bus = Bus::connect(&self.login).await?;
        let renewing = renewal.run(bus.clone(), shutdown.clone());
        let asking = async {
            let stopped = shutdown.run_until_cancelled(self.ask(&bus)).await;
            stopped.unwrap_or(Ok(()))
        };
        tokio::try_join!(renewing, asking).map(|_| ())
    }

    /// Asks on each new connection and on each signal, as an LO does.
    async fn ask(&self, bus: &Bus) -> anyhow::Result<()> {
        let mut connections = bus.connections();
        bus.connected().await;
        let mut signals = bus.subscribe(Pattern::ChangedOf(self.client.clone())).await?;
        connections.mark_changed();
        loop {
            tokio::select! {
                changed = connections.changed() => {
                    changed.context("the connection is gone")?;
                    let connected = Some(Instant::now());
                    self.tell.send_modify(|state| state.connected = connected);
                    self.fetch(bus).await;
                    self.report(bus).await?;
                    self.tell.send_modify(|state| state.served = Some(Instant::now()));
                }
                signal = signals.next() => {
                    signal.context("the connection is closed")?;
                    let now = Some(Instant::now());
                    self.tell.send_modify(|state| state.signalled = now);
                    self.fetch(bus).await;
                }
            }
        }
    }

    /// Asks until it is told, with the pauses of an LO.
    async fn fetch(&self, bus: &Bus) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(60));
        while let Err(error) = self.fetch_once(bus).await {
            tracing::debug!(error = format!("{error:#}"), "asked in vain");
            sleep(backoff.pause()).await;
        }
    }

    async fn fetch_once(&self, bus: &Bus) -> anyhow::Result<()> {
        let held = self.tell.borrow().version;
        let ask = proto::DesiredAsk { protocol: 1, held, ..proto::DesiredAsk::default() };
        let answer = self.desired(bus, ask).await?;
        match answer.outcome() {
            proto::DesiredOutcome::Held | proto::DesiredOutcome::Nothing => return Ok(()),
            proto::DesiredOutcome::Found => {}
            outcome => anyhow::bail!("the hub answers {}", outcome.as_str_name()),
        }
        let signed = answer.head.context("an answer without a head")?;
        let head = Head::parse(&signed.head)?;
        // What changed comes along with the head while the hub has it at hand.
        if answer.pieces.is_empty() {
            self.fetch_all(bus, &signed).await?;
        }
        let now = Instant::now();
        self.tell.send_modify(|state| {
            (state.version, state.changed) = (head.version.get(), Some(now));
        });
        Ok(())
    }

    /// Asks for everything that a head names, level by level.
    async fn fetch_all(&self, bus: &Bus, head: &proto::DesiredHead) -> anyhow::Result<()> {
        for folder in parse_top(&head.list)?.into_keys() {
            let [text] = self.parts(bus, &head.commit, [Part::Folder(folder.to_string())]).await?;
            for node in parse_folder(folder, &text)?.into_keys() {
                let [text] = self.parts(bus, &head.commit, [Part::Node(node.to_string())]).await?;
                for (deployment, _) in NodeEntry::parse(&text)?.deployments.iter() {
                    let name = DocumentName { node: node.to_string(), deployment: deployment.to_string() };
                    let wanted = [Part::Identity(node.to_string()), Part::Document(name)];
                    self.parts(bus, &head.commit, wanted).await?;
                }
            }
        }
        Ok(())
    }

    async fn parts<const COUNT: usize>(
        &self,
        bus: &Bus,
        commit: &str,
        parts: [Part; COUNT],
    ) -> anyhow::Result<[Bytes; COUNT]> {
        let parts = parts.into_iter().map(|part| proto::DesiredPart { part: Some(part), offset: 0 }).collect();
        let ask = proto::DesiredAsk { protocol: 1, commit: commit.to_owned(), held: 0, parts };
        let pieces = self.desired(bus, ask).await?.pieces.into_iter().map(|piece| piece.content);
        let pieces: Vec<_> = pieces.collect();
        pieces.try_into().map_err(|pieces: Vec<_>| anyhow::anyhow!("{} of {COUNT} parts came", pieces.len()))
    }

    async fn desired(&self, bus: &Bus, ask: proto::DesiredAsk) -> anyhow::Result<proto::DesiredAnswer> {
        let subject = Subject::Site(self.client.clone(), SiteVerb::Desired);
        let answer = bus.ask(&subject, ask.encode_to_vec().into()).await?;
        Ok(decode_within(&answer.payload, LONGEST_ANSWER)?)
    }

    async fn report(&self, bus: &Bus) -> anyhow::Result<()> {
        let number = *bus.connections().borrow();
        reports::relay(bus, &self.client, &reports::window(&self.client, NODES_PER_SITE, number)).await
    }
}
