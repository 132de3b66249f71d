//! `node.<client>.<node>.register`: which incarnation a node is, and where it finds artifacts.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bus::{Ask, Asker, NodeVerb, Pattern, Rules, Shares, Subject, proto, report::MAX_COUNTER};
use futures::StreamExt;
use margo::{DeviceId, Identity, NodeName};
use minter::Minter;
use prost::Message as _;
use service::TokenSecret;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use super::{
    health::Pulses,
    incarnations::{Incarnations, Life, Presented, Registration, register},
};
use crate::{down::InForce, site::Site};

/// Registrations in work at once: each may have to wait for the disk.
const CONCURRENCY: usize = 16;

/// A registration is one number. A node asks again only when it was not answered.
const REGISTRATIONS: Rules = Rules { longest: 1 << 10, shares: Shares { each: 2, bytes: 4 << 20 }, answered: true };

/// How long a registration may take. A disk that does not answer must not hold up those who wait for the registrar.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which life a node has.
pub enum Decided {
    /// The node goes on with this life, or begins it.
    Life(Life),
    /// The hub has to be asked first, or the disk does not take it.
    NotReady,
}

/// Who tells a node which life of it is the present one.
pub struct Registrar {
    pub site: Arc<Site>,
    pub incarnations: Arc<Incarnations>,
    /// Where a registration counts as a sign of life.
    pub pulses: Arc<Pulses>,
    /// Where the site's artifacts are read.
    pub artifacts_url: String,
    /// What the token of each node is derived with.
    pub artifacts_secret: TokenSecret,
    /// Where a node's key stands.
    pub in_force: watch::Receiver<Option<Arc<InForce>>>,
    /// Who is given a login.
    pub minter: Arc<Minter>,
}

impl Registrar {
    /// Answers the registrations of the site's nodes until shutdown, several at a time.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let pattern = Pattern::Nodes(self.site.client.clone(), NodeVerb::Register);
        let asks = self.site.front.asks(pattern, REGISTRATIONS).await?;
        asks.stream()
            .take_until(shutdown.cancelled_owned())
            .for_each_concurrent(CONCURRENCY, async |ask| {
                let span = info_span!("register", subject = %ask.subject);
                self.handle(ask).instrument(span).await;
            })
            .await;
        Ok(())
    }

    async fn handle(&self, ask: Ask) {
        let Asker::Node(id) = &ask.asker else { return };
        let mut answer = match proto::RegisterRequest::decode(ask.payload.clone()) {
            Ok(proto::RegisterRequest { incarnation, sequence }) if incarnation.max(sequence) <= MAX_COUNTER => {
                self.answer(&id.node, Presented { incarnation, sequence }).await
            }
            Ok(asked) => refused(format!("incarnation {} is none", asked.incarnation)),
            Err(error) => refused(format!("the request does not decode: {error}")),
        };
        if !answer.refused.is_empty() {
            self.site.refusals.add(&ask.subject.to_string(), &answer.refused);
        }
        answer.state_stream = self.site.state_known().id;
        ask.answer(answer.encode_to_vec().into()).await;
    }

    async fn answer(&self, node: &NodeName, presented: Presented) -> proto::RegisterAnswer {
        match self.decide(node, presented).await {
            Decided::Life(Life { incarnation, .. }) => {
                self.pulses.heard(node);
                proto::RegisterAnswer {
                    incarnation,
                    artifacts_url: self.artifacts_url.clone(),
                    artifacts_token: self.token(node),
                    ..proto::RegisterAnswer::default()
                }
            }
            Decided::NotReady => proto::RegisterAnswer { not_ready: true, ..proto::RegisterAnswer::default() },
        }
    }

    /// The node's token for the site's artifacts. It is empty when the node has no key in force, and when whoever asks may be
    /// connected with an earlier key: both are about to be cut off, and must not have what outlives that.
    fn token(&self, node: &NodeName) -> String {
        let in_force = self.in_force.borrow().clone();
        let identity = in_force.as_ref().and_then(|set| set.identities.get(node)?.identity.as_ref());
        let key = identity.map(|Identity::Nkey(key)| key).filter(|key| self.minter.admits(key));
        key.map(|key| self.artifacts_secret.token(node.as_str(), key)).unwrap_or_default()
    }

    /// The device that the node is; `None` while nothing in force says so.
    pub fn device(&self, node: &NodeName) -> Option<DeviceId> {
        let in_force = self.in_force.borrow().clone()?;
        Some(in_force.identities.get(node)?.device.clone())
    }

    /// The node's present life, on disk when this returns.
    pub async fn decide(&self, node: &NodeName, presented: Presented) -> Decided {
        if !self.incarnations.is_complete() {
            return Decided::NotReady;
        }
        match timeout(PATIENCE, self.register(node, presented)).await {
            Ok(Ok(life)) => Decided::Life(life),
            Ok(Err(error)) => self.not_ready(node, &format!("{error:#}")),
            Err(_elapsed) => self.not_ready(node, "the disk or the server of the site does not answer"),
        }
    }

    async fn register(&self, node: &NodeName, presented: Presented) -> anyhow::Result<Life> {
        let stored = self
            .site
            .reported
            .get(&self.site.bus, &self.site.node(node))
            .await
            .context("looking for the node's last report")?;
        let generation = self.site.generation(node);
        let decide = |held| match register(generation, held, stored.position, presented) {
            Registration::Keep(life) => life,
            Registration::Begin(life) => {
                // One that begins life after life shall not fill the log.
                if self.site.refusals.may_log(&self.site.node(node).to_string()) {
                    info!(%node, ?presented, ?life, "a new life of the node");
                }
                life
            }
        };
        self.incarnations.decide(node, decide).await
    }

    fn not_ready(&self, node: &NodeName, reason: &str) -> Decided {
        let subject = Subject::Node(self.site.node(node), NodeVerb::Register);
        self.site.refusals.add(&subject.to_string(), &format!("not registered now: {reason}"));
        Decided::NotReady
    }
}

fn refused(reason: String) -> proto::RegisterAnswer {
    proto::RegisterAnswer { refused: reason, ..proto::RegisterAnswer::default() }
}
