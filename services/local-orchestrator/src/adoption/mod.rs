//! What comes into force at the site, and when.
//!
//! A road stages what it brings; [`domain::judge`] decides; the set in force is a folder of its own
//! ([`staging::Adopted`]), durable before the site's DESIRED is written from it ([`desired::SiteDesired`]). Whatever
//! dies in between, the next look puts it right: it compares the hub's head, staging, the set in force and the site's
//! stream, and carries on from there.

mod artifacts;
mod desired;
mod domain;
mod message;
mod road;
mod staging;
mod trust;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
pub use artifacts::wanted;
use bus::{Subject, proto, streams};
use service::Backoff;
pub use staging::Adopted;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use self::{
    desired::SiteDesired,
    domain::{Manifest, Verdict, judge},
    road::{BusRoad, Offer},
    staging::Parcel,
    trust::Trust,
};
use crate::{
    files, metrics,
    pull::Pulled,
    site::{InForce, Site, last},
};

/// How long something may be missing before it counts as lost: what was published together arrives together.
const MISMATCH: Duration = Duration::from_secs(10);

/// Between looks at the hub's head. Signals and reconnects bring every change at once; this finds what they lost.
const LOOK: Duration = Duration::from_secs(3600);

/// Between looks at the site's own stream: one small request on the same machine.
const LOOK_AT_SITE: Duration = Duration::from_secs(30);

pub struct Adopter {
    site: Arc<Site>,
    trust: Trust,
    road: BusRoad,
    adopted: Adopted,
    desired: SiteDesired,
    in_force: Option<Manifest>,
    /// When to look whether something is missing.
    suspicion: Option<Instant>,
    next_look: Instant,
    next_look_at_site: Instant,
    /// The hub must not be asked for everything more often than this.
    next_resync: Instant,
    resyncs: Backoff,
    /// Between attempts to write the site's stream.
    writes: Backoff,
}

impl Adopter {
    /// Takes up what is on disk.
    pub fn open(site: Arc<Site>, root_key: &str, data: &Path) -> anyhow::Result<Self> {
        let trust = Trust::open(root_key, site.tenant.clone(), site.client.clone(), data)?;
        let road = BusRoad::open(site.clone(), data, &trust)?;
        let adopted = open_adopted(data)?;
        let now = Instant::now();
        let mut adopter = Self {
            desired: SiteDesired::new(site.clone(), adopted.clone()),
            site,
            trust,
            road,
            adopted,
            in_force: None,
            suspicion: None,
            next_look: now,
            next_look_at_site: now,
            next_resync: now,
            resyncs: Backoff::new(MISMATCH, Duration::from_secs(900)),
            writes: Backoff::new(Duration::from_millis(200), LOOK_AT_SITE),
        };
        if let Some((version, parcels)) = adopter.adopted.load().context("reading the set in force")? {
            match restore(&parcels) {
                Ok((manifest, commit)) => adopter.enter_into_force(manifest, commit),
                Err(error) => {
                    warn!(%version, error = format!("{error:#}"), "the set in force cannot be read: the hub is asked for it")
                }
            }
        }
        Ok(adopter)
    }

    /// Adopts until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut hub = self.site.hub.connections();
        let mut server = self.site.bus.connections();
        self.weigh().await?;
        loop {
            let next_look = self.suspicion.map_or(self.next_look, |suspicion| suspicion.min(self.next_look));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                // The senders live as long as the connections that this value holds.
                _ = hub.changed() => {
                    self.road.reconnected();
                    self.next_look = Instant::now();
                }
                _ = server.changed() => {
                    self.desired.distrust();
                    self.next_look_at_site = Instant::now();
                }
                () = sleep_until(self.next_look_at_site) => self.bring_site().await,
                () = sleep_until(next_look), if self.site.hub.is_connected() => self.look_at_hub().await?,
                pulled = self.road.next() => match pulled? {
                    Pulled::Group(group) => {
                        self.road.stage(group, &mut self.trust).await?;
                        self.weigh().await?;
                    }
                    Pulled::Nothing => {}
                    Pulled::Lost(why) => {
                        debug!(why, "the hub's consumer");
                        self.suspicion = Some(Instant::now());
                    }
                },
            }
        }
    }

    /// Decides about what is staged.
    async fn weigh(&mut self) -> anyhow::Result<()> {
        let Some(offer) = self.road.offer() else {
            self.suspicion = Some(Instant::now() + MISMATCH);
            return Ok(());
        };
        let subject = Subject::DesiredHead(self.site.client.clone()).to_string();
        self.suspicion = None;
        if offer.keys < self.trust.number() {
            let reason = format!("KEYS has number {}, number {} is held", offer.keys, self.trust.number());
            self.site.refusals.add(&subject, &reason);
            return Ok(());
        }
        match judge(self.in_force.as_ref(), &offer.manifest) {
            Verdict::Adopt => self.adopt(offer).await?,
            Verdict::InForce => {}
            Verdict::Incomplete => self.suspicion = Some(Instant::now() + MISMATCH),
            Verdict::Refuse(refused) => self.site.refusals.add(&subject, &refused.to_string()),
        }
        Ok(())
    }

    async fn adopt(&mut self, Offer { manifest, commit, .. }: Offer) -> anyhow::Result<()> {
        service::stop_point("local-orchestrator.before-adopt");
        let version = manifest.head.version;
        let client = &self.site.client;
        let mut subjects = vec![Subject::DesiredHead(client.clone())];
        subjects.extend(manifest.nodes.keys().map(|node| Subject::DesiredNode(self.site.node(node))));
        let (adopted, staging) = (self.adopted.clone(), self.road.staging().clone());
        let taken = files::blocking(move || adopted.take(&staging, version, &subjects)).await;
        taken.with_context(|| format!("keeping version {version}"))?;
        info!(%version, commit, "adopted");
        self.enter_into_force(manifest, commit);
        self.resyncs.reset();
        self.bring_site().await;
        Ok(())
    }

    fn enter_into_force(&mut self, manifest: Manifest, commit: String) {
        let desired = manifest.nodes.iter().map(|(node, it)| (node.clone(), it.deployments.len() as u64)).collect();
        let version = manifest.head.version;
        metrics::MANIFEST_VERSION.with_label_values(&[self.site.client.as_str()]).set(version.get() as i64);
        self.site.in_force.send_replace(Some(InForce { version, commit, desired }));
        self.in_force = Some(manifest);
    }

    /// Brings the site's own streams to what is in force.
    async fn bring_site(&mut self) {
        let brought = match &self.in_force {
            Some(manifest) => self.desired.bring(manifest).instrument(info_span!("adopt")).await,
            None => self.site.ensure_streams().await,
        };
        let wait = match brought {
            Ok(()) => {
                self.writes.reset();
                LOOK_AT_SITE
            }
            Err(error) => {
                warn!(error = format!("{error:#}"), "the site's stream DESIRED is not up to date");
                self.writes.pause()
            }
        };
        self.next_look_at_site = Instant::now() + wait;
    }

    /// Compares the hub's head with the one in force, and asks for everything when something is missing.
    async fn look_at_hub(&mut self) -> anyhow::Result<()> {
        self.suspicion = None;
        self.next_look = Instant::now() + LOOK;
        match self.compare().await {
            Ok(Missing::Nothing) => {}
            Ok(Missing::Something) if Instant::now() >= self.next_resync => {
                info!("the hub holds what has not arrived here: asking for everything");
                self.next_resync = Instant::now() + self.resyncs.pause();
                if let Err(error) = self.road.start_over().await {
                    warn!(error = format!("{error:#}"), "resync");
                    // Nobody was bothered: ask soon.
                    self.resyncs.reset();
                }
                self.suspicion = Some(Instant::now() + MISMATCH);
            }
            Ok(Missing::Something) => self.suspicion = Some(self.next_resync),
            Err(error) => {
                debug!(error = format!("{error:#}"), "the hub cannot be compared with");
                self.suspicion = Some(Instant::now() + MISMATCH);
            }
        }
        Ok(())
    }

    async fn compare(&mut self) -> anyhow::Result<Missing> {
        let subject = Subject::DesiredHead(self.site.client.clone());
        loop {
            self.drain().await?;
            let Some(message) = last(&self.site.hub, streams::DESIRED, &subject).await? else {
                // Nothing was ever desired here, or the hub has lost its stream and is about to fill it again.
                return Ok(Missing::Nothing);
            };
            let head = match message::receive(&self.trust, &self.site.client, &subject, &message.payload) {
                Ok(message::Message::Head { head, .. }) => head,
                Ok(message::Message::Node { .. }) => return Ok(Missing::Nothing),
                Err(flaw) => {
                    self.site.refusals.add(&subject.to_string(), &format!("{:#}", anyhow!(flaw)));
                    return Ok(Missing::Nothing);
                }
            };
            let alone = Manifest { head, nodes: BTreeMap::new() };
            match judge(self.in_force.as_ref(), &alone) {
                Verdict::InForce => return Ok(Missing::Nothing),
                Verdict::Refuse(refused) => {
                    self.site.refusals.add(&subject.to_string(), &refused.to_string());
                    return Ok(Missing::Nothing);
                }
                Verdict::Incomplete | Verdict::Adopt => {}
            }
            // It may have been published after the last message was taken.
            if !self.drain().await? {
                return Ok(Missing::Something);
            }
        }
    }

    /// Takes what waits at the hub; whether there was something.
    async fn drain(&mut self) -> anyhow::Result<bool> {
        let mut some = false;
        loop {
            match self.road.now().await? {
                Pulled::Group(group) => {
                    some = true;
                    self.road.stage(group, &mut self.trust).await?;
                    self.weigh().await?;
                }
                Pulled::Nothing => return Ok(some),
                Pulled::Lost(why) => {
                    debug!(why, "the hub's consumer");
                    return Ok(some);
                }
            }
        }
    }
}

/// Whether the hub holds something that has not arrived.
enum Missing {
    Nothing,
    Something,
}

/// The folder of the set in force.
pub fn open_adopted(data: &Path) -> anyhow::Result<Adopted> {
    Adopted::open(data.join("adopted")).context("opening the folder of the set in force")
}

/// The manifest that messages of the set in force make. They were believed when they were adopted: KEYS that came
/// later take nothing out of force.
fn restore(parcels: &[(Subject, Parcel)]) -> anyhow::Result<(Manifest, String)> {
    let mut head = None;
    let mut nodes = BTreeMap::new();
    for (subject, Parcel { payload, .. }) in parcels {
        match subject {
            Subject::DesiredHead(_) => {
                let message: proto::DesiredHead = bus::decode(payload)?;
                head = Some((margo::Head::parse(&message.head)?, message.commit));
            }
            Subject::DesiredNode(id) => _ = nodes.insert(id.node.clone(), message::node(&bus::decode(payload)?)?),
            _ => {}
        }
    }
    let (head, commit) = head.context("there is no head")?;
    let manifest = Manifest { head, nodes };
    if manifest.is_whole() { Ok((manifest, commit)) } else { Err(anyhow!("a document is missing or changed")) }
}
