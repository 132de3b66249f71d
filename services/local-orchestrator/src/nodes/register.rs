//! `register.<client>.<node>`: which incarnation a node is, and where it finds artifacts.

use std::{error::Error, sync::Arc};

use anyhow::Context;
use bus::{Bus, Pattern, Subject, proto, report::MAX_COUNTER, streams, trace};
use futures::StreamExt;
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
        let requests = self.site.bus.subscribe(Pattern::Registrations(self.site.client.clone())).await?;
        requests
            .take_until(shutdown.cancelled_owned())
            .for_each_concurrent(CONCURRENCY, async |request| {
                let span = info_span!("register", subject = %request.subject, trace_id = tracing::field::Empty);
                trace::continue_from(&span, request.headers.as_ref());
                self.handle(request).instrument(span).await;
            })
            .await;
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "an answer goes to the subject that the request names")]
    async fn handle(&self, request: async_nats::Message) {
        let (Some(reply), Ok(Subject::Register(id))) = (request.reply.clone(), request.subject.parse()) else { return };
        let mut answer = match proto::RegisterRequest::decode(request.payload.clone()) {
            Ok(asked) if asked.incarnation <= MAX_COUNTER => self.answer(&id.node, asked.incarnation).await,
            Ok(asked) => refused(format!("incarnation {} is none", asked.incarnation)),
            Err(error) => refused(format!("the request does not decode: {error}")),
        };
        if !answer.refused.is_empty() {
            self.site.refusals.add(&request.subject, &answer.refused);
        }
        answer.state_stream = self.site.state_stream();
        if let Err(error) = self.site.bus.client().publish(reply, answer.encode_to_vec().into()).await {
            warn!(error = &error as &dyn Error, "registration not answered");
        }
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
