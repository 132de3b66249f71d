//! The only writer of the hub's STATE and EVENTS: sites ask it to store windows, and those of many sites share a batch.
//!
//! A window that has its turn is read, and what has to be known for it is asked for, each in a task of its own, so that no
//! site waits for another one's. What came while the last batch was committed becomes the next one. EVENTS go first: a
//! status is stored when the transitions that led to it are, or are told to the site as not stored.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use bus::{
    Ask, Asker, Asks, BatchError, Bus, Content, Front, Known, Outgoing, OwnStream, Pattern, Published, Rules, Shares,
    SiteVerb, Subject, proto,
    report::{self, MAX_POSITIONS_REQUEST, MAX_WINDOW, PROTOCOL},
    streams,
};
use bytes::Bytes;
use margo::{ClientName, NodeId};
use prost::Message as _;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    budget::{Budgets, OverBudget},
    members::Members,
    metrics,
    positions::{Positions, nodes_of},
    turns::{Done, Turn, Turns},
    window::{Entry, Verdict, judge_positions, not_stored, read},
};

/// A site has one window in work, and may ask for it once more when it waited in vain.
const WINDOWS: Rules = Rules { longest: MAX_WINDOW, shares: Shares { each: 2, bytes: 64 << 20 }, answered: true };

/// A question for positions is a name and a number, and is asked page by page.
const QUESTIONS: Rules =
    Rules { longest: MAX_POSITIONS_REQUEST, shares: Shares { each: 1, bytes: 1 << 20 }, answered: true };

/// Windows that are read at once. Each may hold 1 MiB, and may wait for another service.
const READING: usize = 64;

/// Questions for positions that are answered at once.
const ANSWERING: usize = 4;

/// Nodes of one page of positions.
const PAGE: usize = 500;

/// A window that was read.
struct Ready {
    client: ClientName,
    number: u64,
    /// How far STATE was when the site was last answered.
    claim: Known,
    entries: Vec<Entry>,
    /// Why the window was not looked into.
    refused: Option<String>,
}

/// What the tasks share.
pub struct Writer {
    bus: Bus,
    members: Members,
    positions: Positions,
    budgets: Mutex<Budgets>,
    streams: tokio::sync::Mutex<Streams>,
}

/// The streams that this service alone writes.
struct Streams {
    state: OwnStream,
    events: OwnStream,
}

impl Writer {
    /// `state` and `events` are what the copies in the database say of the streams.
    pub fn new(bus: Bus, state: Known, events: Known) -> Arc<Self> {
        let streams = Streams {
            state: OwnStream::new(bus.clone(), streams::STATE, state),
            events: OwnStream::new(bus.clone(), streams::EVENTS, events),
        };
        Arc::new(Self {
            members: Members::new(bus.clone()),
            positions: Positions::default(),
            budgets: Mutex::default(),
            streams: tokio::sync::Mutex::new(streams),
            bus,
        })
    }

    /// Looks at both streams, and returns the identities of STATE and EVENTS. One that lies behind what it was gets a new
    /// one.
    pub async fn look_anew(&self) -> anyhow::Result<[String; 2]> {
        let mut streams = self.streams.lock().await;
        streams.state.distrust();
        streams.events.distrust();
        self.look(&mut streams, Vec::new()).await?;
        Ok([streams.state.known().id.clone(), streams.events.known().id.clone()])
    }

    /// Looks at both streams, and hears how far sites say that STATE was.
    async fn look(&self, streams: &mut Streams, claims: Vec<(String, Known)>) -> anyhow::Result<()> {
        let looked = streams.state.look().await?;
        let heard = streams.state.hear(claims).await?;
        if looked == Content::Void || heard == Content::Void {
            self.positions.clear();
        }
        // Nothing is remembered of its content.
        let _: Content = streams.events.look().await?;
        Ok(())
    }

    /// The identities of STATE and EVENTS, as they were last looked at.
    pub async fn ids(&self) -> [String; 2] {
        let streams = self.streams.lock().await;
        [streams.state.known().id.clone(), streams.events.known().id.clone()]
    }

    /// Hears sites, writes, and answers until shutdown. What is in work then is finished, as far as it is being written.
    pub async fn run(self: Arc<Self>, front: &Front, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut asks = front.asks(Pattern::Sites(SiteVerb::Report), WINDOWS).await?;
        let mut questions = front.asks(Pattern::Sites(SiteVerb::Positions), QUESTIONS).await?;
        let mut turns = Turns::new();
        let mut reading: JoinSet<Ready> = JoinSet::new();
        let mut answering: JoinSet<()> = JoinSet::new();
        let mut ready: Vec<Ready> = Vec::new();
        let mut writing: JoinSet<Vec<(ClientName, Bytes)>> = JoinSet::new();
        loop {
            if writing.is_empty() && !ready.is_empty() {
                writing.spawn(self.clone().write(std::mem::take(&mut ready)));
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(written) = writing.join_next() => {
                    for (client, answer) in written.context("writing windows")? {
                        self.finish(&mut turns, &mut reading, client, answer).await;
                    }
                }
                Some(window) = reading.join_next() => ready.push(window.context("reading a window")?),
                Some(ended) = answering.join_next() => ended.context("answering where nodes stand")?,
                ask = next(&mut asks), if reading.len() < READING => self.take(&mut turns, &mut reading, ask?).await,
                question = next(&mut questions), if answering.len() < ANSWERING => {
                    answering.spawn(self.clone().answer_positions(question?));
                }
            }
        }
        // Sites ask again for what was not begun.
        while let Some(written) = writing.join_next().await {
            for (client, answer) in written.context("writing windows")? {
                if let Some(Done { ask, .. }) = turns.done(&client, answer.clone()) {
                    ask.answer(answer).await;
                }
            }
        }
        Ok(())
    }

    async fn take(self: &Arc<Self>, turns: &mut Turns<Ask>, reading: &mut JoinSet<Ready>, ask: Ask) {
        let Asker::Site(client) = ask.asker.clone() else { return };
        let head = match report::window_head(&ask.payload) {
            Ok(head) => head,
            Err(malformed) => {
                let refused = format!("the window is malformed: {}", process::chain(&malformed));
                let answer = proto::WindowAnswer { protocol: PROTOCOL, refused, ..proto::WindowAnswer::default() };
                return ask.answer(answer.encode_to_vec().into()).await;
            }
        };
        let payload = ask.payload.clone();
        match turns.offer(&client, head, ask) {
            Turn::Work => {
                reading.spawn(self.clone().read(client, payload));
            }
            Turn::Again(ask, answer) => ask.answer(answer).await,
            Turn::Waits | Turn::Late => {}
        }
    }

    async fn finish(
        self: &Arc<Self>,
        turns: &mut Turns<Ask>,
        reading: &mut JoinSet<Ready>,
        client: ClientName,
        answer: Bytes,
    ) {
        let Some(Done { ask, next }) = turns.done(&client, answer.clone()) else { return };
        ask.answer(answer).await;
        let payload = turns.in_work(&client).map(|ask| ask.payload.clone());
        if let Some(payload) = payload.filter(|_| next) {
            reading.spawn(self.clone().read(client, payload));
        }
    }

    /// Reads a window, and whatever has to be known before it can be written.
    async fn read(self: Arc<Self>, client: ClientName, payload: Bytes) -> Ready {
        let mut ready = Ready { client, number: 0, claim: Known::default(), entries: Vec::new(), refused: None };
        let charged = self.budgets().send(&ready.client, payload.len(), Instant::now());
        if let Err(over) = charged {
            metrics::over_budget(&ready.client, over.as_str());
            ready.number = report::window_head(&payload).map_or(0, |head| head.number);
            ready.refused = Some(over.to_string());
            return ready;
        }
        let window = match report::window(&payload) {
            Ok(window) => window,
            Err(malformed) => {
                ready.number = report::window_head(&payload).map_or(0, |head| head.number);
                ready.refused = Some(format!("the window is malformed: {}", process::chain(&malformed)));
                return ready;
            }
        };
        ready.number = window.head.number;
        ready.claim = Known { id: window.stream.0.clone(), sequence: window.stream.1 };
        ready.entries = read(&ready.client, window);

        let nodes: BTreeSet<NodeId> = ready.entries.iter().filter_map(Entry::node).cloned().collect();
        let unknown = self.members.unknown(&ready.client, nodes).await;
        for entry in &mut ready.entries {
            if entry.node().is_some_and(|node| unknown.contains(node)) {
                entry.verdict = Verdict::NotNow("the hub does not know the node".to_owned());
            } else if let Some(reason) = self.of_another_device(entry) {
                // Whoever reads it next could only give it up.
                entry.verdict = Verdict::Never(reason);
            }
        }
        let of_state = ready.entries.iter().filter(|entry| entry.verdict == Verdict::Write && !entry.is_event());
        let subjects: HashSet<_> = of_state
            .filter_map(|entry| entry.item.as_ref())
            .filter(|item| item.position.is_some())
            .map(|item| item.subject.clone())
            .collect();
        // What cannot be read is not written; the verdict follows when the window is written.
        if let Err(error) = self.positions.read(&self.bus, subjects).await {
            debug!(client = %ready.client, error = format!("{error:#}"), "positions were not read");
        }
        ready
    }

    /// Why capabilities are not those of their node; `None` for everything else.
    fn of_another_device(&self, entry: &Entry) -> Option<String> {
        let found = entry.item.as_ref()?.device.as_ref()?;
        let wanted = self.members.device(entry.node()?)?;
        (*found != wanted).then(|| format!("the capabilities are those of device {found}, not of {wanted}"))
    }

    /// Writes the windows of many sites, and returns the answer to each.
    async fn write(self: Arc<Self>, mut round: Vec<Ready>) -> Vec<(ClientName, Bytes)> {
        let mut streams = self.streams.lock().await;
        let mut claims = Vec::with_capacity(round.len());
        claims.extend(round.iter().map(|ready| (ready.client.to_string(), ready.claim.clone())));
        if let Err(error) = self.look(&mut streams, claims).await {
            warn!(error = format!("{error:#}"), "nothing is written");
            streams.state.distrust();
            streams.events.distrust();
            let refused = "the hub's streams cannot be looked at now";
            round.iter_mut().for_each(|ready| ready.refused = Some(refused.to_owned()));
        } else {
            for ready in &mut round {
                judge_positions(&mut ready.entries, |subject| self.positions.get(subject));
                self.charge_events(ready);
            }
            let written = self.publish(streams::EVENTS, &mut round).await;
            streams.events.wrote(written);
            process::stop_point("status-collector.events-written");
            let written = self.publish(streams::STATE, &mut round).await;
            streams.state.wrote(written);
        }
        let Known { id, sequence } = streams.state.known().clone();
        let answer = |ready: Ready| {
            metrics::count(&ready.entries, ready.refused.is_some());
            let answer = proto::WindowAnswer {
                protocol: PROTOCOL,
                number: ready.number,
                state_stream: id.clone(),
                state_sequence: sequence,
                not_stored: if ready.refused.is_some() { Vec::new() } else { not_stored(&ready.entries) },
                refused: ready.refused.unwrap_or_default(),
            };
            (ready.client, answer.encode_to_vec().into())
        };
        round.into_iter().map(answer).collect()
    }

    /// Charges what goes into EVENTS. After a message that its node cannot pay, no later one of this node goes either.
    fn charge_events(&self, ready: &mut Ready) {
        let (now, mut budgets) = (Instant::now(), self.budgets());
        let mut broke: Vec<(NodeId, OverBudget)> = Vec::new();
        for entry in &mut ready.entries {
            if entry.verdict != Verdict::Write || !entry.is_event() {
                continue;
            }
            let Some(node) = entry.node().cloned() else { continue };
            let before = broke.iter().find(|(it, _)| *it == node).map(|(_, over)| *over);
            let over = before.map_or_else(|| budgets.events(&node, entry.bytes(), now), Err);
            if let Err(over) = over {
                if before.is_none() {
                    metrics::over_budget(&ready.client, over.as_str());
                    broke.push((node, over));
                }
                entry.verdict = Verdict::NotNow(over.to_string());
            }
        }
    }

    /// Publishes what the windows have for one stream, notes what became of each message, and returns the highest sequence.
    async fn publish(&self, stream: &'static str, round: &mut [Ready]) -> u64 {
        let of_stream =
            |entry: &Entry| entry.verdict == Verdict::Write && entry.is_event() == (stream == streams::EVENTS);
        let groups: Vec<Vec<Outgoing>> = round
            .iter()
            .map(|ready| ready.entries.iter().filter(|it| of_stream(it)).filter_map(|it| it.outgoing.clone()).collect())
            .collect();
        if groups.iter().all(Vec::is_empty) {
            return 0;
        }
        let Published { sequence, results } = self.bus.publish_groups(groups).await;
        for (ready, results) in round.iter_mut().zip(results) {
            let entries = ready.entries.iter_mut().filter(|entry| of_stream(entry));
            for (entry, result) in entries.zip(results) {
                entry.verdict = match &result {
                    Ok(()) => Verdict::Stored,
                    Err(error) => refusal(stream, error),
                };
                self.note(entry, result.as_ref().err().map(AsRef::as_ref));
            }
        }
        sequence
    }

    /// Notes what a written or refused message means for what is known of its node.
    fn note(&self, entry: &Entry, error: Option<&BatchError>) {
        let Some(item) = &entry.item else { return };
        match (&item.subject, error) {
            (_, None) => {
                if let Some(position) = item.position.filter(|_| !entry.is_event()) {
                    self.positions.set(item.subject.clone(), position);
                }
            }
            (Subject::Event(node), Some(_)) => self.budgets().give_back_events(node, entry.bytes()),
            // It may be there or not.
            (subject, Some(_)) => self.positions.forget(subject),
        }
    }

    async fn answer_positions(self: Arc<Self>, ask: Ask) {
        let Asker::Site(client) = &ask.asker else { return };
        let answer = match self.positions_after(client, &ask.payload).await {
            Ok(answer) => answer,
            Err(error) => {
                debug!(%client, error = format!("{error:#}"), "positions not read");
                let refused = "where the nodes stand cannot be read now; ask again".to_owned();
                proto::PositionsAnswer { protocol: PROTOCOL, refused, ..proto::PositionsAnswer::default() }
            }
        };
        ask.answer(answer.encode_to_vec().into()).await;
    }

    /// A page of the positions of a client's nodes, by name.
    async fn positions_after(&self, client: &ClientName, payload: &[u8]) -> anyhow::Result<proto::PositionsAnswer> {
        let asked = proto::PositionsRequest::decode(payload).context("decoding the question")?;
        let nodes = nodes_of(&self.bus, client).await?;
        let mut rest = nodes.into_iter().skip_while(|node| node.as_str() <= asked.after.as_str()).peekable();
        let page: Vec<_> = rest.by_ref().take(PAGE).map(|node| NodeId::new(client.clone(), node)).collect();
        self.positions.read(&self.bus, page.iter().cloned().map(Subject::Status)).await?;
        let mut positions = Vec::new();
        for node in page {
            let subject = Subject::Status(node.clone());
            let held = self.positions.get(&subject).context("the stream has changed meanwhile")?;
            positions.push(proto::NodePosition {
                node: node.node.to_string(),
                generation: held.generation,
                incarnation: held.incarnation,
                sequence: held.sequence,
            });
        }
        Ok(proto::PositionsAnswer {
            protocol: PROTOCOL,
            positions,
            more: rest.peek().is_some(),
            refused: String::new(),
        })
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn next(asks: &mut Asks) -> anyhow::Result<Ask> {
    asks.next().await.context("the connection on which sites ask has ended")
}

/// What becomes of a message that the server has not taken.
fn refusal(stream: &str, error: &BatchError) -> Verdict {
    match error {
        BatchError::Refused { .. } => Verdict::Never(error.to_string()),
        BatchError::Full => Verdict::NotNow(format!("{stream} at the hub is full")),
        BatchError::Busy | BatchError::NoStream | BatchError::Conflict | BatchError::Unknown(_) => {
            Verdict::NotNow(format!("{stream} at the hub takes nothing now"))
        }
    }
}
