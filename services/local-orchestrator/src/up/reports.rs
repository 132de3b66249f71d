//! `node.<client>.<node>.report`: reports of many nodes become batches of the site's streams, then answers.

use std::{collections::HashMap, error::Error, sync::Arc, time::Duration};

use async_nats::HeaderMap;
use bus::{
    Ask, Asker, Asks, BatchError, Known, NodeVerb, Outgoing, Pattern, Rules, Shares, Subject, proto,
    report::{self, MAX_REPORT, Position},
    streams, trace,
};
use bytes::Bytes;
use futures::future::join_all;
use margo::{NodeId, NodeName};
use process::{Account, Allowance, Backoff};
use prost::Message as _;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, info_span, warn};

use super::{telemetry::Telemetry, turn};
use crate::{
    metrics,
    nodes::{Decided, Presented, Pulses, Registrar},
    reported::{Reported, Stored},
    site::Site,
};

/// How long reports are collected: far less than a node waits, and enough that a hundred nodes share one sync.
const COLLECT: Duration = Duration::from_millis(5);

/// Reports of one round. Each is at most two messages of STATE, and a batch holds a thousand.
const ROUND: usize = 400;

/// Bytes of one round, so that large reports do not pile up in memory.
const ROUND_BYTES: usize = 32 << 20;

/// A node has one report in work, and the newest of those that come meanwhile waits.
const REPORTS: Rules =
    Rules { longest: MAX_REPORT, shares: Shares { each: 2, bytes: 2 * ROUND_BYTES }, answered: true };

/// A stream that is missing is made and asked again so often before the node is told to come back.
const ATTEMPTS: usize = 4;

/// What one node may put into the queue towards the hub: what it keeps in an outage, and then some thousand transitions a day.
const EVENTS_OF_NODE: Allowance = Allowance { burst: 32 << 20, per_day: 8 << 20 };

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
    /// The site's stream STATE, as the node was last told of it.
    claim: Known,
    event: Option<Outgoing>,
    /// Whether the node has used up its share of EVENTS, and keeps its transitions.
    events_over: bool,
    state: Vec<Outgoing>,
    traces: Bytes,
    metrics: Vec<proto::Metric>,
    /// Ends when the report was answered.
    span: Span,
}

/// Who stores the reports of the site's nodes, and answers.
pub struct Reporter {
    site: Arc<Site>,
    registrar: Arc<Registrar>,
    pulses: Arc<Pulses>,
    telemetry: Telemetry,
    /// What each node may still put into EVENTS.
    budgets: HashMap<NodeName, Account>,
    /// Came too early for the round that was being collected.
    carried: Option<Incoming>,
}

impl Reporter {
    pub fn new(site: Arc<Site>, registrar: Arc<Registrar>, pulses: Arc<Pulses>, telemetry: Telemetry) -> Self {
        Self { site, registrar, pulses, telemetry, budgets: HashMap::new(), carried: None }
    }

    /// Stores and answers until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut requests =
            self.site.front.newest_asks(Pattern::Nodes(self.site.client.clone(), NodeVerb::Report), REPORTS).await?;
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
        self.look(Vec::new()).await;
        // Together, so that one that has to wait holds up no other.
        let checked = join_all(round.into_iter().map(|incoming| self.check(incoming))).await;
        let mut accepted: Vec<_> = checked.into_iter().flatten().collect();
        let claims = accepted.iter().map(|report| (report.node.to_string(), report.claim.clone())).collect();
        self.look(claims).await;
        self.charge(&mut accepted);
        let events = accepted.iter().map(|report| report.event.clone().into_iter().collect()).collect();
        let states = accepted.iter().map(|report| report.state.clone()).collect();
        let (events_stored, _) = self.publish(streams::EVENTS, events).await;
        let (stored, sequence) = self.publish(streams::STATE, states).await;
        self.site.wrote_state(sequence).await;
        for ((report, events_stored), stored) in accepted.into_iter().zip(events_stored).zip(stored) {
            self.finish(report, events_stored, stored).await;
        }
    }

    async fn look(&self, claims: Vec<(String, Known)>) {
        if let Err(error) = self.site.look_at_state(claims).await {
            // What cannot be written now is answered so when it is tried.
            debug!(error = format!("{error:#}"), "the site's stream STATE");
        }
    }

    /// Answers a report that was published. `events_stored` and `stored` say whether its transitions are on the disk, and its
    /// status with its capabilities.
    async fn finish(&mut self, report: Accepted, events_stored: Result<(), String>, stored: Result<(), String>) {
        if let (Err(reason), _) | (_, Err(reason)) = (&events_stored, &stored) {
            debug!(node = %report.node, reason, "report not stored as a whole");
        }
        let (stored, events_stored) = (stored.is_ok(), events_stored.is_ok() && !report.events_over);
        let outcome = if stored { "stored" } else { "failed" };
        metrics::REPORTS.with_label_values(&[self.site.client.as_str(), outcome]).inc();
        if stored {
            self.reported().set(report.node.clone(), Stored { position: report.position, events: events_stored });
            self.telemetry.take(&self.site.node(&report.node), report.traces.clone(), &report.metrics);
        }
        let answer = proto::ReportAnswer { stored, events_stored, ..proto::ReportAnswer::default() };
        debug!(parent: &report.span, sequence = report.position.sequence, stored, events_stored, "report");
        self.answer(&report.ask, answer).await;
    }

    /// A report that may be stored; any other is answered here.
    async fn check(&self, Incoming { node: id, ask }: Incoming) -> Option<Accepted> {
        self.pulses.heard(&id.node);
        let mut report = match report::request(&ask.payload, self.site.generation(&id.node)) {
            Ok(report) => report,
            Err(malformed) => {
                let reason = format!("the report is malformed: {}", process::chain(&malformed));
                return self.refuse(&ask, &reason).await;
            }
        };
        if let Some((found, wanted)) = report.device.as_ref().zip(self.registrar.device(&id.node))
            && *found != wanted
        {
            // Nobody above could take them, and the rest of the report matters more.
            let reason = format!("the capabilities are those of device {found}, not of {wanted}");
            self.site.refusals.add(&Subject::Capabilities(id.clone()).to_string(), &reason);
            report.capabilities = None;
        }
        let span = info_span!("report", node = %id, trace_id = tracing::field::Empty);
        trace::continue_from_text(&span, &report.traceparent);
        let Position { incarnation, sequence, .. } = report.position;
        let life = match self.registrar.incarnations.get(&id.node) {
            Some(life) => life,
            // The node has been connected since before we lost our disk.
            None => match self.registrar.decide(&id.node, Presented { incarnation, sequence }).await {
                Decided::Life(life) => life,
                Decided::NotReady => return self.not_now(&ask).await,
            },
        };
        let held = match self.reported().get(&self.site.bus, &id).await {
            Ok(stored) => stored,
            Err(error) => {
                warn!(node = %id, error = format!("{error:#}"), "report not stored");
                return self.not_now(&ask).await;
            }
        };
        if let Err(out_of_turn) = turn::check(life, held.position, report.position) {
            return self.refuse(&ask, &out_of_turn.to_string()).await;
        }
        if held.position == report.position && held.events {
            // Stored before; only the answer was lost.
            let answer = proto::ReportAnswer { stored: true, events_stored: true, ..proto::ReportAnswer::default() };
            self.answer(&ask, answer).await;
            return None;
        }
        let headers = span.in_scope(trace::headers);
        Some(accept(id, ask, report, headers, span))
    }

    /// Charges nodes for their transitions: the queue towards the hub is for all of them. One that is over its budget keeps
    /// its transitions, and its status is stored.
    fn charge(&mut self, accepted: &mut [Accepted]) {
        let now = Instant::now();
        for report in accepted {
            let Some(event) = &report.event else { continue };
            let account = self.budgets.entry(report.node.clone()).or_insert_with(|| Account::new(EVENTS_OF_NODE, now));
            if !account.spend(EVENTS_OF_NODE, event.stored_bytes(), now) {
                let subject = event.subject.to_string();
                self.site.refusals.add(&subject, "the node's share of the queue towards the hub is used up");
                report.event = None;
                report.events_over = true;
            }
        }
    }

    /// Publishes what each report has for one stream. Returns what became of each, and the highest sequence.
    async fn publish(&self, stream: &str, groups: Vec<Vec<Outgoing>>) -> (Vec<Result<(), String>>, u64) {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut attempt = 1;
        loop {
            let published = self.site.bus.publish_groups(groups.clone()).await;
            let errors = || published.results.iter().flatten().filter_map(|result| result.as_ref().err());
            if attempt < ATTEMPTS && errors().any(|error| matches!(**error, BatchError::NoStream)) {
                // Also for a moment after the server has read a new list of users.
                if let Err(error) = self.site.ensure_streams().await {
                    debug!(error = format!("{error:#}"), "the site's streams");
                }
                attempt += 1;
                sleep(backoff.pause()).await;
                // A stream that was made anew holds nothing of what was known.
                self.look(Vec::new()).await;
                continue;
            }
            if let Some(error) = errors().next() {
                let (count, error) = (errors().count(), &**error as &dyn Error);
                warn!(stream, count, error, "messages of reports not stored");
            }
            let whole = |results: Vec<Result<(), Arc<BatchError>>>| {
                results.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(error.to_string()))
            };
            return (published.results.into_iter().map(whole).collect(), published.sequence);
        }
    }

    fn reported(&self) -> &Reported {
        &self.site.reported
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
        let Known { id, sequence } = self.site.state_known();
        (answer.state_stream, answer.state_sequence) = (id, sequence);
        ask.answer(answer.encode_to_vec().into()).await;
    }
}

fn accept(id: NodeId, ask: Ask, report: report::Request, headers: HeaderMap, span: Span) -> Accepted {
    let report::Request { position, status, capabilities, events, traces, metrics, stream, .. } = report;
    let claim = Known { id: stream.0, sequence: stream.1 };
    let outgoing =
        |subject: Subject, payload: Bytes| Outgoing { headers: headers.clone(), ..Outgoing::new(subject, payload) };
    let event = events.map(|payload| outgoing(Subject::Event(id.clone()), payload));
    let status = outgoing(Subject::Status(id.clone()), status);
    let capabilities = capabilities.map(|payload| outgoing(Subject::Capabilities(id.clone()), payload));
    let state = [status].into_iter().chain(capabilities).collect();
    Accepted { node: id.node, ask, position, claim, event, events_over: false, state, traces, metrics, span }
}
