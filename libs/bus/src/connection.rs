//! One connection to one NATS server, as one user.

use std::time::Duration;

use anyhow::Context as _;
use api::Problem;
use async_nats::{Client, ConnectOptions, Event, HeaderMap, RequestErrorKind, Subscriber, jetstream};
use bytes::Bytes;
use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{Pattern, Role, Subject, trace};

/// Longest time to wait for an answer to a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Between pings. Two lost ones end the connection, so a dead line is noticed within 20 s; each costs 100 bytes.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Who asked, as services tell each other.
pub(crate) const ACTOR: &str = "Edgewright-Actor";

/// Where to connect, and as whom.
#[derive(Clone)]
pub struct Endpoint {
    /// `nats://host:port`
    pub url: String,
    /// NKey seed (`SU…`). A secret.
    pub seed: String,
    /// Whose permissions the user has; gives name and inbox prefix.
    pub role: Role,
}

/// A connection. Cheap to clone; reconnects by itself, for ever.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    connections: watch::Receiver<u64>,
    up: watch::Receiver<bool>,
    role: Role,
}

impl Bus {
    /// Connects, or goes on trying in the background: an agent starts before its server does.
    pub async fn connect(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let (count, connections) = watch::channel(0);
        let (now, up) = watch::channel(false);
        let role = endpoint.role.to_string();
        let client = ConnectOptions::with_nkey(endpoint.seed.clone())
            .name(&role)
            .custom_inbox_prefix(endpoint.role.inbox_prefix())
            .retry_on_initial_connect()
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            // Nobody may redirect us to addresses that lie behind another network.
            .ignore_discovered_servers()
            // From 100 ms, doubling, up to 4 s: a server that restarts is found again quickly, and is not flooded.
            .reconnect_delay_callback(|attempt| Duration::from_millis((50u64 << attempt.clamp(1, 7)).min(4_000)))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        info!(role, "connected to NATS");
                        now.send_replace(true);
                        count.send_modify(|count| *count += 1);
                    }
                    Event::Disconnected => {
                        warn!(role, "disconnected from NATS");
                        now.send_replace(false);
                    }
                    Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                        warn!(role, %event, "NATS");
                    }
                    Event::LameDuckMode | Event::Draining | Event::Closed => debug!(role, %event, "NATS"),
                }
                std::future::ready(())
            })
            .connect(&endpoint.url)
            .await
            .with_context(|| format!("connecting to NATS at {} as {}", endpoint.url, endpoint.role))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        Ok(Self { client, jetstream, connections, up, role: endpoint.role.clone() })
    }

    /// The client itself, for what this type does not wrap.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// JetStream, for what this type does not wrap.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Who this connection is.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Counts connections: a change means "connected again, look again".
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Whether the server is connected, for who only looks: unlike a clone of this value, it does not keep the connection
    /// open. Its sender ends with the connection.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.up.clone()
    }

    /// Whether the server is connected now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Waits until the server is connected.
    pub async fn connected(&self) {
        let mut connections = self.connections();
        while !self.is_connected() {
            // The sender lives as long as the client does.
            if connections.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the server has taken in everything that was sent on this connection, such as subscriptions begun and
    /// ended: it answers in order. Only for roles that answer requests (they may publish to inboxes).
    pub async fn settled(&self) -> anyhow::Result<()> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.context("subscribing to an inbox of our own")?;
        self.client.publish(inbox, Bytes::new()).await.context("publishing to an inbox of our own")?;
        let heard = tokio::time::timeout(REQUEST_TIMEOUT, echo.next()).await;
        heard.context("waiting for the server to take everything in")?.context("the connection ended")?;
        Ok(())
    }

    /// Core subscription.
    pub async fn subscribe(&self, pattern: impl Into<Pattern>) -> anyhow::Result<Subscriber> {
        let pattern = pattern.into();
        self.client.subscribe(&pattern).await.with_context(|| format!("subscribing to {pattern}"))
    }

    /// Core publish, with the current trace: a signal that may get lost.
    pub async fn signal(&self, subject: &Subject, payload: Bytes) -> anyhow::Result<()> {
        let headers = trace::headers();
        let sent = self.client.publish_with_headers(subject, headers, payload).await;
        sent.with_context(|| format!("publishing {subject}"))
    }

    /// A service request with JSON bodies. `actor` is the person or service on whose behalf it is made.
    pub async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        subject: &Subject,
        body: &T,
        actor: Option<&str>,
    ) -> Result<R, Problem> {
        let mut headers = trace::headers();
        if let Some(actor) = actor {
            headers.insert(ACTOR, actor);
        }
        let body = serde_json::to_vec(body).map_err(|error| {
            warn!(%subject, error = &error as &dyn std::error::Error, "request not sent");
            Problem::internal()
        })?;
        let answer = self.request(subject, headers, body.into()).await?;
        let failed = answer.headers.as_ref().is_some_and(|headers| headers.get("Nats-Service-Error-Code").is_some());
        if failed {
            return Err(serde_json::from_slice(&answer.payload).unwrap_or_else(|_| Problem::internal()));
        }
        serde_json::from_slice(&answer.payload).map_err(|error| {
            warn!(%subject, error = &error as &dyn std::error::Error, "answer not understood");
            Problem::internal()
        })
    }

    /// A request with raw bodies; failures of the transport become problems.
    pub async fn request(
        &self,
        subject: &Subject,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<async_nats::Message, Problem> {
        if !self.is_connected() {
            return Err(Problem::unavailable("the bus is not connected; try again when it is"));
        }
        self.client.request_with_headers(subject, headers, body).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Problem::unavailable(format!("nobody answers {subject}; is it running?")),
            RequestErrorKind::TimedOut => Problem::new(504, format!("no answer to {subject} in time")),
            RequestErrorKind::MaxPayloadExceeded => Problem::new(413, format!("the request {subject} is too large")),
            RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                Problem::unavailable(format!("the request {subject} could not be sent"))
            }
        })
    }
}
