//! Pulling from a durable consumer in groups, by hand.

use std::time::Duration;

use async_nats::{Subscriber, jetstream::Message};
use bus::Bus;
use futures::StreamExt;
use process::Backoff;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

/// Messages of one group: what a batch towards a stream may hold, with room for what goes along with it.
pub const GROUP: usize = 500;

/// Bytes of one group. More than the largest message, and little enough for a small site.
const GROUP_BYTES: usize = 32 << 20;

/// One request waits so long at the server: a site without news costs two small messages each time.
const EXPIRES: Duration = Duration::from_secs(120);

/// How long after its end a request may be answered before it counts as lost.
const SLACK: Duration = Duration::from_secs(10);

/// A group is complete when nothing came for so long: what was stored together is handled together. Whoever can tell the
/// last message of a group waits for nothing ([`Pull::ending_with`]).
const LULL: Duration = Duration::from_millis(5);

pub enum Pulled {
    /// At least one message, in the order of the stream.
    Group(Vec<Message>),
    /// No message waits for the consumer now.
    Nothing,
    /// The consumer does not answer, or is gone.
    Lost(String),
}

pub struct Pull {
    bus: Bus,
    stream: &'static str,
    consumer: String,
    open: Option<Request>,
    group: Vec<Message>,
    /// Bytes of one group, headers and subjects included.
    bytes: usize,
    /// Whether nothing can follow this message that belongs with it.
    ends: fn(&Message) -> bool,
    /// Else a consumer that is gone would be asked in a tight loop.
    not_before: Instant,
    backoff: Backoff,
}

/// One request to the consumer.
struct Request {
    answers: Subscriber,
    /// How many messages may still come: the server ends a request that it has served without a word.
    left: usize,
}

impl Pull {
    pub fn new(bus: Bus, stream: &'static str, consumer: impl Into<String>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));
        let (consumer, not_before) = (consumer.into(), Instant::now());
        Self {
            bus,
            stream,
            consumer,
            open: None,
            group: Vec::new(),
            bytes: GROUP_BYTES,
            ends: |_| false,
            not_before,
            backoff,
        }
    }

    /// The same with groups that are complete as soon as this holds of a message.
    pub fn ending_with(self, ends: fn(&Message) -> bool) -> Self {
        Self { ends, ..self }
    }

    /// The same with groups of at most so many bytes, headers and subjects included.
    pub fn of_at_most(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// Asks anew at once: after a new connection the server knows nothing of an open request.
    pub fn close(&mut self) {
        self.open = None;
        self.not_before = Instant::now();
        self.backoff.reset();
    }

    /// Waits for messages. Cancel-safe: what has arrived is kept for the next call.
    pub async fn next(&mut self) -> anyhow::Result<Pulled> {
        self.bus.connected().await;
        loop {
            if self.open.is_none() {
                sleep_until(self.not_before).await;
                self.ask(json!({ "batch": GROUP, "max_bytes": self.bytes, "expires": EXPIRES.as_nanos() as u64 }))
                    .await?;
            }
            match self.gather(EXPIRES + SLACK).await? {
                Pulled::Nothing => self.backoff.reset(),
                pulled @ Pulled::Group(_) => {
                    self.backoff.reset();
                    return Ok(pulled);
                }
                lost @ Pulled::Lost(_) => {
                    self.not_before = Instant::now() + self.backoff.pause();
                    return Ok(lost);
                }
            }
        }
    }

    /// Takes the messages that wait now, and waits for no others.
    pub async fn now(&mut self) -> anyhow::Result<Pulled> {
        if self.group.is_empty() {
            self.ask(json!({ "batch": GROUP, "max_bytes": self.bytes, "no_wait": true })).await?;
        }
        let pulled = self.gather(SLACK).await?;
        self.open = None;
        Ok(pulled)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is an interface of the server, of which `Subject` knows nothing"
    )]
    async fn ask(&mut self, request: serde_json::Value) -> anyhow::Result<()> {
        let client = self.bus.client();
        let inbox = client.new_inbox();
        let answers = client.subscribe(inbox.clone()).await?;
        self.open = Some(Request { answers, left: GROUP });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, self.consumer);
        client.publish_with_reply(subject, inbox, request.to_string().into()).await?;
        Ok(())
    }

    async fn gather(&mut self, patience: Duration) -> anyhow::Result<Pulled> {
        loop {
            let Some(open) = self.open.as_mut().filter(|open| open.left > 0) else {
                self.open = None;
                return Ok(if self.group.is_empty() { Pulled::Nothing } else { self.take() });
            };
            let wait = if self.group.is_empty() { patience } else { LULL };
            let message = match timeout(wait, open.answers.next()).await {
                Err(_) if !self.group.is_empty() => return Ok(self.take()),
                Err(_) => {
                    self.open = None;
                    return Ok(Pulled::Lost(format!("consumer {} does not answer", self.consumer)));
                }
                Ok(None) => anyhow::bail!("the connection is closed"),
                Ok(Some(message)) => message,
            };
            let Some(status) = message.status.filter(|status| status.as_u16() != 200) else {
                open.left -= 1;
                let message = Message { message, context: self.bus.jetstream().clone() };
                let complete = (self.ends)(&message);
                self.group.push(message);
                if complete {
                    return Ok(self.take());
                }
                continue;
            };
            self.open = None;
            let description = message.description.as_deref().unwrap_or_default();
            return Ok(match status.as_u16() {
                _ if !self.group.is_empty() => self.take(),
                // No messages; the request's time is over; the next message does not fit into what is left of it.
                404 | 408 => Pulled::Nothing,
                409 if description.contains("MaxBytes") => Pulled::Nothing,
                status => Pulled::Lost(format!("consumer {}: {status} {description}", self.consumer)),
            });
        }
    }

    fn take(&mut self) -> Pulled {
        Pulled::Group(std::mem::take(&mut self.group))
    }
}
