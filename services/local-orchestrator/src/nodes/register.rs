//! `node.<client>.<node>.register`: which incarnation a node is, and where it finds artifacts.

use std::sync::Arc;

use anyhow::Context;
use bus::{Ask, Asker, Bus, NodeVerb, Pattern, Rules, Shares, Subject, proto, report::MAX_COUNTER, streams};
use futures::{StreamExt, stream};
use margo::NodeName;
use prost::Message as _;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::{
    health::Pulses,
    incarnations::{Incarnations, Registration, register},
};
use crate::site::Site;

/// Registrations in work at once: after a lost disk each has to ask the hub.
const CONCURRENCY: usize = 16;

/// A registration is one number. A node asks again only when it was not answered.
const REGISTRATIONS: Rules = Rules { longest: 1 << 10, shares: Shares { each: 2, bytes: 4 << 20 }, answered: true };

/// Which incarnation a node is.
pub enum Decided {
    /// The node goes on, or begins, as this one.
    Incarnation(u64),
    /// An operator has to look.
    Refused(String),
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
    /// The bearer token with which they are read.
    pub artifacts_token: String,
    /// Two answers to one node must not both be the next incarnation.
    pub deciding: Mutex<()>,
}

impl Registrar {
    /// Answers the registrations of the site's nodes until shutdown, several at a time.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let pattern = Pattern::Nodes(self.site.client.clone(), NodeVerb::Register);
        let asks = self.site.front.asks(pattern, REGISTRATIONS).await?;
        stream::unfold(asks, async |mut asks| Some((asks.next().await?, asks)))
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
            Ok(asked) if asked.incarnation <= MAX_COUNTER => self.answer(&id.node, asked.incarnation).await,
            Ok(asked) => refused(format!("incarnation {} is none", asked.incarnation)),
            Err(error) => refused(format!("the request does not decode: {error}")),
        };
        if !answer.refused.is_empty() {
            self.site.refusals.add(&ask.subject.to_string(), &answer.refused);
        }
        answer.state_stream = self.site.state_stream();
        ask.answer(answer.encode_to_vec().into()).await;
    }

    async fn answer(&self, node: &NodeName, presented: u64) -> proto::RegisterAnswer {
        match self.decide(node, presented).await {
            Decided::Incarnation(incarnation) => {
                self.pulses.heard(node);
                proto::RegisterAnswer {
                    incarnation,
                    artifacts_url: self.artifacts_url.clone(),
                    artifacts_token: self.artifacts_token.clone(),
                    ..proto::RegisterAnswer::default()
                }
            }
            Decided::Refused(reason) => refused(reason),
            Decided::NotReady => proto::RegisterAnswer { not_ready: true, ..proto::RegisterAnswer::default() },
        }
    }

    /// The node's present incarnation, on disk when this returns. `presented` is the node's own, 0 for none.
    pub async fn decide(&self, node: &NodeName, presented: u64) -> Decided {
        let known = match self.incarnations.get(node) {
            Some(held) => held,
            None => match self.highest_known(node).await {
                Ok(highest) => highest,
                Err(error) => {
                    info!(%node, error = format!("{error:#}"), "the node has to register again later");
                    return Decided::NotReady;
                }
            },
        };
        let _deciding = self.deciding.lock().await;
        // Another request of the same node may have been answered meanwhile.
        let held = self.incarnations.get(node).unwrap_or(known);
        let incarnation = match register(held, presented) {
            Registration::Keep(incarnation) => incarnation,
            Registration::Give(incarnation) => {
                info!(%node, incarnation, "a new incarnation");
                incarnation
            }
            Registration::Refuse { presented, held } => {
                return Decided::Refused(format!("incarnation {presented} is over, {held} is in force"));
            }
        };
        match self.incarnations.set(node.clone(), incarnation).await {
            Ok(()) => Decided::Incarnation(incarnation),
            Err(error) => {
                warn!(%node, error = format!("{error:#}"), "registration");
                Decided::NotReady
            }
        }
    }

    /// What others remember of a node that this disk does not know: the site's own stream, and the hub, which may have
    /// seen what the site has lost.
    async fn highest_known(&self, node: &NodeName) -> anyhow::Result<u64> {
        let status = Subject::Status(self.site.node(node));
        let reported = async |bus: &Bus| {
            let Some(message) = bus.last(streams::STATE, &status).await? else { return anyhow::Ok(0) };
            Ok(proto::NodeStatus::decode(message.payload)?.incarnation)
        };
        let at_hub = reported(&self.site.hub).await.context("asking the hub for the node's incarnation")?;
        let here = reported(&self.site.bus).await.context("looking for the node's incarnation at the site")?;
        Ok(at_hub.max(here))
    }
}

fn refused(reason: String) -> proto::RegisterAnswer {
    proto::RegisterAnswer { refused: reason, ..proto::RegisterAnswer::default() }
}
