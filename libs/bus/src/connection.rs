//! A connection to one NATS server, as one user.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use api::Problem;
use async_nats::{
    Client, ClientError, ConnectErrorKind, ConnectOptions, Event, HeaderMap, RequestErrorKind, Subscriber, jetstream,
};
use bytes::Bytes;
use futures::StreamExt;
use nkeys::KeyPair;
use process::jittered;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{Caller, Login, Pattern, Subject, User, trace};

/// The longest time to wait for an answer to a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time for a connection with its handshake. It is that of the server, for which a thousand sites may wait at
/// once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time between pings. Two lost ones end the connection, so a dead line is noticed within 20 s; each ping costs
/// 100 bytes.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// The header in which a service tells another on whose behalf it asks: a [`Caller`].
pub(crate) const CALLER: &str = "Edgewright-Caller";

/// The longest pause before the next attempt to connect. It doubles with every second attempt, from 10 ms to 4 s: a server that
/// has just started waits for its clients no longer than it took to start, and one that is away is not flooded. The pause itself
/// is a random part of it, so that those who fell together do not return in step.
fn longest_delay(attempt: usize) -> Duration {
    Duration::from_millis((10u64 << (attempt.saturating_sub(1) / 2).min(9)).min(4_000))
}

/// A connection to a NATS server. It is cheap to clone, and it reconnects by itself, for ever.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    jetstream: jetstream::Context,
    connections: watch::Receiver<u64>,
    up: watch::Receiver<bool>,
    refusals: watch::Receiver<u64>,
    user: User,
}

impl Bus {
    /// Connects to the server. When the server is not there yet, this returns all the same and goes on trying in the
    /// background, because an agent may start before its server does.
    pub async fn connect(login: &Login) -> anyhow::Result<Self> {
        let (count, connections) = watch::channel(0);
        let (now, up) = watch::channel(false);
        let (refused, refusals) = watch::channel(0u64);
        let user = login.user.to_string();
        let key = KeyPair::from_seed(login.seed.trim());
        let key = Arc::new(key.with_context(|| format!("the seed of {user} is no NKey seed"))?);
        let jwt = login.jwt.clone();
        let mut options = ConnectOptions::with_auth_callback(move |nonce| jwt.clone().answer(key.clone(), nonce));
        if let Some(tls) = &login.tls {
            options = options.require_tls(true).tls_first().tls_client_config((**tls).clone());
        }
        let client = options
            .name(&user)
            .custom_inbox_prefix(login.user.inbox_prefix())
            .retry_on_initial_connect()
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .connection_timeout(CONNECT_TIMEOUT)
            // The server must not redirect the client to addresses that lie behind another network.
            .ignore_discovered_servers()
            .reconnect_delay_callback(|attempt| jittered(longest_delay(attempt)))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        info!(user, "connected to NATS");
                        now.send_replace(true);
                        count.send_modify(|count| *count += 1);
                    }
                    Event::Disconnected => {
                        warn!(user, "disconnected from NATS");
                        now.send_replace(false);
                    }
                    Event::ClientError(error) if is_refusal(error) => {
                        warn!(user, %event, "NATS");
                        refused.send_modify(|count| *count += 1);
                    }
                    Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
                        warn!(user, %event, "NATS");
                    }
                    Event::LameDuckMode | Event::Draining | Event::Closed => debug!(user, %event, "NATS"),
                }
                std::future::ready(())
            })
            .connect(&login.url)
            .await
            .with_context(|| format!("connecting to NATS at {} as {}", login.url, login.user))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        Ok(Self { client, jetstream, connections, up, refusals, user: login.user.clone() })
    }

    /// Returns the NATS client, for what this type does not wrap.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the JetStream context, for what this type does not wrap.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Returns the user as which this connection was made.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Counts how often the connection came up. A change means that signals may have been missed and everything has to
    /// be looked at again.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// Tells whether the server is connected, for those who only look. Unlike a clone of this value the receiver does
    /// not keep the connection open; its sender ends with the connection.
    pub fn up(&self) -> watch::Receiver<bool> {
        self.up.clone()
    }

    /// Counts how often the server did not let the user in, or there was no JWT to log in with. Attempts go on all the same.
    /// Like that of [`Bus::up`], the receiver does not keep the connection open.
    pub fn refusals(&self) -> watch::Receiver<u64> {
        self.refusals.clone()
    }

    /// Tells whether the server is connected now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Waits until the server is connected.
    pub async fn connected(&self) {
        let mut connections = self.connections();
        while !self.is_connected() {
            // The sender lives as long as the client does, so this does not happen while `self` exists.
            if connections.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until the server has taken in everything that was sent on this connection, such as subscriptions that
    /// were begun and ended; the server answers in order. Only users that answer requests can do this, because they
    /// may publish to inboxes.
    pub async fn settled(&self) -> anyhow::Result<()> {
        let inbox = self.client.new_inbox();
        let mut echo = self.client.subscribe(inbox.clone()).await.context("subscribing to an inbox of our own")?;
        self.client.publish(inbox, Bytes::new()).await.context("publishing to an inbox of our own")?;
        let heard = tokio::time::timeout(REQUEST_TIMEOUT, echo.next()).await;
        heard.context("waiting for the server to take everything in")?.context("the connection ended")?;
        Ok(())
    }

    /// Subscribes to a pattern outside of JetStream. What is published while the connection is down is not received.
    pub async fn subscribe(&self, pattern: impl Into<Pattern>) -> anyhow::Result<Subscriber> {
        let pattern = pattern.into();
        self.client.subscribe(&pattern).await.with_context(|| format!("subscribing to {pattern}"))
    }

    /// Publishes a signal outside of JetStream, with the current trace. The signal may get lost.
    pub async fn signal(&self, subject: &Subject, payload: Bytes) -> anyhow::Result<()> {
        let headers = trace::headers();
        let sent = self.client.publish_with_headers(subject, headers, payload).await;
        sent.with_context(|| format!("publishing {subject}"))
    }

    /// Sends a request with a JSON body to a service and reads its JSON answer. `caller` is on whose behalf it is
    /// made, where that matters to the service that answers. Every failure becomes a problem.
    pub async fn call<T: Serialize, R: DeserializeOwned>(
        &self,
        subject: &Subject,
        body: &T,
        caller: Option<&Caller>,
    ) -> Result<R, Problem> {
        let mut headers = trace::headers();
        if let Some(caller) = caller {
            headers.insert(CALLER, caller.to_header().as_str());
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

    /// Sends a request as [`Bus::request`] does, and gives up as soon as the connection was lost meanwhile: its answer is lost
    /// with it, and would be waited for in vain.
    pub async fn ask(&self, subject: &Subject, body: Bytes) -> Result<async_nats::Message, Problem> {
        let mut connections = self.connections();
        connections.mark_unchanged();
        let lost = || Problem::unavailable(format!("the connection was lost while {subject} was asked"));
        tokio::select! {
            answer = self.request(subject, HeaderMap::new(), body) => answer,
            _ = connections.changed() => Err(lost()),
        }
    }

    /// Sends a request with bytes as its body and returns the answer. Failures of the transport become problems.
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

/// Whether this error means that an attempt to connect failed because of the login. The client tells of it in words only.
fn is_refusal(error: &ClientError) -> bool {
    let kinds = [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication];
    matches!(error, ClientError::Other(text) if kinds.iter().any(|kind| *text == kind.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_longer_than_the_server_was_away_nor_longer_than_four_seconds() {
        let first = Duration::from_millis(10);
        let (mut away, mut last) = (Duration::ZERO, first);
        for attempt in 1..100 {
            let pause = longest_delay(attempt);
            assert!(pause >= last && pause <= away.max(first), "attempt {attempt}, after {away:?}: {pause:?}");
            (away, last) = (away + pause, pause);
        }
        assert_eq!(longest_delay(usize::MAX), Duration::from_secs(4));
    }
}
