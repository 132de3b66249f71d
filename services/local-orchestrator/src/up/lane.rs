//! One of the site's streams on its way to the hub: what is taken from it, and who has to wait.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use async_nats::jetstream::{
    AckKind, Message,
    consumer::{AckPolicy, DeliverPolicy, pull},
    context::ConsumerInfoErrorKind,
};
use bus::{Pattern, Subject, streams};
use margo::NodeName;
use process::jittered;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    pull::{Pull, Pulled},
    site::Site,
};

/// The name of the relay's consumer on each of the site's streams.
const CONSUMER: &str = bus::RELAY;

/// Longer than the relay lets pass without a word about what it has in hand.
const ACK_WAIT: Duration = Duration::from_secs(60);

/// Bytes of one group, headers and subjects included. One of each stream together fit a window, and each holds the largest
/// message.
const GROUP_BYTES: usize = 440 << 10;

/// How long a node waits for which the hub stores nothing now: so long first, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// So often the hub may say "not now" about a node before that is shown to people.
const SHOWN_AFTER: u32 = 3;

/// The pauses of nodes; that of the site itself stands under `None`.
#[derive(Default)]
struct Pauses {
    of: HashMap<Option<NodeName>, Pause>,
}

struct Pause {
    until: Instant,
    times: u32,
}

impl Pauses {
    /// How long this node still waits.
    fn left(&self, node: &Option<NodeName>, now: Instant) -> Option<Duration> {
        let pause = self.of.get(node)?;
        Some(pause.until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Makes a node wait, once more and longer. Returns how long, and whether that is to be shown.
    fn begin(&mut self, node: Option<NodeName>, now: Instant) -> (Duration, bool) {
        let pause = self.of.entry(node).or_insert(Pause { until: now, times: 0 });
        if pause.until > now {
            // Another message of the same window.
            return (pause.until - now, false);
        }
        let length = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(pause.times)).min(LONGEST_PAUSE);
        let length = jittered(length);
        (pause.until, pause.times) = (now + length, pause.times.saturating_add(1));
        (length, pause.times == SHOWN_AFTER)
    }

    fn end(&mut self, node: &Option<NodeName>) {
        self.of.remove(node);
    }
}

/// A message in hand, with the subject on which the site has stored it.
pub struct Taken {
    pub message: Message,
    pub subject: Subject,
}

impl Taken {
    /// The node that the message is about; `None` for what is about the site.
    fn node(&self) -> Option<NodeName> {
        match &self.subject {
            Subject::Status(node) | Subject::Capabilities(node) | Subject::Event(node) => Some(node.node.clone()),
            _ => None,
        }
    }
}

/// One of the site's streams.
pub struct Lane {
    pub stream: &'static str,
    deliver: DeliverPolicy,
    filter: Pattern,
    pull: Pull,
    pauses: Pauses,
    /// Whether everything in the stream has to be taken from its beginning. True at first: what was under way when the
    /// process died need not wait until its acknowledgement is overdue.
    anew: bool,
}

impl Lane {
    /// EVENTS: every transition, the oldest first.
    pub fn of_events(site: &Site) -> Self {
        Self::new(site, streams::EVENTS, DeliverPolicy::All, Pattern::EventsOf(site.client.clone()))
    }

    /// STATE: of each subject only the last value, for a newer one replaces it.
    pub fn of_state(site: &Site) -> Self {
        Self::new(site, streams::STATE, DeliverPolicy::LastPerSubject, Pattern::StateOf(site.client.clone()))
    }

    fn new(site: &Site, stream: &'static str, deliver: DeliverPolicy, filter: Pattern) -> Self {
        let pull = Pull::new(site.bus.clone(), stream, CONSUMER).of_at_most(GROUP_BYTES);
        Self { stream, deliver, filter, pull, pauses: Pauses::default(), anew: true }
    }

    /// Has everything taken from the beginning.
    pub fn begin_anew(&mut self) {
        self.anew = true;
    }

    /// Makes the consumer anew, if that has to be done.
    pub async fn prepare(&mut self, site: &Site) -> anyhow::Result<()> {
        if !self.anew {
            return Ok(());
        }
        site.ensure_streams().await?;
        let stream = site.bus.jetstream().get_stream_no_info(self.stream).await?;
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
            // What waits for one node stays unacknowledged, and must not keep back what the others have.
            max_ack_pending: -1,
            ..pull::Config::default()
        };
        let made = stream.create_consumer(config).await;
        made.with_context(|| format!("making the relay's consumer of {}", self.stream))?;
        self.pull.close();
        self.anew = false;
        Ok(())
    }

    /// Waits for messages that may go now. Cancel-safe.
    pub async fn next(&mut self) -> anyhow::Result<Vec<Message>> {
        match self.pull.next().await? {
            Pulled::Group(messages) => Ok(messages),
            Pulled::Nothing => Ok(Vec::new()),
            Pulled::Lost(why) => {
                debug!(stream = self.stream, why, "the relay's consumer");
                self.anew = true;
                Ok(Vec::new())
            }
        }
    }

    /// Gives back those whose nodes have to wait.
    pub async fn admit(&self, messages: Vec<Message>) -> anyhow::Result<Vec<Taken>> {
        let now = Instant::now();
        let mut admitted = Vec::with_capacity(messages.len());
        for message in messages {
            // The LO alone writes these streams, and only subjects of the platform.
            let Ok(subject) = message.subject.parse::<Subject>() else {
                answer(&message, AckKind::Ack).await?;
                continue;
            };
            let taken = Taken { message, subject };
            match self.pauses.left(&taken.node(), now) {
                None => admitted.push(taken),
                Some(left) => answer(&taken.message, AckKind::Nak(Some(left))).await?,
            }
        }
        Ok(admitted)
    }

    /// Ends with a message that the hub has answered for good.
    pub async fn done(&mut self, taken: &Taken) -> anyhow::Result<()> {
        self.pauses.end(&taken.node());
        answer(&taken.message, AckKind::Ack).await
    }

    /// Keeps a message of which the hub said "not now", and what follows from the same node. Returns whether that goes on for
    /// so long that people shall know.
    pub async fn keep(&mut self, taken: &Taken) -> anyhow::Result<bool> {
        let (pause, shown) = self.pauses.begin(taken.node(), Instant::now());
        answer(&taken.message, AckKind::Nak(Some(pause))).await?;
        Ok(shown)
    }
}

/// Answers the site's own server about a message.
pub async fn answer(message: &Message, kind: AckKind) -> anyhow::Result<()> {
    message.ack_with(kind).await.map_err(anyhow::Error::from_boxed).context("answering a message of the site's streams")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_waits_holds_up_no_other_and_waits_longer_each_time() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        let (press, saw) = (Some("press".parse().unwrap()), Some("saw".parse().unwrap()));
        let (first, _) = pauses.begin(press.clone(), now);
        assert!(pauses.left(&press, now).is_some() && pauses.left(&saw, now).is_none());
        assert_eq!(pauses.begin(press.clone(), now).0, first, "of one window it waits once");
        let later = now + first;
        assert!(pauses.left(&press, later).is_none());
        let (second, shown) = pauses.begin(press.clone(), later);
        assert!(second >= FIRST_PAUSE && !shown);
        assert!(pauses.begin(press.clone(), later + second).1, "the third time is shown");
        pauses.end(&press);
        assert!(pauses.begin(press, later).0 <= FIRST_PAUSE);
    }
}
