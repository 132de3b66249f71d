//! Registers with the site at every connect, then reports whatever the site does not have yet.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_nats::HeaderMap;
use bus::{Bus, NodeVerb, Subject, proto, trace};
use margo::NodeId;
use prost::Message;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, field::Empty, info, info_span, warn};

use crate::{
    artifacts::{Access, SiteStore},
    fit,
    journal::{Draft, Journal},
    metrics::Gauges,
    retry,
    telemetry::SpanBuffer,
};
use process::jittered;

/// Changes that follow each other so closely go in one report.
const COALESCE: Duration = Duration::from_millis(50);

/// Sign of life. The site misses three of them before it calls the node unreachable.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A refused report is refused again until somebody does something.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);

/// Registers with the site and tells it what the journal holds.
pub struct Reporter {
    pub bus: Bus,
    pub node: NodeId,
    /// What there is to tell.
    pub journal: Arc<Journal>,
    /// Spans that ride on reports.
    pub spans: SpanBuffer,
    /// Is told where the site says that artifacts are.
    pub store: Arc<SiteStore>,
    pub gauges: Arc<Gauges>,
}

/// How the site answered a registration.
enum Registration {
    /// The identity of its STATE stream.
    Accepted(String),
    /// The site cannot tell yet whether it accepts this node.
    NotReady,
    /// The site does not accept this node, for this reason.
    Refused(String),
}

/// How the site answered a report.
enum Outcome {
    /// The report is on the disk of the site, in the STATE stream of this identity.
    Stored(String),
    /// A part of the report is not stored, and stays in the journal for the next one.
    Kept,
    /// The site does not take this report, for this reason.
    Refused(String),
}

impl Reporter {
    /// Reports until shutdown. Ends with an error when the site refuses this node at the end.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut refused = None;
        tokio::select! {
            // Cancel-safe: what is not answered is told again by the next life of the agent.
            () = shutdown.cancelled() => match refused {
                None => Ok(()),
                Some(reason) => bail!("the site refuses this node: {reason}"),
            },
            never = self.serve(&mut refused) => never,
        }
    }

    async fn serve(&self, refused: &mut Option<String>) -> anyhow::Result<()> {
        let mut connections = self.bus.connections();
        loop {
            self.bus.connected().await;
            connections.borrow_and_update();
            let stream = self.register(refused).await;
            tokio::select! {
                () = self.report(stream) => {}
                _ = connections.changed() => debug!("connected again"),
                () = self.store.refused() => debug!("the site's store has a new token"),
            }
        }
    }

    /// Asks until the site has accepted us: each attempt waits for a connection.
    async fn register(&self, refused: &mut Option<String>) -> String {
        let mut backoff = retry::SITE;
        loop {
            self.bus.connected().await;
            match self.ask_to_register().await {
                Ok(Registration::Accepted(stream)) => {
                    *refused = None;
                    return stream;
                }
                Ok(Registration::NotReady) => info!("the site is not ready; asking again"),
                Ok(Registration::Refused(reason)) => {
                    error!(reason, "the site refuses this node; what runs goes on");
                    *refused = Some(reason);
                }
                Err(reason) => warn!(error = &*reason as &dyn std::error::Error, "not registered; asking again"),
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn ask_to_register(&self) -> anyhow::Result<Registration> {
        let told = |journal: &Journal| (journal.incarnation(), journal.sequence());
        let (incarnation, sequence) = self.journal.with(told).await?;
        let request = proto::RegisterRequest { incarnation, sequence };
        let subject = Subject::Node(self.node.clone(), NodeVerb::Register);
        let answer = self.bus.request(&subject, HeaderMap::new(), request.encode_to_vec().into()).await?;
        let answer = proto::RegisterAnswer::decode(answer.payload).context("decoding the answer to register")?;
        if !answer.refused.is_empty() {
            return Ok(Registration::Refused(answer.refused));
        }
        if answer.not_ready || answer.incarnation == 0 {
            return Ok(Registration::NotReady);
        }
        let given = answer.incarnation;
        self.journal.with(move |journal| journal.set_incarnation(given)).await??;
        if !answer.artifacts_url.is_empty() {
            self.store.set(Access { url: answer.artifacts_url, token: answer.artifacts_token });
        }
        info!(incarnation = answer.incarnation, "registered");
        Ok(Registration::Accepted(answer.state_stream))
    }

    /// Reports until the site refuses a report: then we have to register again.
    async fn report(&self, mut stream: String) {
        let mut backoff = retry::SITE;
        loop {
            while !self.is_due(&stream).await && self.spans.is_empty() || !self.is_described().await {
                tokio::select! {
                    () = self.journal.changed() => sleep(COALESCE).await,
                    () = self.spans.filled() => {}
                }
            }
            match self.send(&stream).await {
                Ok(Outcome::Stored(current)) => {
                    stream = current;
                    backoff = retry::SITE;
                }
                Ok(Outcome::Kept) => {
                    info!("the site could not store everything; reporting again");
                    sleep(backoff.pause()).await;
                }
                Ok(Outcome::Refused(reason)) => {
                    error!(reason, "the site refuses the report");
                    return sleep(jittered(REFUSED_PAUSE)).await;
                }
                Err(reason) => {
                    warn!(error = &*reason as &dyn std::error::Error, "report not answered; sending it again");
                    sleep(backoff.pause()).await;
                }
            }
        }
    }

    async fn is_due(&self, stream: &str) -> bool {
        let stream = stream.to_owned();
        // A journal that cannot be asked is not waited for: the report that follows fails and is tried again.
        self.journal.with(move |journal| journal.is_due(&stream)).await.unwrap_or(true)
    }

    async fn is_described(&self) -> bool {
        self.journal.with(Journal::is_described).await.unwrap_or(true)
    }

    async fn send(&self, stream: &str) -> anyhow::Result<Outcome> {
        let stream = stream.to_owned();
        let draft = self.journal.with(move |journal| journal.draft(&stream)).await?.context("numbering a report")?;
        // Only news make a span: one for each report that carries spans would never end.
        let span = match &draft.trace {
            None => Span::none(),
            Some(parent) => {
                let span = info_span!("report", trace_id = Empty);
                trace::continue_from_text(&span, parent);
                span
            }
        };
        self.exchange(draft).instrument(span).await
    }

    async fn exchange(&self, mut draft: Draft) -> anyhow::Result<Outcome> {
        let (spans, traces) = self.spans.take_at_most(fit::room_for_traces(&draft.request));
        draft.request.traces = traces.into();
        let waiting = self.journal.with(Journal::waiting).await?;
        draft.request.metrics = self.gauges.read(waiting);
        draft.request.traceparent = draft.trace.as_ref().and_then(|_| trace::current_text()).unwrap_or_default();
        process::stop_point("edge-node.before-report");
        let body = draft.request.encode_to_vec().into();
        let subject = Subject::Node(self.node.clone(), NodeVerb::Report);
        let answer = match self.bus.request(&subject, HeaderMap::new(), body).await {
            Ok(answer) => proto::ReportAnswer::decode(answer.payload).context("decoding the answer to a report"),
            Err(problem) => Err(problem.into()),
        };
        match answer {
            Ok(answer) => {
                let settled = answer.clone();
                let draft = self
                    .journal
                    .with(move |journal| {
                        journal.settle(&draft, &settled);
                        draft
                    })
                    .await?;
                let events_kept = draft.request.events.is_some() && !answer.events_stored;
                Ok(match answer {
                    answer if !answer.refused.is_empty() => Outcome::Refused(answer.refused),
                    answer if answer.stored && !events_kept => Outcome::Stored(answer.state_stream),
                    _ => Outcome::Kept,
                })
            }
            Err(error) => {
                self.spans.give_back(spans);
                Err(error)
            }
        }
    }
}

/// Says every few seconds that this node lives.
pub async fn heartbeat(bus: Bus, node: NodeId, shutdown: CancellationToken) -> anyhow::Result<()> {
    let subject = Subject::Node(node, NodeVerb::Alive);
    let mut due = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = due.tick() => {}
        }
        // Nothing may pile up for a server that is not there: old signs of life are worth nothing.
        if bus.is_connected()
            && let Err(reason) = bus.signal(&subject, bytes::Bytes::new()).await
        {
            debug!(error = &*reason as &dyn std::error::Error, "sign of life not sent");
        }
    }
}
