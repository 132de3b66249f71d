//! The road "bus": pulls what is desired from the hub into staging, and offers what is staged.

use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use async_nats::jetstream;
use bus::{Subject, streams, trace};
use margo::{Head, NodeName};
use tokio::time::timeout;
use tracing::{debug, info_span};

use super::{
    domain::{Manifest, NodeDesired},
    message::{self, Message},
    staging::{Parcel, Staging},
    trust::Trust,
};
use crate::{
    files,
    pull::{Pull, Pulled},
    site::Site,
};

/// How long acknowledgements may take on their way out.
const FLUSH: Duration = Duration::from_secs(1);

/// What a road brings: its head is believed, whether the rest belongs to it is for [`super::domain::judge`].
pub struct Offer {
    pub manifest: Manifest,
    /// Number of the KEYS that its head came with.
    pub keys: u64,
    pub commit: String,
}

struct StagedHead {
    head: Head,
    keys: u64,
    commit: String,
}

pub struct BusRoad {
    site: Arc<Site>,
    pull: Pull,
    staging: Staging,
    head: Option<StagedHead>,
    nodes: BTreeMap<NodeName, NodeDesired>,
}

impl BusRoad {
    /// Takes up what was staged before.
    pub fn open(site: Arc<Site>, data: &Path, trust: &Trust) -> anyhow::Result<Self> {
        let staging = Staging::open(data.join("staging")).context("opening the staging folder")?;
        let pull = Pull::new(site.hub.clone(), streams::DESIRED, site.client.as_str());
        let mut road = Self { site, pull, staging, head: None, nodes: BTreeMap::new() };
        for (subject, parcel) in road.staging.load().context("reading the staging folder")? {
            // What no longer passes, such as a head under older KEYS, is as good as lost.
            match message::receive(trust, &road.site.client, &subject, &parcel.payload) {
                Ok(message) => road.hold(message),
                Err(error) => debug!(%subject, error = &error as &dyn Error, "staged message left out"),
            }
        }
        Ok(road)
    }

    /// The connection is a new one.
    pub fn reconnected(&mut self) {
        self.pull.close();
    }

    /// Waits for messages. Cancel-safe.
    pub async fn next(&mut self) -> anyhow::Result<Pulled> {
        self.pull.next().await
    }

    /// What is there now.
    pub async fn now(&mut self) -> anyhow::Result<Pulled> {
        self.pull.now().await
    }

    /// Stages a pull and acknowledges it. What can be refused by itself is refused here and does not get in the way of
    /// what was staged before.
    pub async fn stage(&mut self, group: Vec<jetstream::Message>, trust: &mut Trust) -> anyhow::Result<()> {
        let mut parcels = BTreeMap::new();
        let mut refused = BTreeMap::new();
        for (at, received) in group.iter().enumerate() {
            let span = info_span!("stage", subject = %received.subject, trace_id = tracing::field::Empty);
            trace::continue_from(&span, received.headers.as_ref());
            let _entered = span.enter();
            match self.check(received, trust) {
                Ok((subject, message)) => {
                    if let Message::Head { keys, .. } = &message {
                        trust.raise(*keys)?;
                    }
                    self.hold(message);
                    let payload = received.payload.to_vec();
                    parcels
                        .insert(subject.to_string(), (subject, Parcel { traceparent: trace::current_text(), payload }));
                }
                Err(reason) => {
                    self.site.refusals.add(&received.subject, &reason);
                    refused.insert(at, reason);
                }
            }
        }
        let staging = self.staging.clone();
        let parcels: Vec<_> = parcels.into_values().collect();
        files::blocking(move || staging.put(&parcels)).await.context("staging messages")?;
        for (at, received) in group.iter().enumerate() {
            let Some(reply) = received.reply.clone() else { continue };
            // A terminated message becomes a dead letter at the hub, where its sender can see it.
            let answer = refused.get(&at).map_or("+ACK".to_owned(), |reason| format!("+TERM {reason}"));
            self.site.hub.client().publish(reply, answer.into()).await?;
        }
        // The hub may be gone by now: what it does not hear it sends again, and adopting must not wait for that.
        let flushed = timeout(FLUSH, self.site.hub.client().flush()).await;
        debug!(sent = flushed.is_ok(), "acknowledged");
        service::stop_point("local-orchestrator.staged");
        Ok(())
    }

    fn check(&self, received: &jetstream::Message, trust: &Trust) -> Result<(Subject, Message), String> {
        let subject: Subject = received.subject.parse().map_err(|error: bus::InvalidSubject| error.to_string())?;
        let message = message::receive(trust, &self.site.client, &subject, &received.payload);
        // With all causes: the reason is read by people who do not have our log.
        Ok((subject, message.map_err(|flaw| format!("{:#}", anyhow!(flaw)))?))
    }

    fn hold(&mut self, message: Message) {
        match message {
            Message::Head { head, keys, commit } => self.head = Some(StagedHead { head, keys, commit }),
            Message::Node { node, desired } => _ = self.nodes.insert(node, desired),
        }
    }

    /// What is staged; `None` before the first head.
    pub fn offer(&self) -> Option<Offer> {
        let StagedHead { head, keys, commit } = self.head.as_ref()?;
        let manifest = Manifest { head: head.clone(), nodes: self.nodes.clone() };
        Some(Offer { manifest, keys: *keys, commit: commit.clone() })
    }

    /// Empties staging and asks the hub to send everything again.
    pub async fn start_over(&mut self) -> anyhow::Result<()> {
        let staging = self.staging.clone();
        files::blocking(move || staging.clear()).await.context("emptying the staging folder")?;
        self.head = None;
        self.nodes.clear();
        let subject = Subject::Site(self.site.client.clone(), bus::SiteVerb::Resync);
        let asked = self.site.hub.call::<_, ()>(&subject, &(), Some(self.site.client.as_str())).await;
        // The consumer is another one now.
        self.pull.close();
        asked.context("asking the hub to send everything again")
    }

    pub fn staging(&self) -> &Staging {
        &self.staging
    }
}
