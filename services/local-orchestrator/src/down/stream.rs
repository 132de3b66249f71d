//! The site's stream DESIRED: what is in force, for the site's own readers; nodes are answered directly. Written from the set
//! in force and from nothing else, and only after that set is durable.
//!
//! **Layout.** One message for each node with all that it shall run, and one with the signed head. The stream keeps the
//! last message of each subject. A node that left the manifest has a message with no deployments.
//!
//! **Updates.** A change is published as `bus::Bus::publish_all` does: many messages in one batch, a few one by one. What the
//! stream holds is remembered after each write, and the head goes last
//! and only upon the head that was seen: if somebody else wrote, or the stream was made anew, the batch is refused, and
//! the stream is looked at whole. So the round trips that look for streams and compare heads are made on a timer
//! ([`SiteDesired::look`]) and not on the way of an order.
//!
//! **After a crash.** What was remembered is gone, so the next life reads the whole stream first and writes what
//! differs from the set in force. Some nodes may have their new message by then and others not; each message is whole
//! for its node, and the head comes last. A stream that was lost is written anew from the set in force.

use std::{collections::BTreeMap, io, sync::Arc};

use anyhow::{Context, bail};
use bus::{BatchError, Outgoing, Pattern, Subject, proto, streams, trace};
use futures::{StreamExt, TryStreamExt};
use margo::{Head, ManifestVersion, NodeId, NodeName};
use tracing::{info, info_span};

use super::{
    domain::NodeDesired,
    in_force::{InForce, Served},
    message,
};
use crate::site::Site;

/// Messages read from the site's server at once.
const READS: usize = 32;

/// Attempts to write before the next look on the timer. Each but the first begins with a look at the whole stream.
const ATTEMPTS: usize = 3;

/// What the stream held when it was last read or written.
#[derive(Default)]
struct Mirror {
    /// Sequence of the head; 0: there is none.
    sequence: u64,
    head: Option<Head>,
    nodes: BTreeMap<NodeName, NodeDesired>,
}

/// The only writer of the site's stream DESIRED.
pub struct SiteDesired {
    site: Arc<Site>,
    /// `None` when the stream has to be looked at.
    mirror: Option<Mirror>,
}

impl SiteDesired {
    /// A writer that has not looked at the stream yet.
    pub fn new(site: Arc<Site>) -> Self {
        Self { site, mirror: None }
    }

    /// Forgets what the stream held: the server may have lost its disk meanwhile.
    pub fn distrust(&mut self) {
        self.mirror = None;
    }

    /// Makes the site's streams where they are missing, and forgets what DESIRED held if it holds another head.
    pub async fn look(&mut self) -> anyhow::Result<()> {
        self.site.ensure_streams().await?;
        let head = Subject::DesiredHead(self.site.client.clone());
        let sequence = self.site.bus.last(streams::DESIRED, &head).await?.map_or(0, |message| message.sequence);
        self.mirror.take_if(|mirror| mirror.sequence != sequence);
        Ok(())
    }

    /// Brings the stream to the set in force. Sends nothing when it is there as far as is known.
    pub async fn bring(&mut self, in_force: &Arc<InForce>) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let mirror = match self.mirror.take() {
                Some(mirror) => mirror,
                None => {
                    self.site.ensure_streams().await?;
                    self.read().await?
                }
            };
            if let Some(sequence) = self.write(&mirror, in_force).await? {
                let nodes = in_force.set.list.nodes().map(|(node, desired)| (node.clone(), desired.clone())).collect();
                let head = Some(in_force.set.head.clone());
                self.mirror = Some(Mirror { sequence, head, nodes });
                return Ok(());
            }
        }
        bail!("somebody else writes the site's stream DESIRED")
    }

    async fn read(&self) -> anyhow::Result<Mirror> {
        let stream = self.site.bus.jetstream().get_stream_no_info(streams::DESIRED).await?;
        let all = Pattern::DesiredOf(self.site.client.clone()).to_string();
        let subjects: Vec<(String, usize)> = stream.info_with_subjects(all).await?.try_collect().await?;
        let messages = futures::stream::iter(subjects).map(async |(subject, _)| {
            let Ok(subject) = subject.parse::<Subject>() else { return Ok(None) };
            let message = self.site.bus.last(streams::DESIRED, &subject).await?;
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
                    if let Ok(desired) = message::node(&message.payload) {
                        mirror.nodes.insert(id.node, desired);
                    }
                }
                _ => {}
            }
        }
        Ok(mirror)
    }

    /// Writes what differs, the head last and only upon the head that was seen. Returns the head's sequence, or `None`
    /// when the stream is not what was seen: the head is not written then, and messages of nodes may be.
    async fn write(&self, mirror: &Mirror, in_force: &Arc<InForce>) -> anyhow::Result<Option<u64>> {
        let set = &in_force.set;
        let version = set.head.version;
        let subject = |node: &NodeName| Subject::DesiredNode(self.site.node(node));
        let changed = set.list.nodes().filter(|(node, desired)| mirror.nodes.get(*node) != Some(*desired));
        let mut subjects: Vec<_> = changed.map(|(node, _)| subject(node)).collect();
        let left = mirror
            .nodes
            .iter()
            .filter(|(node, desired)| set.list.get(node).is_none() && !desired.deployments.is_empty());
        let left: Vec<_> = left.map(|(node, _)| self.site.node(node)).collect();
        if subjects.is_empty() && left.is_empty() && mirror.head.as_ref() == Some(&set.head) {
            return Ok(Some(mirror.sequence));
        }
        let changed = subjects.len() + left.len();
        subjects.push(Subject::DesiredHead(self.site.client.clone()));
        let mut messages: Vec<_> = left.into_iter().map(|node| nothing(node, version)).collect();
        let source = in_force.clone();
        let served = disk::blocking(move || subjects.into_iter().map(|subject| read(&source, subject)).collect());
        let served: Vec<(Subject, Served)> =
            served.await.with_context(|| format!("reading version {version}, which is in force"))?;
        messages.extend(served.into_iter().map(|(subject, served)| outgoing(subject, version, served)));
        if let Some(head) = messages.pop() {
            messages.push(head.expect_last(mirror.sequence));
        }
        match self.site.bus.publish_all(messages).await {
            Ok(sequence) => {
                info!(%version, changed, "the site's nodes can read it");
                Ok(Some(sequence))
            }
            Err(BatchError::Conflict | BatchError::NoStream) => Ok(None),
            Err(error) => Err(error).context("writing the site's stream DESIRED"),
        }
    }
}

fn read(in_force: &InForce, subject: Subject) -> io::Result<(Subject, Served)> {
    let served = in_force.message(&subject)?;
    served.map(|served| (subject, served)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// What a node is told that no longer stands in the manifest.
fn nothing(id: NodeId, version: ManifestVersion) -> Outgoing {
    let (client, node) = (id.client.to_string(), id.node.to_string());
    let nothing = proto::DesiredNode { version: version.get(), client, node, ..proto::DesiredNode::default() };
    Outgoing::new(Subject::DesiredNode(id), bus::encode(&nothing))
}

/// A message of the set in force, in the trace that it came in.
fn outgoing(subject: Subject, version: ManifestVersion, Served { trace, payload }: Served) -> Outgoing {
    let span = info_span!("adopt", %subject, %version, trace_id = tracing::field::Empty);
    if let Some(trace) = trace {
        trace::continue_from_text(&span, &trace);
    }
    let headers = span.in_scope(trace::headers);
    Outgoing { headers, ..Outgoing::new(subject, payload) }
}
