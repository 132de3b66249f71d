//! The road "bus": messages of the hub's stream DESIRED, pulled from this client's consumer.
//!
//! The stream keeps the last message of each subject, and the consumer brings each once: so what this road offers is what
//! is in force with the messages laid over it that came since. A message is answered only after the verdict on what it
//! was part of: then it is in force, and durable, or it is staged on disk ([`staging`]), or refused. If the process dies
//! before that, the hub holds a head that is not in force, the comparison at the start notices, and everything is asked
//! for again.
//!
//! What did not arrive is found by comparing the hub's head with what is in force: at the start, with every new
//! connection, hourly, and some seconds after something was found missing. If the hub holds more, this road asks it to
//! send everything again (`site.<client>.resync`), each time after a longer pause.

mod staging;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use async_nats::jetstream::Message;
use bus::{Subject, streams, trace};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use margo::{Digest, NodeName};
use process::Backoff;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, info_span, warn};

use self::staging::{Parcel, Staging};
use super::super::{
    domain::{NodeDesired, Objection, Verdict},
    in_force::InForce,
    message,
    road::{Documents, Offer, Road, SignedHead, Traces},
};
use crate::{
    pull::{Pull, Pulled},
    site::Site,
};

/// How long something may be missing before it counts as lost: what was published together arrives together.
const MISMATCH: Duration = Duration::from_secs(10);

/// Between looks at the hub's head. Signals and reconnects bring every change at once; this finds what they lost.
const LOOK: Duration = Duration::from_secs(3600);

/// Pause after the connection itself failed.
const TROUBLE: Duration = Duration::from_secs(1);

/// The newest head that came.
struct HeldHead {
    signed: SignedHead,
    parcel: Parcel,
    staged: bool,
}

/// A node's message that came and is not in force.
struct HeldNode {
    desired: NodeDesired,
    trace: Option<String>,
    /// `None` when the message is in the staging folder.
    payload: Option<Bytes>,
}

/// A message that the hub waits for an answer to.
struct Unanswered {
    reply: async_nats::Subject,
    /// Whether the verdict on the offer is the answer to this message; the others were judged when they came.
    is_head: bool,
    /// A refused message becomes a dead letter at the hub, where its sender can see it.
    refused: Option<String>,
}

/// What was found out about the head that is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// Nothing yet: the rest may be on its way.
    No,
    /// The hub holds this head and has nothing more waiting for us.
    Yes,
    /// The same, after the hub has sent everything again.
    AfterResync,
}

/// The road; one for each site.
pub struct BusRoad {
    site: Arc<Site>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    pull: Pull,
    staging: Staging,
    head: Option<HeldHead>,
    nodes: BTreeMap<NodeName, HeldNode>,
    /// Which held message a document stands in.
    holders: HashMap<Digest, NodeName>,
    /// Messages that wait for the verdict, in the order of arrival.
    unanswered: Vec<Unanswered>,
    /// Whether something came that no verdict was told on.
    news: bool,
    compared: Compared,
    /// The head's message that was refused last; it is no news when the hub still holds it.
    refused: Option<Bytes>,
    /// The head's message for which the hub was asked last to send everything again.
    resynced: Option<Bytes>,
    connections: watch::Receiver<u64>,
    next_look: Instant,
    /// When to look whether something is missing.
    suspicion: Option<Instant>,
    /// The hub must not be asked for everything more often than this.
    next_resync: Instant,
    resyncs: Backoff,
}

impl BusRoad {
    /// Takes up what was staged before. `in_force` is what the hub's head is compared with.
    pub fn open(
        site: Arc<Site>,
        in_force: watch::Receiver<Option<Arc<InForce>>>,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let staging = Staging::open(folder.join("staging")).context("opening the staging folder")?;
        let pull = Pull::new(site.hub.clone(), streams::DESIRED, site.client.as_str()).ending_with(ends_a_batch);
        let staged = staging.load().context("reading the staging folder")?;
        let now = Instant::now();
        let mut road = Self {
            in_force,
            connections: site.hub.connections(),
            site,
            pull,
            staging,
            head: None,
            nodes: BTreeMap::new(),
            holders: HashMap::new(),
            unanswered: Vec::new(),
            news: false,
            compared: Compared::No,
            refused: None,
            resynced: None,
            next_look: now,
            suspicion: None,
            next_resync: now,
            resyncs: Backoff::new(MISMATCH, Duration::from_secs(900)),
        };
        for (subject, parcel) in staged {
            // What no longer passes is as good as lost.
            if let Err(flaw) = road.hold(&subject, parcel) {
                debug!(%subject, flaw, "staged message left out");
            }
        }
        road.mark_staged();
        Ok(road)
    }

    /// Holds a message that can be part of an offer; an error says why it never can.
    fn hold(&mut self, subject: &Subject, parcel: Parcel) -> Result<(), String> {
        let told = |flaw: message::Flaw| process::chain(&flaw);
        match subject {
            Subject::DesiredHead(client) if *client == self.site.client => {
                let signed = message::head(&parcel.payload).map_err(told)?;
                self.head = Some(HeldHead { signed, parcel, staged: false });
                self.compared = Compared::No;
            }
            Subject::DesiredNode(id) if id.client == self.site.client => {
                let desired = message::node(&parcel.payload).map_err(told)?;
                self.holders.extend(desired.deployments.values().map(|digest| (*digest, id.node.clone())));
                let held = HeldNode { desired, trace: parcel.trace, payload: Some(parcel.payload) };
                self.nodes.insert(id.node.clone(), held);
            }
            _ => return Err("it is not about this site".to_owned()),
        }
        self.news = true;
        Ok(())
    }

    fn mark_staged(&mut self) {
        for held in self.nodes.values_mut() {
            held.payload = None;
        }
        if let Some(head) = &mut self.head {
            head.staged = true;
        }
    }

    /// Takes what was pulled. What can be refused by itself is refused here and does not get in the way of what is held.
    fn take(&mut self, group: Vec<Message>) {
        for Message { message, .. } in group {
            let span = info_span!("stage", subject = %message.subject, trace_id = tracing::field::Empty);
            trace::continue_from(&span, message.headers.as_ref());
            let _entered = span.enter();
            let parcel = Parcel { trace: trace::current_text(), payload: message.payload };
            let subject = message.subject.parse::<Subject>();
            let is_head = matches!(subject, Ok(Subject::DesiredHead(_)));
            let held = subject.map_err(|error| error.to_string()).and_then(|subject| self.hold(&subject, parcel));
            let refused = held.err();
            if let Some(reason) = &refused {
                self.site.refusals.add(&message.subject, reason);
            }
            self.unanswered.extend(message.reply.map(|reply| Unanswered { reply, is_head, refused }));
        }
    }

    /// What is in force with the held messages over it; `None` when there is no head or nothing new.
    fn offer(&self) -> Option<Offer> {
        let head = self.head.as_ref().filter(|_| self.news)?;
        let in_force = self.in_force.borrow();
        let mut nodes = in_force.as_ref().map(|in_force| in_force.set.nodes.clone()).unwrap_or_default();
        nodes.extend(self.nodes.iter().map(|(node, held)| (node.clone(), held.desired.clone())));
        let traced = |(node, held): (&NodeName, &HeldNode)| Some((node.clone(), held.trace.clone()?));
        let traces = Traces { head: head.parcel.trace.clone(), nodes: self.nodes.iter().filter_map(traced).collect() };
        let complete = self.compared == Compared::AfterResync;
        Some(Offer { head: head.signed.clone(), nodes, complete, traces })
    }

    /// The next offer. Cancel-safe: whatever has arrived is held, and `news` says that it was not offered.
    async fn next_offer(&mut self) -> Offer {
        loop {
            if let Some(offer) = self.offer() {
                self.news = false;
                return offer;
            }
            if !self.unanswered.is_empty() {
                // Nodes without a head, or nothing but flaws: there is no verdict to wait for.
                self.stage().await;
                self.suspicion.get_or_insert_with(|| Instant::now() + MISMATCH);
            }
            let look = self.suspicion.map_or(self.next_look, |suspicion| suspicion.min(self.next_look));
            tokio::select! {
                biased;
                // The sender lives as long as the connection that this value holds.
                _ = self.connections.changed() => {
                    self.pull.close();
                    self.next_look = Instant::now();
                }
                () = sleep_until(look), if self.site.hub.is_connected() => self.look().await,
                pulled = self.pull.next() => match pulled {
                    Ok(Pulled::Group(group)) => self.take(group),
                    Ok(Pulled::Nothing) => {}
                    Ok(Pulled::Lost(why)) => {
                        debug!(why, "the hub's consumer");
                        self.suspicion = Some(Instant::now());
                    }
                    Err(error) => {
                        warn!(error = format!("{error:#}"), "the road to the hub");
                        sleep(TROUBLE).await;
                    }
                },
            }
        }
    }

    /// Compares the hub's head with what is in force and what is held. If the hub has more, that becomes news.
    async fn look(&mut self) {
        match self.compare().await {
            Ok(()) => {
                self.suspicion = None;
                self.next_look = Instant::now() + LOOK;
            }
            Err(error) => {
                debug!(error = format!("{error:#}"), "the hub cannot be compared with");
                self.suspicion = Some(Instant::now() + MISMATCH);
            }
        }
    }

    async fn compare(&mut self) -> anyhow::Result<()> {
        let subject = Subject::DesiredHead(self.site.client.clone());
        loop {
            self.drain().await?;
            let Some(message) = self.site.hub.last(streams::DESIRED, &subject).await? else {
                // Nothing was ever desired here, or the hub has lost its stream and is about to fill it again.
                return Ok(());
            };
            // It may have been published after the last message was taken.
            if self.drain().await? {
                continue;
            }
            if self.refused.as_ref() == Some(&message.payload) {
                return Ok(());
            }
            let claimed = message::claimed(&message.payload);
            if claimed.is_some()
                && claimed.as_ref() == self.in_force.borrow().as_ref().map(|in_force| &in_force.set.head)
            {
                return Ok(());
            }
            let span = info_span!("stage", %subject, trace_id = tracing::field::Empty);
            trace::continue_from(&span, Some(&message.headers));
            let resynced = self.resynced.as_ref() == Some(&message.payload);
            let parcel = Parcel { trace: span.in_scope(trace::current_text), payload: message.payload };
            if let Err(reason) = self.hold(&subject, parcel) {
                self.site.refusals.add(&subject.to_string(), &reason);
                return Ok(());
            }
            self.compared = if resynced { Compared::AfterResync } else { Compared::Yes };
            return Ok(());
        }
    }

    /// Takes and stages what waits at the hub; whether there was something. Staged at once, so that a site of any size
    /// fits into memory.
    async fn drain(&mut self) -> anyhow::Result<bool> {
        let mut some = false;
        loop {
            match self.pull.now().await? {
                Pulled::Group(group) => {
                    some = true;
                    self.take(group);
                    self.stage().await;
                }
                Pulled::Nothing => return Ok(some),
                Pulled::Lost(why) => {
                    debug!(why, "the hub's consumer");
                    return Ok(some);
                }
            }
        }
    }

    /// Puts on the disk what is held in memory only, then answers the hub. Without the disk nothing is answered, and the
    /// hub sends it again.
    async fn stage(&mut self) {
        let of_node = |(node, held): (&NodeName, &HeldNode)| {
            let (trace, payload) = (held.trace.clone(), held.payload.clone()?);
            Some((Subject::DesiredNode(self.site.node(node)), Parcel { trace, payload }))
        };
        let mut parcels: Vec<_> = self.nodes.iter().filter_map(of_node).collect();
        if let Some(head) = self.head.as_ref().filter(|head| !head.staged) {
            parcels.push((Subject::DesiredHead(self.site.client.clone()), head.parcel.clone()));
        }
        if !parcels.is_empty() {
            let staging = self.staging.clone();
            if let Err(error) = disk::blocking(move || staging.put(&parcels)).await {
                warn!(error = process::chain(&error), "messages are not staged");
                self.unanswered.clear();
                return;
            }
            self.mark_staged();
        }
        self.answer().await;
    }

    /// Answers every message that was taken. What the hub does not hear it sends again.
    #[expect(clippy::disallowed_methods, reason = "the subject of an acknowledgement comes from the server")]
    async fn answer(&mut self) {
        for Unanswered { reply, refused, .. } in self.unanswered.drain(..) {
            let answer = refused.map_or(Bytes::from_static(b"+ACK"), |reason| format!("+TERM {reason}").into());
            if let Err(error) = self.site.hub.client().publish(reply, answer).await {
                debug!(error = process::chain(&error), "a message is not answered");
            }
        }
    }

    /// Forgets what is in force by now, stages the rest, and answers.
    async fn settle(&mut self) {
        let in_force = self.in_force.borrow().clone();
        if let Some(in_force) = in_force {
            self.nodes.retain(|node, held| in_force.set.nodes.get(node) != Some(&held.desired));
        }
        self.head = None;
        self.news = false;
        let nodes = &self.nodes;
        self.holders.retain(|_, node| nodes.contains_key(&*node));
        self.stage().await;
        let kept: Vec<Subject> = self.nodes.keys().map(|node| Subject::DesiredNode(self.site.node(node))).collect();
        let staging = self.staging.clone();
        let removed = disk::blocking(move || staging.keep_only(|subject| kept.contains(subject))).await;
        if let Err(error) = removed {
            warn!(error = process::chain(&error), "the staging folder is not tidied");
        }
    }

    /// Something is missing. Waits a while for it; when the hub was compared with, asks for everything.
    async fn miss(&mut self) {
        self.stage().await;
        if self.compared == Compared::No {
            self.suspicion = Some(Instant::now() + MISMATCH);
        } else if Instant::now() < self.next_resync {
            self.suspicion = Some(self.next_resync);
        } else {
            info!("the hub holds what has not arrived here: asking for everything");
            self.next_resync = Instant::now() + self.resyncs.pause();
            self.suspicion = Some(Instant::now() + MISMATCH);
            let head = self.head.as_ref().map(|head| head.parcel.payload.clone());
            match self.start_over().await {
                Ok(()) => self.resynced = head,
                Err(error) => {
                    warn!(error = format!("{error:#}"), "resync");
                    // Nobody was bothered: ask soon.
                    self.resyncs.reset();
                    self.next_resync = Instant::now();
                }
            }
        }
    }

    /// Empties staging and asks the hub to send everything again.
    async fn start_over(&mut self) -> anyhow::Result<()> {
        let staging = self.staging.clone();
        let emptied = disk::blocking(move || staging.keep_only(|_| false)).await;
        emptied.context("emptying the staging folder")?;
        self.head = None;
        self.nodes.clear();
        self.holders.clear();
        let subject = Subject::Site(self.site.client.clone(), bus::SiteVerb::Resync);
        let asked = self.site.hub.call::<_, ()>(&subject, &(), None).await;
        // The consumer is another one now.
        self.pull.close();
        asked.context("asking the hub to send everything again")
    }

    async fn find(&mut self, wanted: Vec<Digest>) -> anyhow::Result<Documents> {
        let mut found = Documents::new();
        for digest in wanted {
            if found.contains_key(&digest) {
                continue;
            }
            let Some(node) = self.holders.get(&digest).filter(|node| self.nodes.contains_key(*node)) else { continue };
            let payload = match self.nodes.get(node).and_then(|held| held.payload.clone()) {
                Some(payload) => payload,
                None => staged(self.staging.clone(), Subject::DesiredNode(self.site.node(node))).await?,
            };
            found.extend(message::documents(&payload)?);
        }
        Ok(found)
    }

    async fn hear(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Adopt | Verdict::InForce => {
                self.refused = None;
                self.resynced = None;
                self.suspicion = None;
                self.resyncs.reset();
                self.settle().await;
            }
            // The head is believed, so what is missing may still come.
            Verdict::Incomplete | Verdict::Refuse(Objection::NotWhole(_)) => self.miss().await,
            Verdict::Refuse(objection) => {
                let head = self.head.take();
                self.refused = head.map(|head| head.parcel.payload);
                if let Some(newest) = self.unanswered.iter_mut().rev().find(|unanswered| unanswered.is_head) {
                    newest.refused.get_or_insert(objection.to_string());
                }
                self.settle().await;
            }
        }
    }
}

impl Road for BusRoad {
    fn name(&self) -> &'static str {
        "bus"
    }

    fn next(&mut self) -> BoxFuture<'_, Offer> {
        self.next_offer().boxed()
    }

    fn documents(&mut self, wanted: Vec<Digest>) -> BoxFuture<'_, anyhow::Result<Documents>> {
        self.find(wanted).boxed()
    }

    fn verdict<'a>(&'a mut self, verdict: &'a Verdict) -> BoxFuture<'a, ()> {
        self.hear(verdict).boxed()
    }
}

/// git-observer publishes a head last. When nothing waits behind one, the group is whole.
fn ends_a_batch(message: &Message) -> bool {
    matches!(message.subject.parse(), Ok(Subject::DesiredHead(_))) && message.info().is_ok_and(|info| info.pending == 0)
}

/// The bytes of a message in the staging folder.
async fn staged(staging: Staging, subject: Subject) -> io::Result<Bytes> {
    let parcel = disk::blocking(move || staging.read(&subject)).await?;
    Ok(parcel.ok_or(io::ErrorKind::NotFound)?.payload)
}
