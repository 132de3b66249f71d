//! `node.<client>.<node>.report`: reports of many nodes become batches of the site's streams, then answers.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bus::{
    Ask, Asker, Asks, BatchError, NodeVerb, Outgoing, Pattern, Rules, Shares, Subject, proto,
    report::{self, MAX_REPORT, Position},
    streams, trace,
};
use bytes::Bytes;
use margo::{NodeId, NodeName};
use process::Backoff;
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, info_span, warn};

use super::{telemetry::Telemetry, turn};
use crate::{
    metrics,
    nodes::{Decided, Incarnations, Pulses, Registrar},
    site::Site,
};

/// How long reports are collected: far less than a node waits, and enough that a hundred nodes share one sync.
const COLLECT: Duration = Duration::from_millis(5);

/// Reports of one round. Each is at most two messages of STATE, and a batch holds a thousand.
const ROUND: usize = 400;

/// Bytes of one round, so that large reports do not pile up in memory.
const ROUND_BYTES: usize = 32 << 20;

/// A node has one report in work, and may ask once more when it waited in vain.
const REPORTS: Rules =
    Rules { longest: MAX_REPORT, shares: Shares { each: 2, bytes: 2 * ROUND_BYTES }, answered: true };

/// A busy stream is asked again so often before the node is told to come back.
const ATTEMPTS: usize = 4;

/// One request as it came.
struct Incoming {
    node: NodeId,
    ask: Ask,
}

/// A report that will be stored.
struct Accepted {
    node: NodeName,
    ask: Ask,
    position: Position,
    event: Option<Outgoing>,
    state: Vec<Outgoing>,
    traces: Bytes,
    metrics: Vec<proto::Metric>,
    /// Ends when the report was answered.
    span: Span,
}

/// The last report of a node that was stored.
#[derive(Clone, Copy, Default)]
struct Stored {
    position: Position,
    /// Whether its transitions were, too, as far as this process knows.
    events: bool,
}

/// Who stores the reports of the site's nodes, and answers.
pub struct Reporter {
    site: Arc<Site>,
    incarnations: Arc<Incarnations>,
    registrar: Arc<Registrar>,
    pulses: Arc<Pulses>,
    telemetry: Telemetry,
    stored: HashMap<NodeName, Stored>,
    /// Came too early for the round that was being collected.
    carried: Option<Incoming>,
}

impl Reporter {
    /// A reporter that knows no report yet: the site's stream tells it.
    pub fn new(
        site: Arc<Site>,
        incarnations: Arc<Incarnations>,
        registrar: Arc<Registrar>,
        pulses: Arc<Pulses>,
        telemetry: Telemetry,
    ) -> Self {
        Self { site, incarnations, registrar, pulses, telemetry, stored: HashMap::new(), carried: None }
    }

    /// Stores and answers until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut requests =
            self.site.front.asks(Pattern::Nodes(self.site.client.clone(), NodeVerb::Report), REPORTS).await?;
        loop {
            let round = tokio::select! {
                biased;
                // Whoever was not answered reports again.
                () = shutdown.cancelled() => return Ok(()),
                round = self.collect(&mut requests) => round,
            };
            if round.is_empty() {
                anyhow::bail!("the subscription to reports ended");
            }
            self.store(round).await;
        }
    }

    /// Reports of different nodes that come at about the same time. None: the subscription ended.
    async fn collect(&mut self, requests: &mut Asks) -> Vec<Incoming> {
        let mut round: Vec<Incoming> = Vec::new();
        let mut bytes = 0;
        let mut until = None;
        while round.len() < ROUND && bytes < ROUND_BYTES {
            let incoming = match self.carried.take() {
                Some(incoming) => incoming,
                None => {
                    let request = match until {
                        None => requests.next().await,
                        Some(until) => timeout_at(until, requests.next()).await.unwrap_or(None),
                    };
                    let Some(ask) = request else { break };
                    let Asker::Node(node) = ask.asker.clone() else { continue };
                    Incoming { node, ask }
                }
            };
            // A node's reports must be stored one after another.
            if round.iter().any(|earlier| earlier.node == incoming.node) {
                self.carried = Some(incoming);
                break;
            }
            until.get_or_insert_with(|| Instant::now() + COLLECT);
            bytes += incoming.ask.payload.len();
            round.push(incoming);
        }
        round
    }

    async fn store(&mut self, round: Vec<Incoming>) {
        let mut accepted = Vec::with_capacity(round.len());
        for incoming in round {
            if let Some(report) = self.check(incoming).await {
                accepted.push(report);
            }
        }
        let events: Vec<_> = accepted.iter().filter_map(|report| report.event.clone()).collect();
        let states: Vec<_> = accepted.iter().flat_map(|report| report.state.clone()).collect();
        let events_stored = self.publish(streams::EVENTS, events).await;
        let stored = self.publish(streams::STATE, states).await;
        for report in accepted {
            let events_stored = events_stored || report.event.is_none();
            let outcome = if stored { "stored" } else { "failed" };
            metrics::REPORTS.with_label_values(&[self.site.client.as_str(), outcome]).inc();
            if stored {
                let last = Stored { position: report.position, events: events_stored };
                self.stored.insert(report.node.clone(), last);
                self.telemetry.take(&self.site.node(&report.node), report.traces.clone(), &report.metrics);
            }
            let answer = proto::ReportAnswer { stored, events_stored, ..proto::ReportAnswer::default() };
            debug!(parent: &report.span, sequence = report.position.sequence, stored, events_stored, "report");
            self.answer(&report.ask, answer).await;
        }
    }

    /// A report that may be stored; any other is answered here.
    async fn check(&mut self, Incoming { node: id, ask }: Incoming) -> Option<Accepted> {
        self.pulses.heard(&id.node);
        let report = match report::request(&ask.payload) {
            Ok(report) => report,
            Err(malformed) => {
                let reason = format!("the report is malformed: {}", process::chain(&malformed));
                return self.refuse(&ask, &reason).await;
            }
        };
        let span = info_span!("report", node = %id, trace_id = tracing::field::Empty);
        trace::continue_from_text(&span, &report.traceparent);
        let position = report.position;
        let incarnation = match self.incarnations.get(&id.node) {
            Some(incarnation) => incarnation,
            // The node has been connected since before we lost our disk.
            None => match self.registrar.decide(&id.node, position.incarnation).await {
                Decided::Incarnation(incarnation) => incarnation,
                Decided::Refused(reason) => return self.refuse(&ask, &reason).await,
                Decided::NotReady => return self.not_now(&ask).await,
            },
        };
        let held = match self.stored.get(&id.node) {
            Some(stored) => *stored,
            None => match self.look_up(&id).await {
                Ok(position) => *self.stored.entry(id.node.clone()).or_insert(Stored { position, events: false }),
                Err(error) => {
                    warn!(node = %id, error = format!("{error:#}"), "report not stored");
                    return self.not_now(&ask).await;
                }
            },
        };
        if let Err(out_of_turn) = turn::check(incarnation, held.position, position) {
            return self.refuse(&ask, &out_of_turn.to_string()).await;
        }
        if held.position == position && held.events {
            // Stored before; only the answer was lost.
            let answer = proto::ReportAnswer { stored: true, events_stored: true, ..proto::ReportAnswer::default() };
            self.answer(&ask, answer).await;
            return None;
        }
        let headers = span.in_scope(trace::headers);
        Some(accept(id, ask, report, headers, span))
    }

    /// The position of the node's report that the site's stream holds.
    async fn look_up(&self, node: &NodeId) -> anyhow::Result<Position> {
        let message = self.site.bus.last(streams::STATE, &Subject::Status(node.clone())).await?;
        let Some(message) = message else { return Ok(Position::default()) };
        let status = proto::NodeStatus::decode(message.payload)?;
        Ok(Position { incarnation: status.incarnation, sequence: status.sequence })
    }

    async fn publish(&self, stream: &str, messages: Vec<Outgoing>) -> bool {
        if messages.is_empty() {
            return true;
        }
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        for attempt in 1.. {
            let error = match self.site.bus.publish_all(messages.clone()).await {
                Ok(_) => return true,
                Err(error) => error,
            };
            let again = match &error {
                BatchError::Busy => true,
                // Also for a moment after the server has read a new list of users.
                BatchError::NoStream => {
                    if let Err(error) = self.site.ensure_streams().await {
                        debug!(error = format!("{error:#}"), "the site's streams");
                    }
                    true
                }
                BatchError::Full | BatchError::Conflict | BatchError::Unknown(_) | BatchError::Refused { .. } => false,
            };
            if !again || attempt == ATTEMPTS {
                warn!(stream, count = messages.len(), error = &error as &dyn Error, "reports not stored");
                return false;
            }
            sleep(backoff.pause()).await;
        }
        false
    }

    async fn refuse(&self, ask: &Ask, reason: &str) -> Option<Accepted> {
        metrics::REPORTS.with_label_values(&[self.site.client.as_str(), "refused"]).inc();
        self.site.refusals.add(&ask.subject.to_string(), reason);
        self.answer(ask, proto::ReportAnswer { refused: reason.to_owned(), ..proto::ReportAnswer::default() }).await;
        None
    }

    /// Neither stored nor refused: the node comes again.
    async fn not_now(&self, ask: &Ask) -> Option<Accepted> {
        metrics::REPORTS.with_label_values(&[self.site.client.as_str(), "failed"]).inc();
        self.answer(ask, proto::ReportAnswer::default()).await;
        None
    }

    async fn answer(&self, ask: &Ask, mut answer: proto::ReportAnswer) {
        answer.state_stream = self.site.state_stream();
        ask.answer(answer.encode_to_vec().into()).await;
    }
}

fn accept(id: NodeId, ask: Ask, report: report::Request, headers: HeaderMap, span: Span) -> Accepted {
    let report::Request { position, status, capabilities, events, traces, metrics, .. } = report;
    let outgoing =
        |subject: Subject, payload: Bytes| Outgoing { headers: headers.clone(), ..Outgoing::new(subject, payload) };
    let event = events.map(|payload| outgoing(Subject::Event(id.clone()), payload));
    let status = outgoing(Subject::Status(id.clone()), status);
    let capabilities = capabilities.map(|payload| outgoing(Subject::Capabilities(id.clone()), payload));
    let state = [status].into_iter().chain(capabilities).collect();
    Accepted { node: id.node, ask, position, event, state, traces, metrics, span }
}
