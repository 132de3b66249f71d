//! The one place where an offer becomes what is in force.
//!
//! Of an order, this costs: verifying two signatures, one append with one sync ([`super::in_force`]), one batch at the
//! site's server ([`super::stream`]), in this order, because nothing is served that a power cut could take back. The road
//! hears the verdict last: what it does then (answering the hub, tidying up) delays no node.
//!
//! A disk or a server in trouble ends nothing: the offer is kept and tried again, and until then what was in force stays.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use bus::{MAX_PLAIN, Subject, streams};
use bytes::Bytes;
use futures::future::select_all;
use margo::{Digest, NodeIdentity, NodeName};
use process::{Backoff, due};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::{
    domain::{DesiredSet, NodeDesired, Objection, Verdict, judge},
    in_force::{Adopted, InForce, Next},
    message,
    road::{Documents, Offer, Road, Wanted},
    stream::SiteDesired,
    trust::Trust,
};
use crate::{metrics, site::Site};

/// Between looks at the site's own stream: one small request on the same machine.
const LOOK_AT_SITE: Duration = Duration::from_secs(30);

/// Messages are appended in portions of so many bytes, so that a new site of any size fits into memory.
const PORTION: usize = 8 << 20;

/// An offer that could not be handled for now.
struct Postponed {
    road: usize,
    offer: Offer,
    until: Instant,
}

/// Chooses among what the roads offer, and puts it in force.
pub struct Adopter {
    site: Arc<Site>,
    trust: Trust,
    roads: Vec<Box<dyn Road>>,
    adopted: Adopted,
    desired: SiteDesired,
    next_look_at_site: Instant,
    /// Between attempts to write the site's stream.
    writes: Backoff,
    /// While there is one, no road is asked for more: its own would forget the documents.
    postponed: Option<Postponed>,
    attempts: Backoff,
}

impl Adopter {
    /// An adopter of what these roads bring. What is on disk stays in force.
    pub fn new(site: Arc<Site>, trust: Trust, adopted: Adopted, roads: Vec<Box<dyn Road>>) -> anyhow::Result<Self> {
        ensure!(!roads.is_empty(), "a site without a road would wait for ever");
        let adopter = Self {
            desired: SiteDesired::new(site.clone()),
            site,
            trust,
            roads,
            adopted,
            next_look_at_site: Instant::now(),
            writes: Backoff::new(streams::FIRST_PAUSE, LOOK_AT_SITE),
            postponed: None,
            attempts: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
        };
        adopter.tell_version();
        Ok(adopter)
    }

    /// Considers offers, one after the other, and keeps the site's DESIRED as what is in force says, until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut server = self.site.bus.connections();
        loop {
            let again = self.postponed.as_ref().map(|postponed| postponed.until);
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                // The sender lives as long as the connection that this value holds.
                _ = server.changed() => {
                    self.desired.distrust();
                    self.next_look_at_site = Instant::now();
                }
                () = sleep_until(self.next_look_at_site) => {
                    let looked = self.desired.look().await;
                    self.bring_site(looked).await;
                }
                () = due(again) => {
                    if let Some(Postponed { road, offer, .. }) = self.postponed.take() {
                        self.consider(road, offer).await;
                    }
                }
                (road, offer) = next(&mut self.roads), if again.is_none() => self.consider(road, offer).await,
            }
        }
    }

    /// Decides about an offer, and tells the road.
    async fn consider(&mut self, road: usize, offer: Offer) {
        let span = info_span!("adopt", road = self.roads[road].name(), trace_id = tracing::field::Empty);
        if let Some(trace) = &offer.traces.head {
            bus::trace::continue_from_text(&span, trace);
        }
        match self.decide(road, &offer).instrument(span).await {
            Ok(verdict) => {
                self.attempts.reset();
                if let Verdict::Refuse(objection) = &verdict {
                    let subject = Subject::DesiredHead(self.site.client.clone()).to_string();
                    self.site.refusals.add(&subject, &objection.to_string());
                }
                self.roads[road].verdict(&verdict).await;
            }
            Err(error) => {
                let pause = self.attempts.pause();
                warn!(error = format!("{error:#}"), ?pause, "an offer waits");
                self.postponed = Some(Postponed { road, offer, until: Instant::now() + pause });
            }
        }
        if let Err(error) = self.adopted.tidy().await {
            warn!(error = process::chain(&error), "the file of what is in force stays large");
        }
    }

    /// An error says that the site cannot tell now.
    async fn decide(&mut self, road: usize, offer: &Offer) -> anyhow::Result<Verdict> {
        let believed = match self.trust.verify(self.adopted.keys(), &offer.head) {
            Ok(believed) => believed,
            Err(untrusted) => return Ok(Verdict::Refuse(Objection::Untrusted(process::chain(&untrusted)))),
        };
        let in_force = self.adopted.in_force();
        if in_force.is_none() && self.adopted.floor(None).is_none() {
            self.find_floor().await?;
        }
        let set = DesiredSet { head: believed.head, list: offer.list.clone() };
        let verdict = judge(self.adopted.held(in_force.as_deref()), &set, offer.complete);
        if verdict == Verdict::Adopt {
            return self.adopt(road, offer, set, believed.keys, in_force).await;
        }
        self.adopted.raise_keys(believed.keys).await.context("keeping the number of KEYS")?;
        Ok(verdict)
    }

    /// A site that lost its file still knows from its own stream how far it was, and goes back to no older version.
    async fn find_floor(&mut self) -> anyhow::Result<()> {
        let subject = Subject::DesiredHead(self.site.client.clone());
        let message = self.site.bus.last(streams::DESIRED, &subject).await?;
        let signed = message.and_then(|message| message::head(&message.payload).ok());
        if let Some(believed) = signed.and_then(|signed| self.trust.verify(self.adopted.keys(), &signed).ok()) {
            info!(version = %believed.head.version, "the site's own stream tells how far it was");
            self.adopted.raise_floor(believed.head);
        }
        Ok(())
    }

    async fn adopt(
        &mut self,
        road: usize,
        offer: &Offer,
        set: DesiredSet,
        keys: u64,
        before: Option<Arc<InForce>>,
    ) -> anyhow::Result<Verdict> {
        let gathered = self.gather(road, &set, before.clone()).await;
        if !matches!(gathered, Ok(Gathered::Messages(_))) {
            self.adopted.abandon().await.context("forgetting what is not adopted")?;
        }
        let messages = match gathered? {
            Gathered::Messages(messages) => messages,
            Gathered::Nothing(verdict) => return Ok(verdict),
        };
        process::stop_point("local-orchestrator.before-adopt");
        let version = set.head.version;
        let (head, traces, road) = (offer.head.clone(), offer.traces.clone(), self.roads[road].name());
        let next = Next { set, head, keys, road, traces, messages };
        let in_force = self.adopted.bring_into_force(next).await;
        let in_force = in_force.with_context(|| format!("keeping version {version}"))?;
        process::stop_point("local-orchestrator.adopted");
        info!(%version, commit = in_force.commit, road, "adopted");
        self.tell_version();
        // Nodes are answered from what is in force, so they need not wait for the stream.
        tell_nodes(&self.site, &in_force, before.as_deref()).await;
        self.bring_site(Ok(())).await;
        Ok(Verdict::Adopt)
    }

    /// Puts the messages of all nodes that change into the file.
    async fn gather(
        &mut self,
        road: usize,
        set: &DesiredSet,
        before: Option<Arc<InForce>>,
    ) -> anyhow::Result<Gathered> {
        let earlier = before.as_ref().map(|before| &before.set);
        let mut places = BTreeMap::new();
        let mut portion = Vec::new();
        let mut size = 0;
        let mut changed = set.changed_since(earlier).peekable();
        while let Some((node, desired)) = changed.next() {
            let documents = match self.documents(road, node, desired, before.clone()).await? {
                Fetched::All(documents) => documents,
                Fetched::NotAll => return Ok(Gathered::Nothing(Verdict::Incomplete)),
                Fetched::Wrong => {
                    return Ok(Gathered::Nothing(Verdict::Refuse(Objection::NotWhole(set.head.version))));
                }
            };
            if documents.values().map(Bytes::len).sum::<usize>() > MAX_PLAIN {
                return Ok(Gathered::Nothing(Verdict::Refuse(Objection::TooLarge(node.clone()))));
            }
            let identity = desired.identity.as_ref().and_then(|digest| documents.get(digest));
            let identity = match identity.map(|bytes| NodeIdentity::parse(bytes)).transpose() {
                Ok(identity) => identity,
                Err(error) => {
                    let objection = Objection::Identity { node: node.clone(), reason: error.to_string() };
                    return Ok(Gathered::Nothing(Verdict::Refuse(objection)));
                }
            };
            let Some(message) = message::encode(&self.site.node(node), desired, &documents) else {
                return Ok(Gathered::Nothing(Verdict::Incomplete));
            };
            size += message.len();
            portion.push(((node.clone(), identity), message));
            if size >= PORTION || changed.peek().is_none() {
                size = 0;
                let (nodes, messages): (Vec<_>, Vec<Bytes>) = portion.drain(..).unzip();
                let put = self.adopted.put(messages).await.context("keeping documents")?;
                let put = nodes.into_iter().zip(put).map(|((node, identity), place)| (node, (place, identity)));
                places.extend(put);
            }
        }
        Ok(Gathered::Messages(places))
    }

    /// All documents of a node: those that it runs already, and the rest from the road.
    async fn documents(
        &mut self,
        road: usize,
        node: &NodeName,
        desired: &NodeDesired,
        before: Option<Arc<InForce>>,
    ) -> anyhow::Result<Fetched> {
        let mut documents = Documents::new();
        if let Some(before) = before {
            let node = node.clone();
            let held = disk::blocking(move || before.node(&node)).await.context("reading what is in force")?;
            // What cannot be read is fetched like anything that is not there.
            documents = held.and_then(|held| message::documents(&held.payload).ok()).unwrap_or_default();
        }
        let wanted = |deployment, digest| Wanted { node: node.clone(), deployment, digest };
        let identity = desired.identity.iter().map(|digest| wanted(None, *digest));
        let named = desired.deployments.iter().map(|(id, digest)| wanted(Some(*id), *digest));
        let named: BTreeMap<Digest, Wanted> = identity.chain(named).map(|wanted| (wanted.digest, wanted)).collect();
        documents.retain(|digest, _| named.contains_key(digest));
        let missing: Vec<_> = named.into_values().filter(|wanted| !documents.contains_key(&wanted.digest)).collect();
        if missing.is_empty() {
            return Ok(Fetched::All(documents));
        }
        match self.roads[road].documents(missing.clone()).await {
            Ok(fetched) => documents.extend(fetched),
            Err(error) => {
                info!(%node, error = format!("{error:#}"), "documents have to be asked for again");
                return Ok(Fetched::NotAll);
            }
        }
        for Wanted { digest, .. } in &missing {
            match documents.get(digest) {
                Some(document) if Digest::of(document) == *digest => {}
                Some(_) => return Ok(Fetched::Wrong),
                None => return Ok(Fetched::NotAll),
            }
        }
        Ok(Fetched::All(documents))
    }

    fn tell_version(&self) {
        if let Some(in_force) = self.adopted.in_force() {
            let version = in_force.set.head.version.get() as i64;
            metrics::MANIFEST_VERSION.with_label_values(&[self.site.client.as_str()]).set(version);
        }
    }

    /// Brings the site's own streams to what is in force, unless the look at them failed.
    async fn bring_site(&mut self, looked: anyhow::Result<()>) {
        let brought = match (looked, self.adopted.in_force()) {
            (Ok(()), Some(in_force)) => self.desired.bring(&in_force).await,
            (looked, _) => looked,
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
}

/// Tells the nodes that changed, and the site's own services, to look again. Whoever does not hear it asks by itself.
async fn tell_nodes(site: &Site, in_force: &InForce, before: Option<&InForce>) {
    let earlier = before.map(|before| &before.set);
    let gone = before.iter().flat_map(|before| before.set.list.nodes()).map(|(node, _)| node);
    let gone = gone.filter(|node| in_force.set.list.get(node).is_none());
    let changed = in_force.set.changed_since(earlier).map(|(node, _)| node).chain(gone);
    let changed = changed.map(|node| Subject::ChangedNode(site.node(node)));
    for subject in changed.chain([Subject::ChangedHead(site.client.clone())]) {
        if let Err(error) = site.bus.signal(&subject, Bytes::new()).await {
            warn!(%subject, error = format!("{error:#}"), "not told of a change");
        }
    }
}

/// The next offer, and which of the roads made it.
async fn next(roads: &mut [Box<dyn Road>]) -> (usize, Offer) {
    let (offer, road, _) = select_all(roads.iter_mut().map(|road| road.next())).await;
    (road, offer)
}

/// What becomes of the messages of an offer.
enum Gathered {
    /// Their places in the file, and who the nodes are, by node.
    Messages(BTreeMap<NodeName, (super::journal::Place, Option<NodeIdentity>)>),
    /// There is no set to be adopted.
    Nothing(Verdict),
}

/// What a road gave of the documents of one node.
enum Fetched {
    All(Documents),
    /// Some documents are not there yet; the road may bring them later.
    NotAll,
    /// One of them is another document than the one that was asked for.
    Wrong,
}
