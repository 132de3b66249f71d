//! From git-writer's announcement of a commit until the client's site has what it says: `commit_to_site_ms`.
//!
//! Hub and services are real processes. The site is simulated: its connection and login are those of an LO, and it asks as the
//! LO's road does, once for each signal. It runs nothing, so what is measured is the way down and no more.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use async_nats::Subscriber;
use bus::{Bus, Jwt, Pattern, ServiceName, SiteVerb, Subject, User, decode_within, proto};
use bytes::Bytes;
use end_to_end::{Application, Platform, SiteLayout, sample};
use futures::{FutureExt, StreamExt};
use margo::{ClientName, Head};
use prost::Message;
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    Effort, Samples, machine,
    order::milliseconds,
    platform,
    rest::{Rest, Targets, Wish},
    storms::{LONGEST_ANSWER, renewed_login},
};

/// No site is a process.
const NOBODY: &[SiteLayout] = &[];

/// The sample application and its assignment.
const APP: &str = "hello";

/// The nodes of the site. Each order is for all of them.
const NODES: usize = 10;

/// The first orders meet cold caches; they are given and not counted.
const WARM_UP: usize = 5;

/// Between two orders, so that each begins at rest.
const PAUSE: Duration = Duration::from_millis(50);

/// How long one commit may take to the site.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn measure(effort: Effort) -> anyhow::Result<Vec<Samples>> {
    let mut running = Platform::start(NOBODY, Application::Nothing).await;
    let rest = Rest::of(&running);
    let folder = TempDir::new().context("a folder for the site")?;
    running.edgectl_ok(&["co", "add", "app", &sample().display().to_string()]);
    let mut site = Site::connect(&running, &rest, folder.path()).await?;
    let targets = Targets::Nodes((0..NODES).map(|number| format!("{}/n{number}", site.client)).collect());
    let mut wish = Wish { app: APP.to_owned(), greeting: "First".to_owned(), targets };
    let watch = observer(&running).await?;
    let mut announcements = watch.subscribe(Pattern::GitCommitted).await?;
    watch.client().flush().await.context("subscribing")?;
    let client = site.client.clone();
    rest.create(APP, &wish).await?;
    let mut held = site.newest_after(0).await?;
    machine::rest(&platform::all_processes(&mut running)).await?;

    let mut samples = Samples::new("commit_to_site_ms");
    for round in 0..WARM_UP + effort.of(12, 200, 1_000) {
        wish.greeting = format!("Order {round}.");
        let (etag, _) = rest.etag(APP).await?;
        sleep(PAUSE).await;
        site.forget_signals();
        while announcements.next().now_or_never().flatten().is_some() {}
        rest.update(APP, &etag, &wish).await?;
        let (committed, told) = tokio::join!(announced(&mut announcements, &client), site.told(held));
        let (committed, (version, bytes, told)) = (committed?, told?);
        ensure!(version > held, "version {version} follows {held}");

        // The same signal and the same ask once more, when git-observer has nothing to read.
        sleep(PAUSE).await;
        site.forget_signals();
        let begin = Instant::now();
        watch.signal(&Subject::ChangedHead(client.clone()), Bytes::new()).await?;
        let (again, same, answered) = site.told(held).await?;
        ensure!((again, same) == (version, bytes), "the second answer has {same} bytes, the first {bytes}");
        held = version;
        if round >= WARM_UP {
            samples.values.push(milliseconds(told - committed));
            samples.references.push(milliseconds(answered - begin));
        }
    }
    Ok(vec![samples])
}

/// A second connection of git-observer's user, which hears what git-writer announces and may signal sites.
async fn observer(running: &Platform) -> anyhow::Result<Bus> {
    let user = User::Central(ServiceName::GitObserver);
    let key = |kind: &str| running.hub().join(format!("keys/nats/{user}.{kind}"));
    let seed = fs::read_to_string(key("seed")).context("the seed of git-observer")?;
    let bus = Bus::connect(&running.login("hub", user.clone(), seed, Jwt::File(key("jwt")))).await?;
    bus.connected().await;
    Ok(bus)
}

/// When the next commit of this client was announced.
async fn announced(announcements: &mut Subscriber, client: &ClientName) -> anyhow::Result<Instant> {
    let wanted = Subject::GitCommittedClient(client.clone()).to_string();
    let announced = async {
        loop {
            let message = announcements.next().await.context("the connection is closed")?;
            if message.subject.as_str() == wanted {
                return Ok(Instant::now());
            }
        }
    };
    timeout(PATIENCE, announced).await.context("no commit was announced")?
}

/// A simulated site.
struct Site {
    client: ClientName,
    bus: Bus,
    signals: Subscriber,
    _renewing: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Site {
    async fn connect(running: &Platform, rest: &Rest, folder: &Path) -> anyhow::Result<Self> {
        let client: ClientName = "plant".parse().context("the name of a site")?;
        let (seed, key) = identity::nats::generate();
        rest.add_site(client.as_str(), &key).await?;
        for number in 0..NODES {
            rest.add_node(&format!("{client}/n{number}"), &identity::nats::generate().1).await?;
        }
        let (login, renewal) = renewed_login(running, folder, &client, seed)?;
        let bus = Bus::connect(&login).await?;
        let renewing: JoinHandle<_> = tokio::spawn(renewal.run(bus.clone(), CancellationToken::new()));
        bus.connected().await;
        let signals = bus.subscribe(Pattern::ChangedOf(client.clone())).await?;
        bus.client().flush().await.context("subscribing")?;
        Ok(Self { client, bus, signals, _renewing: AbortOnDropHandle::new(renewing) })
    }

    /// Leaves out the signals that have come by now.
    fn forget_signals(&mut self) {
        while self.signals.next().now_or_never().flatten().is_some() {}
    }

    /// Waits for a signal and asks. Returns the version that came, the bytes of the answer, and when that was.
    async fn told(&mut self, held: u64) -> anyhow::Result<(u64, usize, Instant)> {
        let told = async {
            self.signals.next().await.context("the connection is closed")?;
            self.ask(held).await
        };
        timeout(PATIENCE, told).await.context("the site was not told")?
    }

    /// Asks until there is a version after this one that does not change any more.
    async fn newest_after(&mut self, held: u64) -> anyhow::Result<u64> {
        let mut newest = held;
        while newest == held {
            (newest, ..) = self.told(held).await?;
        }
        while let Ok(told) = timeout(Duration::from_secs(1), self.told(newest)).await {
            (newest, ..) = told?;
        }
        Ok(newest)
    }

    async fn ask(&self, held: u64) -> anyhow::Result<(u64, usize, Instant)> {
        let ask = proto::DesiredAsk { protocol: 1, held, ..proto::DesiredAsk::default() };
        let subject = Subject::Site(self.client.clone(), SiteVerb::Desired);
        let message = self.bus.ask(&subject, ask.encode_to_vec().into()).await?;
        let answer: proto::DesiredAnswer = decode_within(&message.payload, LONGEST_ANSWER)?;
        let head = answer.head.as_ref().context("an answer without a head")?;
        let version = Head::parse(&head.head)?.version.get();
        let bytes = answer.pieces.iter().map(|piece| piece.content.len()).sum();
        Ok((version, bytes, Instant::now()))
    }
}
