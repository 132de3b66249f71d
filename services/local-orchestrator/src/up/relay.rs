//! Site → hub: what the site's streams hold goes up in windows, and is acknowledged here once the hub has answered.
//!
//! One window at a time, numbered: one that is not answered is sent again as it was, and the hub joins it to the one that it
//! has in work. What the hub refuses for good is shown among the refusals, and goes; what it does not store now stays, and
//! holds up only what follows from the same node.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use async_nats::{HeaderMap, jetstream::AckKind};
use bus::{
    Known, RELOAD_PAUSE, SiteVerb, Subject,
    proto::{self, Outcome},
    report::{self, MAX_WINDOW, MAX_WINDOW_MESSAGES, PROTOCOL, Position},
    trace,
};
use bytes::Bytes;
use process::Backoff;
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::lane::{Lane, Taken, answer};
use crate::{metrics, nodes::Incarnations, site::Site};

/// How long the second stream is waited for once the first has something: transitions and the status that follows from them
/// are stored at the site within milliseconds.
const TOGETHER: Duration = Duration::from_millis(5);

/// The site's server is told this often that what is in hand is still being worked on.
const PROGRESS: Duration = Duration::from_secs(20);

/// The relay of the site's streams EVENTS and STATE.
pub struct Relay {
    site: Arc<Site>,
    incarnations: Arc<Incarnations>,
    /// In the order in which they stand in a window: EVENTS, then STATE.
    lanes: [Lane; 2],
    site_connections: watch::Receiver<u64>,
    /// Stands for this life of the relay.
    session: String,
    /// The number of the last window.
    number: u64,
    /// The hub's stream STATE, as it was when the hub answered last.
    hub_state: Known,
}

/// The messages of a window, by lane.
type InHand = [Vec<Taken>; 2];

impl Relay {
    pub fn new(site: Arc<Site>, incarnations: Arc<Incarnations>) -> Self {
        let site_connections = site.bus.connections();
        let lanes = [Lane::of_events(&site), Lane::of_state(&site)];
        let session = report::new_session();
        Self { site, incarnations, lanes, site_connections, session, number: 0, hub_state: Known::default() }
    }

    /// Relays until shutdown. What fails is tried again after a growing pause.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(RELOAD_PAUSE, Duration::from_secs(30));
        loop {
            let gathered = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                // What is lost here is delivered again, because the next life begins anew.
                gathered = self.gather() => gathered,
            };
            let done = match gathered {
                Ok(in_hand) => tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    done = self.forward(in_hand) => done,
                },
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.lanes.iter_mut().for_each(Lane::begin_anew);
                    let delay = backoff.pause();
                    warn!(error = format!("{error:#}"), ?delay, "relay");
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = sleep(delay) => {}
                    }
                }
            }
        }
    }

    /// The messages of the next window, when the hub is there to take them.
    async fn gather(&mut self) -> anyhow::Result<InHand> {
        loop {
            self.site.bus.connected().await;
            self.site.hub.connected().await;
            // A server that was started again knows nothing of an open request, and what was under way need not wait.
            if self.site_connections.has_changed().unwrap_or(false) {
                self.site_connections.mark_unchanged();
                self.lanes.iter_mut().for_each(Lane::begin_anew);
            }
            for lane in &mut self.lanes {
                lane.prepare(&self.site).await?;
            }
            let [events, state] = &mut self.lanes;
            let groups = tokio::select! {
                // The sender lives as long as the connection that this value holds.
                _ = self.site_connections.changed() => {
                    self.site_connections.mark_changed();
                    continue;
                }
                first = events.next() => [first?, soon(state).await?],
                second = state.next() => {
                    let second = second?;
                    [soon(events).await?, second]
                }
            };
            let [first, second] = groups;
            let in_hand = [self.lanes[0].admit(first).await?, self.lanes[1].admit(second).await?];
            if in_hand.iter().any(|taken| !taken.is_empty()) {
                return Ok(in_hand);
            }
        }
    }

    /// Sends one window until the hub answers, then does what the answer says.
    async fn forward(&mut self, mut in_hand: InHand) -> anyhow::Result<()> {
        self.number += 1;
        let body = self.window(&mut in_hand).await?;
        let answer = self.ask(body, &in_hand).await?;
        process::stop_point("local-orchestrator.relayed");
        self.settle(in_hand, &answer).await?;
        if answer.refused.is_empty() {
            self.note_state_of_hub(answer);
        }
        Ok(())
    }

    /// Makes the window. What does not fit into it is given back at once.
    async fn window(&self, in_hand: &mut InHand) -> anyhow::Result<Bytes> {
        let mut window = proto::Window {
            protocol: PROTOCOL,
            session: self.session.clone(),
            number: self.number,
            state_stream: self.hub_state.id.clone(),
            state_sequence: self.hub_state.sequence,
            messages: Vec::new(),
        };
        let mut bytes = window.encoded_len();
        for taken in in_hand.iter_mut() {
            let mut kept = Vec::with_capacity(taken.len());
            for taken in taken.drain(..) {
                let headers = taken.message.headers.as_ref();
                let traceparent = headers.and_then(|headers| headers.get(trace::TRACEPARENT)).map(ToString::to_string);
                let payload = taken.message.payload.clone();
                let Some(message) = report::wrap(&taken.subject, payload, traceparent.unwrap_or_default()) else {
                    answer(&taken.message, AckKind::Ack).await?;
                    continue;
                };
                // A field in protobuf has a tag and a length of at most four bytes before it.
                let more = message.encoded_len() + 5;
                if bytes + more > MAX_WINDOW || window.messages.len() == MAX_WINDOW_MESSAGES {
                    answer(&taken.message, AckKind::Nak(None)).await?;
                    continue;
                }
                bytes += more;
                window.messages.push(message);
                kept.push(taken);
            }
            *taken = kept;
        }
        Ok(window.encode_to_vec().into())
    }

    /// Asks the hub until it answers this window. The site's server hears meanwhile that the messages are in hand.
    async fn ask(&self, body: Bytes, in_hand: &InHand) -> anyhow::Result<proto::WindowAnswer> {
        let subject = Subject::Site(self.site.client.clone(), SiteVerb::Report);
        let mut connections = self.site.hub.connections();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut said = Instant::now();
        loop {
            connections.borrow_and_update();
            match self.site.hub.request(&subject, HeaderMap::new(), body.clone()).await {
                Ok(answer) => match proto::WindowAnswer::decode(answer.payload) {
                    Ok(answer) if answer.number == self.number || !answer.refused.is_empty() => return Ok(answer),
                    Ok(answer) => warn!(window = self.number, answered = answer.number, "another window was answered"),
                    Err(error) => warn!(error = &error as &dyn std::error::Error, "the hub's answer does not decode"),
                },
                Err(problem) => debug!(window = self.number, %problem, "the window is sent again"),
            }
            if said.elapsed() >= PROGRESS {
                for taken in in_hand.iter().flatten() {
                    answer(&taken.message, AckKind::Progress).await?;
                }
                said = Instant::now();
            }
            tokio::select! {
                () = sleep(backoff.pause()) => {}
                _ = connections.changed() => {}
            }
        }
    }

    /// Acknowledges what is stored or refused for good, and keeps the rest.
    async fn settle(&mut self, in_hand: InHand, window: &proto::WindowAnswer) -> anyhow::Result<()> {
        let client = self.site.client.clone();
        let told: HashMap<u32, &proto::NotStored> = window.not_stored.iter().map(|it| (it.message, it)).collect();
        let mut at = 0;
        for (lane, taken) in self.lanes.iter_mut().zip(in_hand) {
            let count = |outcome: &str| {
                metrics::RELAYED.with_label_values(&[client.as_str(), lane.stream, outcome]).inc();
            };
            for taken in taken {
                let told = told.get(&at).copied();
                at += 1;
                let outcome =
                    if window.refused.is_empty() { told.map(proto::NotStored::outcome) } else { Some(Outcome::NotNow) };
                match outcome {
                    None => {
                        count("stored");
                        lane.done(&taken).await?;
                    }
                    Some(Outcome::Never) => {
                        count("refused");
                        let reason = told.map_or("", |told| told.reason.as_str());
                        self.site.refusals.add(&taken.subject.to_string(), &format!("the hub refuses it: {reason}"));
                        if let Some(held) = told.and_then(|told| told.held.as_ref()) {
                            overtaken(&self.site, &self.incarnations, &taken, held).await;
                        }
                        lane.done(&taken).await?;
                    }
                    Some(Outcome::NotNow | Outcome::Unspecified) => {
                        count("not-now");
                        let reason = told.map_or(window.refused.as_str(), |told| told.reason.as_str());
                        debug!(subject = %taken.subject, reason, "the hub does not store it now");
                        if lane.keep(&taken).await? {
                            let shown = format!("the hub does not store it now: {reason}");
                            self.site.refusals.add(&taken.subject.to_string(), &shown);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes note of the hub's stream STATE. Another one than before has lost what this site had stored there.
    fn note_state_of_hub(&mut self, answer: proto::WindowAnswer) {
        let found = Known { id: answer.state_stream, sequence: answer.state_sequence };
        if !self.hub_state.id.is_empty() && self.hub_state.id != found.id {
            info!("the hub has another stream STATE: all last values are relayed again");
            self.lanes[1].begin_anew();
        }
        self.hub_state = found;
    }
}

/// What the lane has now, or in a moment.
async fn soon(lane: &mut Lane) -> anyhow::Result<Vec<async_nats::jetstream::Message>> {
    timeout(TOGETHER, lane.next()).await.unwrap_or_else(|_elapsed| Ok(Vec::new()))
}

/// The hub holds a later report of the node than the site: the disk of the node, or this one, is an older one. The node begins
/// its next life.
async fn overtaken(site: &Site, incarnations: &Incarnations, taken: &Taken, held: &proto::NodePosition) {
    let (Subject::Status(node) | Subject::Capabilities(node)) = &taken.subject else { return };
    let held = Position { generation: held.generation, incarnation: held.incarnation, sequence: held.sequence };
    if let Err(error) = incarnations.outlive(&node.node, held).await.context("ending a life of the node") {
        site.refusals.add(&taken.subject.to_string(), &format!("{error:#}"));
    }
}
