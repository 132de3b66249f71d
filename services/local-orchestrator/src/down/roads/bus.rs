//! The road "bus": the site asks the hub for the newest head, and then for what it lacks of the commit that the head names.
//!
//! A list is texts of digests in three levels, so the site fetches those that differ from what it holds: folders, then
//! nodes, then NODE files and documents. Everything is found by its digest and checked when it comes; what was checked is kept
//! over heads and restarts ([`Contents`]) until the set is in force. A head that moves on does not disturb a fetch, for the
//! hub answers from the commit that the ask names.
//!
//! It asks at the start, with every new connection, on a signal, hourly, and again after a pause when an ask was in vain.

mod contents;

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use async_nats::Subscriber;
use bus::{Pattern, SiteVerb, Subject, decode_within, proto};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use margo::{Digest, Head, ManifestList, ManifestVersion, NodeEntry, NodeName, parse_folder, parse_top};
use process::{Backoff, jittered};
use prost::Message as _;
use proto::{DesiredAnswer, DesiredAsk, DesiredOutcome, DesiredPart, DocumentName, desired_part::Part};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use self::contents::Contents;
use super::super::{
    domain::{Objection, Verdict},
    in_force::InForce,
    road::{Documents, Offer, Road, SignedHead, Traces, Wanted},
};
use crate::site::Site;

/// The form of answers that this road understands.
const PROTOCOL: u32 = 1;

/// Between asks without a signal. Signals and reconnects bring every change at once; this finds what they lost.
const LOOK: Duration = Duration::from_secs(3600);

/// Parts of one ask. An answer holds at most 1 MiB, so more would be sent in vain.
const PARTS: usize = 200;

/// The largest answer: a page of 1 MiB, and room for the head.
const MAX_ANSWER: usize = 2 << 20;

/// The largest part: a node's documents together have no more.
const MAX_PART: u64 = bus::MAX_PLAIN as u64;

/// Nodes of one client. A list that names more is refused before it fills the memory.
const MAX_NODES: usize = 100_000;

/// What the hub answered is not what it says that it is. It is asked again, after a pause.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    /// The head itself says nothing.
    #[error(transparent)]
    Head(#[from] margo::ManifestError),
    /// A text or a file is another one than the head was signed for.
    #[error(transparent)]
    Part(Objection),
}

/// The bus between hub and site, as a road.
pub struct BusRoad {
    site: Arc<Site>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
    connections: watch::Receiver<u64>,
    /// `None` before the first ask.
    signals: Option<Subscriber>,
    contents: Contents,
    /// When the hub is asked next without a signal.
    next: Instant,
    backoff: Backoff,
    /// The version that is fetched, or was fetched last.
    version: Option<ManifestVersion>,
    /// The commit of the last offer.
    commit: String,
    /// The head whose list is being fetched, with its traces. An ask that was given up, because the site had something else to
    /// do, goes on from here: a newer head does not start it anew.
    fetching: Option<(SignedHead, Traces)>,
    /// The head of the last offer.
    offered: Option<SignedHead>,
    /// A head that was refused. It is not offered again: nothing in it changes.
    refused: Option<SignedHead>,
}

impl BusRoad {
    /// The road from the hub that this site is connected to. What was fetched and is not in force lies in `data`.
    pub fn open(site: Arc<Site>, in_force: watch::Receiver<Option<Arc<InForce>>>, data: &Path) -> anyhow::Result<Self> {
        let contents = Contents::open(data.join("fetched")).context("opening the folder of what was fetched")?;
        let connections = site.hub.connections();
        Ok(Self {
            site,
            in_force,
            connections,
            signals: None,
            contents,
            next: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(60)),
            version: None,
            commit: String::new(),
            fetching: None,
            offered: None,
            refused: None,
        })
    }

    async fn next_offer(&mut self) -> Offer {
        loop {
            self.wait().await;
            match self.look().await {
                Ok(offer) => {
                    self.backoff.reset();
                    self.next = Instant::now() + jittered(LOOK);
                    if let Some(offer) = offer {
                        return offer;
                    }
                }
                Err(error) => {
                    self.fetching = None;
                    self.show(&error);
                    let pause = self.backoff.pause();
                    debug!(error = format!("{error:#}"), ?pause, "the hub was asked in vain");
                    self.next = Instant::now() + pause;
                }
            }
        }
    }

    /// Waits until the hub is to be asked. Cancel-safe: an ask that is due stays due until it was answered.
    async fn wait(&mut self) {
        loop {
            self.site.hub.connected().await;
            if self.signals.is_none() {
                // The client renews it with each connection.
                match self.site.hub.subscribe(Pattern::ChangedOf(self.site.client.clone())).await {
                    Ok(signals) => self.signals = Some(signals),
                    Err(error) => warn!(error = format!("{error:#}"), "signals of the hub are not heard"),
                }
            }
            let signal = async {
                match &mut self.signals {
                    Some(signals) => drop(signals.next().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = sleep_until(self.next) => break,
                // The sender lives as long as the connection that this value holds.
                _ = self.connections.changed() => self.next = Instant::now(),
                () = signal => self.next = Instant::now(),
            }
        }
        // Signals from before the ask are answered by it.
        while self.signals.as_mut().is_some_and(|signals| signals.next().now_or_never().flatten().is_some()) {}
    }

    /// Asks for the newest head, and fetches its list. `None` says that there is nothing new.
    async fn look(&mut self) -> anyhow::Result<Option<Offer>> {
        let in_force = self.in_force.borrow().clone();
        let (head, traces) = match self.fetching.clone() {
            Some(fetching) => fetching,
            None => match self.newest(in_force.as_deref()).await? {
                Some(newest) => self.fetching.insert(newest).clone(),
                None => return Ok(None),
            },
        };
        let held = in_force.map(|in_force| in_force.set.list.clone()).unwrap_or_default();
        let list = self.list(&head, &held).await?;
        self.fetching = None;
        (self.commit, self.offered) = (head.commit.clone(), Some(head.clone()));
        Ok(Some(Offer { head, list, complete: true, traces }))
    }

    /// Asks for the newest head, and keeps what came along with it. `None` says that there is nothing new.
    async fn newest(&mut self, in_force: Option<&InForce>) -> anyhow::Result<Option<(SignedHead, Traces)>> {
        let held = in_force.map_or(0, |in_force| in_force.set.head.version.get());
        let answer = self.ask(DesiredAsk { protocol: PROTOCOL, held, ..DesiredAsk::default() }).await?;
        match answer.outcome() {
            DesiredOutcome::Found => {}
            DesiredOutcome::Nothing | DesiredOutcome::Held => return Ok(None),
            DesiredOutcome::NotNow | DesiredOutcome::Gone | DesiredOutcome::Unspecified => {
                bail!("the hub cannot tell now: {}", answer.outcome().as_str_name())
            }
        }
        let DesiredAnswer { head, pieces, traceparent, node_traces, .. } = answer;
        let head: SignedHead = head.context("the answer has no head")?.into();
        let claimed = Head::parse(&head.head).map_err(Wrong::Head)?;
        let is_in_force = in_force.is_some_and(|in_force| in_force.set.head == claimed);
        if is_in_force || self.refused.as_ref() == Some(&head) {
            return Ok(None);
        }
        for piece in pieces {
            self.contents.put(piece.content).await?;
        }
        let node_traces = node_traces.into_iter().filter_map(|(node, trace)| Some((node.parse().ok()?, trace)));
        let traces = Traces { head: (!traceparent.is_empty()).then_some(traceparent), nodes: node_traces.collect() };
        Ok(Some((head, traces)))
    }

    /// The list that a head names: what is held already, and the rest from the hub.
    async fn list(&mut self, head: &SignedHead, held: &ManifestList) -> anyhow::Result<ManifestList> {
        let claimed = Head::parse(&head.head).map_err(Wrong::Head)?;
        let wrong = || Wrong::Part(Objection::NotWhole(claimed.version));
        if Digest::of(&head.list) != claimed.list {
            bail!(wrong());
        }
        let top = parse_top(&head.list).map_err(Wrong::Head)?;
        let folders: BTreeSet<_> = top.keys().copied().collect();
        let differing: Vec<_> =
            top.into_iter().filter(|(folder, digest)| held.folder_digest(*folder) != Some(*digest)).collect();
        let wanted = differing.iter().map(|(folder, digest)| (Part::Folder(folder.to_string()), *digest));
        self.version = Some(claimed.version);
        self.fetch(&head.commit, wanted.collect()).await?;
        // Only what differs is looked at, however long the list is.
        let mut list = held.clone();
        for folder in held.folders().filter(|folder| !folders.contains(folder)) {
            held.folder(folder).for_each(|(node, ..)| list.remove(node));
        }
        let (mut missing, mut count) = (Vec::new(), list.len());
        for (folder, digest) in differing {
            let text = self.contents.get(digest).await?.context("a folder that was just fetched")?;
            let nodes = parse_folder(folder, &text).map_err(Wrong::Head)?;
            count += nodes.len();
            ensure!(count <= MAX_NODES, "the list names more than {MAX_NODES} nodes");
            for (node, _, before) in held.folder(folder) {
                if nodes.get(node) != Some(&before) {
                    list.remove(node);
                }
            }
            missing.extend(nodes.into_iter().filter(|(node, _)| list.get(node).is_none()));
        }
        let wanted = missing.iter().map(|(node, digest)| (Part::Node(node.to_string()), *digest));
        self.fetch(&head.commit, wanted.collect()).await?;
        for (node, digest) in missing {
            let text = self.contents.get(digest).await?.context("a node that was just fetched")?;
            list.put(node, NodeEntry::parse(&text).map_err(Wrong::Head)?);
        }
        Ok(list)
    }

    /// Fetches these parts of a commit, unless they are at hand, and keeps each that has its digest.
    async fn fetch(&mut self, commit: &str, wanted: Vec<(Part, Digest)>) -> anyhow::Result<()> {
        let mut missing = Vec::new();
        for (part, digest) in wanted {
            if !self.contents.has(digest) {
                missing.push((part, digest));
            }
        }
        let mut missing = missing.as_slice();
        // The beginning of a part that one answer could not carry.
        let mut begun: Vec<u8> = Vec::new();
        while let Some(((_, first), _)) = missing.split_first() {
            let first = *first;
            let parts = missing.iter().take(PARTS).enumerate();
            let parts = parts.map(|(at, (part, _))| DesiredPart {
                part: Some(part.clone()),
                offset: if at == 0 { begun.len() as u64 } else { 0 },
            });
            let ask = DesiredAsk { protocol: PROTOCOL, commit: commit.to_owned(), held: 0, parts: parts.collect() };
            let answer = self.ask(ask).await?;
            match answer.outcome() {
                DesiredOutcome::Found => {}
                outcome => bail!("commit {commit}: {}", outcome.as_str_name()),
            }
            ensure!(answer.pieces.len() <= missing.len(), "more pieces than were asked for");
            let before = (missing.len(), begun.len());
            for piece in answer.pieces {
                let Some(((_, digest), rest)) = missing.split_first() else { break };
                ensure!(piece.size <= MAX_PART, "a part of {} bytes", piece.size);
                let whole = if *digest == first && !begun.is_empty() {
                    begun.extend_from_slice(&piece.content);
                    Bytes::from(std::mem::take(&mut begun))
                } else {
                    piece.content
                };
                if (whole.len() as u64) < piece.size {
                    begun = whole.into();
                    break;
                }
                if Digest::of(&whole) != *digest {
                    let version = self.version.context("a version that is fetched")?;
                    bail!(Wrong::Part(Objection::NotWhole(version)));
                }
                self.contents.put(whole).await?;
                missing = rest;
            }
            ensure!((missing.len(), begun.len()) != before, "an answer without anything");
        }
        Ok(())
    }

    /// Shows operators what the hub did wrong. That it cannot be reached is no fault of what it says.
    fn show(&self, error: &anyhow::Error) {
        if let Some(wrong) = error.downcast_ref::<Wrong>() {
            let subject = Subject::DesiredHead(self.site.client.clone());
            self.site.refusals.add(&subject.to_string(), &process::chain(wrong));
        }
    }

    async fn ask(&self, ask: DesiredAsk) -> anyhow::Result<DesiredAnswer> {
        let subject = Subject::Site(self.site.client.clone(), SiteVerb::Desired);
        let answer = self.site.hub.ask(&subject, ask.encode_to_vec().into()).await?;
        decode_within(&answer.payload, MAX_ANSWER).context("reading the hub's answer")
    }

    async fn find(&mut self, wanted: Vec<Wanted>) -> anyhow::Result<Documents> {
        let part = |wanted: &Wanted| {
            let node = |node: &NodeName| node.to_string();
            match wanted.deployment {
                None => Part::Identity(node(&wanted.node)),
                Some(id) => Part::Document(DocumentName { node: node(&wanted.node), deployment: id.to_string() }),
            }
        };
        let parts = wanted.iter().map(|wanted| (part(wanted), wanted.digest)).collect();
        let commit = self.commit.clone();
        if let Err(error) = self.fetch(&commit, parts).await {
            self.show(&error);
            return Err(error);
        }
        let mut found = Documents::new();
        for Wanted { digest, .. } in wanted {
            if let Some(content) = self.contents.get(digest).await? {
                found.insert(digest, content);
            }
        }
        Ok(found)
    }

    async fn hear(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Adopt | Verdict::InForce => {
                self.refused = None;
                if let Err(error) = self.contents.clear().await {
                    warn!(error = process::chain(&error), "what was fetched is not tidied up");
                }
            }
            // What could not be fetched is asked for again, and so is what came together wrongly.
            Verdict::Incomplete | Verdict::Refuse(Objection::NotWhole(_)) => {
                self.next = Instant::now() + self.backoff.pause();
            }
            Verdict::Refuse(_) => self.refused = self.offered.clone(),
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

    fn documents(&mut self, wanted: Vec<Wanted>) -> BoxFuture<'_, anyhow::Result<Documents>> {
        self.find(wanted).boxed()
    }

    fn verdict<'a>(&'a mut self, verdict: &'a Verdict) -> BoxFuture<'a, ()> {
        self.hear(verdict).boxed()
    }
}
