//! Heartbeats, and what the site says of itself: `state.<client>.health`, on change and as a sign of life.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bus::{Asker, BatchError, NodeVerb, Outgoing, Pattern, Rules, Shares, Subject, proto, report::MAX_REPORT};
use margo::NodeName;
use process::Backoff;
use prost::Message as _;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::pulse::Judgement;
use crate::{down::InForce, refusals::wall_clock, site::Site};

/// The longest time between two messages that say how the site is.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// The shortest time between two messages of which the later one has nothing new but refusals: whoever is refused could have the
/// site say something with each request.
const OF_REFUSALS: Duration = Duration::from_secs(2);

/// Heartbeats are empty, and one of a node is as good as many.
const HEARTBEATS: Rules = Rules { longest: 0, shares: Shares { each: 1, bytes: 1 << 20 }, answered: false };

/// The heartbeats of all nodes.
pub struct Pulses {
    judgement: Mutex<Judgement>,
    changed: Notify,
}

impl Pulses {
    /// No heartbeats yet. `unreachable_after`: silence after which a node counts as unreachable.
    pub fn new(unreachable_after: Duration) -> Arc<Self> {
        Arc::new(Self { judgement: Mutex::new(Judgement::new(unreachable_after)), changed: Notify::new() })
    }

    /// Notes a sign of life of this node, whatever the node said.
    pub fn heard(&self, node: &NodeName) {
        if self.lock().heard(node, Instant::now(), wall_clock()) {
            self.changed.notify_one();
        }
    }

    /// Takes these as the nodes of the site, each with the generation of its key. A new one counts as unknown until it is heard, and so
    /// does one with a new key.
    pub fn know(&self, nodes: &BTreeMap<NodeName, u64>) {
        if self.lock().know(nodes, wall_clock()) {
            self.changed.notify_one();
        }
    }

    /// What is known of one node.
    pub fn reachability(&self, node: &NodeName) -> proto::Reachability {
        self.lock().reachability(node)
    }

    /// The nodes that [`Pulses::know`] was told of last.
    pub fn nodes(&self) -> BTreeSet<NodeName> {
        self.lock().names()
    }

    fn lock(&self) -> MutexGuard<'_, Judgement> {
        self.judgement.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hears and judges until shutdown.
pub async fn run(
    site: Arc<Site>,
    pulses: Arc<Pulses>,
    mut in_force: watch::Receiver<Option<Arc<InForce>>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut heartbeats = site.front.asks(Pattern::Nodes(site.client.clone(), NodeVerb::Alive), HEARTBEATS).await?;
    let mut connections = site.bus.connections();
    let mut refusals = site.refusals.changes();
    let mut backoff = Backoff::new(Duration::from_millis(200), SIGN_OF_LIFE);
    let mut next = Instant::now();
    let mut said: Option<Instant> = None;
    loop {
        let due = pulses.lock().due();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            heartbeat = heartbeats.next() => {
                let Some(heartbeat) = heartbeat else { anyhow::bail!("the subscription to heartbeats ended") };
                if let Asker::Node(id) = &heartbeat.asker {
                    pulses.heard(&id.node);
                }
                continue;
            }
            _ = connections.changed() => pulses.lock().hear_again(Instant::now()),
            () = pulses.changed.notified() => next = Instant::now(),
            _ = changed(&mut refusals) => {
                let now = Instant::now();
                next = next.min(said.map_or(now, |said| now.max(said + OF_REFUSALS)));
            }
            _ = changed(&mut in_force) => next = Instant::now(),
            () = process::due(due) => {
                // While the server is away nobody can be heard.
                if !site.bus.is_connected() {
                    pulses.lock().hear_again(Instant::now());
                } else if pulses.lock().judge(Instant::now(), wall_clock()) {
                    next = Instant::now();
                }
            }
            () = sleep_until(next) => {}
        }
        if next > Instant::now() {
            continue;
        }
        let held = in_force.borrow().clone();
        next = match say(&site, &pulses, held).await {
            Ok(()) => {
                backoff.reset();
                said = Some(Instant::now());
                Instant::now() + SIGN_OF_LIFE
            }
            Err(error) => {
                debug!(%error, "the site's health is not stored");
                Instant::now() + backoff.pause()
            }
        };
    }
}

/// The senders of these live as long as the site.
async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn say(site: &Site, pulses: &Pulses, in_force: Option<Arc<InForce>>) -> Result<(), BatchError> {
    let mut health = proto::SiteHealth {
        nodes: pulses.lock().nodes(),
        adopted_manifest_version: in_force.as_ref().map_or(0, |in_force| in_force.set.head.version.get()),
        road: in_force.map_or_else(String::new, |in_force| in_force.road.clone()),
        refusals: site.refusals.list(),
        time: wall_clock(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    // Of a site with thousands of nodes the judgement itself may leave no room for everything that was refused.
    while health.encoded_len() > MAX_REPORT && !health.refusals.is_empty() {
        health.refusals.remove(0);
    }
    // Whoever writes looks first whether the stream is the one that it was.
    if let Err(error) = site.look_at_state(Vec::new()).await {
        debug!(error = format!("{error:#}"), "the site's stream STATE");
    }
    let message = || Outgoing::new(Subject::Health(site.client.clone()), health.encode_to_vec().into());
    match site.bus.publish_batch(vec![message()]).await {
        Err(BatchError::NoStream) if site.ensure_streams().await.is_ok() => {
            site.bus.publish_batch(vec![message()]).await.map(drop)
        }
        said => said.map(drop),
    }
}
