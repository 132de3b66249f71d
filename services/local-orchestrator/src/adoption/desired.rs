//! The site's stream DESIRED: what its nodes read. Written from the set in force and from nothing else.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, bail};
use bus::{BatchError, MAX_BATCH, Outgoing, Pattern, Subject, proto, streams, trace};
use futures::{StreamExt, TryStreamExt};
use margo::{Head, ManifestVersion, NodeName};
use tracing::{info, info_span};

use super::{
    domain::{Manifest, NodeDesired},
    message,
    staging::{Adopted, Parcel},
};
use crate::{
    files,
    site::{Site, last},
};

/// Messages read from the site's server at once.
const READS: usize = 32;

/// Somebody else writes, or the stream was made anew: look again so often.
const ATTEMPTS: usize = 3;

/// What the stream holds.
#[derive(Default)]
struct Mirror {
    /// Sequence of the head; 0: there is none.
    sequence: u64,
    head: Option<Head>,
    nodes: BTreeMap<NodeName, NodeDesired>,
}

pub struct SiteDesired {
    site: Arc<Site>,
    adopted: Adopted,
    /// `None`: not looked yet.
    mirror: Option<Mirror>,
}

impl SiteDesired {
    pub fn new(site: Arc<Site>, adopted: Adopted) -> Self {
        Self { site, adopted, mirror: None }
    }

    /// The server may have lost its disk meanwhile: look at every message again.
    pub fn distrust(&mut self) {
        self.mirror = None;
    }

    /// Brings the stream to the set in force. Does nothing when it is there.
    pub async fn bring(&mut self, manifest: &Manifest) -> anyhow::Result<()> {
        self.site.ensure_streams().await?;
        let head = Subject::DesiredHead(self.site.client.clone());
        let sequence = last(&self.site.bus, streams::DESIRED, &head).await?.map_or(0, |message| message.sequence);
        if self.mirror.as_ref().is_some_and(|mirror| mirror.sequence != sequence) {
            self.mirror = None;
        }
        for _ in 0..ATTEMPTS {
            let mirror = match self.mirror.take() {
                Some(mirror) => mirror,
                None => self.look().await?,
            };
            match self.write(&mirror, manifest).await? {
                Ok(sequence) => {
                    let (head, nodes) = (Some(manifest.head.clone()), manifest.nodes.clone());
                    self.mirror = Some(Mirror { sequence, head, nodes });
                    return Ok(());
                }
                Err(BatchError::Conflict) => {}
                Err(BatchError::NoStream) => self.site.ensure_streams().await?,
                Err(error) => return Err(error).context("writing the site's stream DESIRED"),
            }
        }
        bail!("somebody else writes the site's stream DESIRED")
    }

    async fn look(&self) -> anyhow::Result<Mirror> {
        let stream = self.site.bus.jetstream().get_stream_no_info(streams::DESIRED).await?;
        let all = Pattern::DesiredOf(self.site.client.clone()).to_string();
        let subjects: Vec<(String, usize)> = stream.info_with_subjects(all).await?.try_collect().await?;
        let messages = futures::stream::iter(subjects).map(async |(subject, _)| {
            let Ok(subject) = subject.parse::<Subject>() else { return Ok(None) };
            let message = last(&self.site.bus, streams::DESIRED, &subject).await?;
            anyhow::Ok(message.map(|message| (subject, message)))
        });
        let messages: Vec<_> = messages.buffer_unordered(READS).try_collect().await?;
        let mut mirror = Mirror::default();
        for (subject, message) in messages.into_iter().flatten() {
            match subject {
                Subject::DesiredHead(_) => {
                    mirror.sequence = message.sequence;
                    mirror.head = message::claimed(&message.payload);
                }
                Subject::DesiredNode(id) => {
                    // A message that says nothing is written anew.
                    let desired = bus::decode::<proto::DesiredNode>(&message.payload).ok();
                    if let Some(desired) = desired.and_then(|desired| message::node(&desired).ok()) {
                        mirror.nodes.insert(id.node, desired);
                    }
                }
                _ => {}
            }
        }
        Ok(mirror)
    }

    /// Writes what differs, the head last and only upon the head that was seen. Gives the head's sequence.
    async fn write(&self, mirror: &Mirror, manifest: &Manifest) -> anyhow::Result<Result<u64, BatchError>> {
        let version = manifest.head.version;
        let mut messages = Vec::new();
        for (node, desired) in &manifest.nodes {
            if mirror.nodes.get(node) != Some(desired) {
                messages.push(self.outgoing(version, Subject::DesiredNode(self.site.node(node))).await?);
            }
        }
        for (node, desired) in &mirror.nodes {
            if !manifest.nodes.contains_key(node) && !desired.deployments.is_empty() {
                let nothing = bus::encode(&message::nothing(version));
                messages.push(Outgoing::new(Subject::DesiredNode(self.site.node(node)), nothing));
            }
        }
        if messages.is_empty() && mirror.head.as_ref() == Some(&manifest.head) {
            return Ok(Ok(mirror.sequence));
        }
        let changed = messages.len();
        let head = self.outgoing(version, Subject::DesiredHead(self.site.client.clone())).await?;
        messages.push(head.expect_last(mirror.sequence));
        let mut sequence = 0;
        while !messages.is_empty() {
            let rest = messages.split_off(messages.len().min(MAX_BATCH));
            match self.site.bus.publish_batch(std::mem::replace(&mut messages, rest)).await {
                Ok(last) => sequence = last,
                Err(error) => return Ok(Err(error)),
            }
        }
        info!(%version, changed, "the site's nodes can read it");
        Ok(Ok(sequence))
    }

    /// A message of the set in force, in the trace that it came in.
    async fn outgoing(&self, version: ManifestVersion, subject: Subject) -> anyhow::Result<Outgoing> {
        let (adopted, wanted) = (self.adopted.clone(), subject.clone());
        let parcel = files::blocking(move || adopted.read(version, &wanted)).await;
        let Parcel { traceparent, payload } =
            parcel.with_context(|| format!("reading {subject} of version {version}"))?;
        let span = info_span!("adopt", %subject, %version, trace_id = tracing::field::Empty);
        if let Some(traceparent) = traceparent {
            trace::continue_from_text(&span, &traceparent);
        }
        let headers = span.in_scope(trace::headers);
        Ok(Outgoing { headers, ..Outgoing::new(subject, payload.into()) })
    }
}
