//! Site → hub: what the site's streams hold goes up in batches, and is acknowledged here once it is on the hub's disk.
//!
//! One window at a time: with two in flight an older last value could overtake a newer one.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use async_nats::{
    HeaderMap,
    jetstream::{
        AckKind, Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
        context::ConsumerInfoErrorKind,
    },
};
use bus::{Outgoing, Pattern, Subject, streams, trace};
use process::Backoff;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    metrics,
    pull::{Pull, Pulled},
    site::Site,
};

/// The name of the relay's consumer on each of the site's streams.
const CONSUMER: &str = "relay";

/// Longer than a batch may take at the hub, so that nothing is delivered twice while it is under way.
const ACK_WAIT: Duration = Duration::from_secs(60);

/// The relay of one of the site's streams.
pub struct Relay {
    site: Arc<Site>,
    stream: &'static str,
    deliver: DeliverPolicy,
    filter: Pattern,
    pull: Pull,
    hub_connections: watch::Receiver<u64>,
    site_connections: watch::Receiver<u64>,
    /// The newest value that the hub has acknowledged. Nobody else writes it, so a hub that holds another one under
    /// this subject has a new stream, or an old backup of it.
    landmark: Option<(Subject, u64)>,
    /// Whether everything in the stream has to be relayed from its beginning. True at first: what was under way when
    /// the process died need not wait until its acknowledgement is overdue.
    anew: bool,
}

impl Relay {
    /// Relays EVENTS: every transition, the oldest first.
    pub fn of_events(site: Arc<Site>) -> Self {
        let filter = Pattern::EventsOf(site.client.clone());
        Self::new(site, streams::EVENTS, DeliverPolicy::All, filter)
    }

    /// Relays STATE: of each subject only the last value, for a newer one replaces it.
    pub fn of_state(site: Arc<Site>) -> Self {
        let filter = Pattern::StateOf(site.client.clone());
        Self::new(site, streams::STATE, DeliverPolicy::LastPerSubject, filter)
    }

    fn new(site: Arc<Site>, stream: &'static str, deliver: DeliverPolicy, filter: Pattern) -> Self {
        let pull = Pull::new(site.bus.clone(), stream, CONSUMER);
        let (hub_connections, site_connections) = (site.hub.connections(), site.bus.connections());
        Self { site, stream, deliver, filter, pull, hub_connections, site_connections, landmark: None, anew: true }
    }

    /// Relays until shutdown. What fails is tried again after a growing pause.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(streams::FIRST_PAUSE, Duration::from_secs(30));
        loop {
            let window = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                // Cancel-safe: nothing is taken that is not kept.
                window = self.next() => window,
            };
            let done = match window {
                Ok(window) => self.forward(window).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    let delay = backoff.pause();
                    warn!(stream = self.stream, error = format!("{error:#}"), ?delay, "relay");
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = sleep(delay) => {}
                    }
                }
            }
        }
    }

    /// The next messages, when the hub is there to take them.
    async fn next(&mut self) -> anyhow::Result<Vec<Message>> {
        loop {
            self.site.bus.connected().await;
            self.site.hub.connected().await;
            if self.hub_connections.has_changed().unwrap_or(false) {
                self.check_landmark().await?;
                self.hub_connections.mark_unchanged();
            }
            // A server that was started again knows nothing of an open request, and what was under way need not wait.
            self.anew |= self.site_connections.has_changed().unwrap_or(false);
            if self.anew {
                self.site_connections.mark_unchanged();
                self.begin_anew().await?;
                self.anew = false;
            }
            tokio::select! {
                // The senders live as long as the connections that this value holds.
                _ = self.hub_connections.changed() => self.hub_connections.mark_changed(),
                _ = self.site_connections.changed() => self.site_connections.mark_changed(),
                pulled = self.pull.next() => match pulled? {
                    Pulled::Group(window) => return Ok(window),
                    Pulled::Nothing => {}
                    Pulled::Lost(why) => {
                        debug!(stream = self.stream, why, "the relay's consumer");
                        self.anew = true;
                    }
                },
            }
        }
    }

    /// Whether the hub still holds what it acknowledged.
    async fn check_landmark(&mut self) -> anyhow::Result<()> {
        if self.stream != streams::STATE {
            return Ok(());
        }
        if let Some((subject, sequence)) = &self.landmark {
            let held = self.site.hub.last(streams::STATE, subject).await?;
            if held.is_none_or(|message| message.sequence != *sequence) {
                info!("the hub has another stream STATE: all last values are relayed again");
                self.anew = true;
                self.landmark = None;
            }
        }
        Ok(())
    }

    async fn begin_anew(&mut self) -> anyhow::Result<()> {
        self.site.ensure_streams().await?;
        let stream = self.site.bus.jetstream().get_stream_no_info(self.stream).await?;
        // Fails when there is none, which is as good.
        if let Err(error) = stream.delete_consumer(CONSUMER).await {
            debug!(stream = self.stream, %error, "no consumer to be removed");
        }
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            deliver_policy: self.deliver,
            filter_subject: self.filter.to_string(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            ..pull::Config::default()
        };
        stream
            .create_consumer(config)
            .await
            .with_context(|| format!("making the relay's consumer of {}", self.stream))?;
        self.pull.close();
        Ok(())
    }

    /// Publishes one window at the hub, then acknowledges it here.
    async fn forward(&mut self, window: Vec<Message>) -> anyhow::Result<()> {
        let mut outgoing = Vec::with_capacity(window.len());
        for message in &window {
            // The LO alone writes these streams, and only subjects of the platform.
            let Ok(subject) = message.subject.parse::<Subject>() else { continue };
            let mut headers = HeaderMap::new();
            if let Some(trace) = message.headers.as_ref().and_then(|headers| headers.get(trace::TRACEPARENT)) {
                headers.insert(trace::TRACEPARENT, trace.clone());
            }
            outgoing.push(Outgoing { headers, ..Outgoing::new(subject, message.payload.clone()) });
        }
        let newest = outgoing.last().map(|outgoing| outgoing.subject.clone());
        let count = outgoing.len() as u64;
        let sequence = match self.site.hub.publish_all(outgoing).await {
            Ok(sequence) => sequence,
            Err(error) => {
                for message in &window {
                    message.ack_with(AckKind::Nak(None)).await.map_err(anyhow::Error::from_boxed)?;
                }
                bail!(error);
            }
        };
        process::stop_point("local-orchestrator.relayed");
        for message in &window {
            message.ack().await.map_err(anyhow::Error::from_boxed)?;
        }
        metrics::RELAYED.with_label_values(&[self.site.client.as_str(), self.stream]).inc_by(count);
        if self.stream == streams::STATE {
            if self.landmark.as_ref().is_some_and(|(_, before)| *before >= sequence) {
                info!("the hub counts anew, so its stream STATE is a new one: all last values are relayed again");
                self.anew = true;
            }
            self.landmark = newest.map(|subject| (subject, sequence));
        }
        Ok(())
    }
}

/// Messages of one of the site's streams that are not on the hub's disk.
pub async fn waiting(site: &Site, stream: &str) -> anyhow::Result<u64> {
    let stream = site.bus.jetstream().get_stream_no_info(stream).await?;
    match stream.consumer_info(CONSUMER).await {
        Ok(info) => Ok(info.num_pending + info.num_ack_pending as u64),
        // The relay has not begun: everything waits.
        Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(stream.get_info().await?.state.messages),
        Err(error) => Err(error).context("asking how much waits for the hub"),
    }
}
