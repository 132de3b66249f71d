//! Who may connect at the site: asked from the hub and kept on disk, for the minter of the nodes' logins.
//!
//! **Layout.** `nodes.json` holds what the hub said last, and that holds while the hub is away. Beside it stand the keys that
//! were admitted at some time and no longer are, so that they stay revoked.
//!
//! **Updates.** An answer of the hub replaces `nodes.json`, whole and synced; then the minter is told. A disk in trouble delays
//! a new node and nobody else.
//!
//! **After a crash.** The next life tells the minter what the file says. Where the hub was never heard, nobody is given a login,
//! and whoever has one keeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use api::AdmittedNodes;
use bus::{CallVerb, Pattern, SiteVerb, Subject, User};
use futures::StreamExt;
use margo::{Identity, UserNkey};
use minter::{Roll, Rolls};
use process::Backoff;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::health::Pulses;
use crate::site::Site;

/// Between questions. Signals and reconnects bring every change at once; this finds what they lost.
const ASK: Duration = Duration::from_secs(3600);

/// The keeper of the list of nodes.
pub struct Admission {
    site: Arc<Site>,
    pulses: Arc<Pulses>,
    list_file: PathBuf,
    /// `None` when the hub was never asked.
    held: Option<Held>,
    roll: watch::Sender<Option<Arc<Roll>>>,
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Held {
    #[serde(flatten)]
    admitted: AdmittedNodes,
    /// Keys that were admitted earlier.
    #[serde(default)]
    former: BTreeSet<UserNkey>,
}

impl Held {
    /// What is held after the hub said this.
    fn next(held: Option<&Self>, admitted: AdmittedNodes) -> Self {
        let now: BTreeSet<_> = keys(&admitted).cloned().collect();
        let earlier = held.into_iter().flat_map(|held| keys(&held.admitted).chain(&held.former));
        let former = earlier.filter(|key| !now.contains(*key)).cloned().collect();
        Self { admitted, former }
    }

    fn roll(&self, site: &Site) -> Roll {
        let members = self.admitted.nodes.iter().map(|node| {
            let Identity::Nkey(key) = &node.identity;
            (key.clone(), User::Node(site.node(&node.name)))
        });
        Roll { members: members.collect::<BTreeMap<_, _>>(), revoked: self.former.clone() }
    }
}

fn keys(admitted: &AdmittedNodes) -> impl Iterator<Item = &UserNkey> {
    admitted.nodes.iter().map(|node| {
        let Identity::Nkey(key) = &node.identity;
        key
    })
}

impl Admission {
    /// Takes up what the hub said last. Returns also what the minter depends on: `None` until the hub has said something.
    pub fn open(site: Arc<Site>, pulses: Arc<Pulses>, list_file: PathBuf) -> anyhow::Result<(Self, Rolls)> {
        let held = match disk::read_optional(&list_file).with_context(|| format!("reading {}", list_file.display()))? {
            None => None,
            Some(bytes) => {
                let held = serde_json::from_slice(&bytes);
                Some(held.with_context(|| format!("{} is not valid", list_file.display()))?)
            }
        };
        let (roll, told) = watch::channel(None);
        let admission = Self { site, pulses, list_file, held, roll };
        admission.tell();
        Ok((admission, told))
    }

    /// Keeps the list until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut calls = self.site.hub.subscribe(Pattern::CallsOf(self.site.client.clone())).await?;
        let mut hub = self.site.hub.connections();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
        let mut ask = Instant::now();
        loop {
            let hub_is_there = self.site.hub.is_connected();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                call = calls.next() => {
                    let Some(call) = call else { bail!("the subscription to calls ended") };
                    if matches!(call.subject.parse(), Ok(Subject::Call(_, CallVerb::Admit))) {
                        ask = Instant::now();
                    }
                }
                // The sender lives as long as the connection that this value holds.
                _ = hub.changed() => ask = Instant::now(),
                () = sleep_until(ask), if hub_is_there => match self.ask().await {
                    Ok(()) => {
                        backoff.reset();
                        ask = Instant::now() + ASK;
                    }
                    Err(error) => {
                        debug!(error = format!("{error:#}"), "the hub was asked for the site's nodes");
                        ask = Instant::now() + backoff.pause();
                    }
                },
            }
        }
    }

    /// Asks the hub, and keeps what it says.
    async fn ask(&mut self) -> anyhow::Result<()> {
        let subject = Subject::Site(self.site.client.clone(), SiteVerb::Nodes);
        let admitted: AdmittedNodes = self.site.hub.call(&subject, &(), None).await.context("asking for the nodes")?;
        if self.held.as_ref().is_some_and(|held| held.admitted == admitted) {
            return Ok(());
        }
        let next = Held::next(self.held.as_ref(), admitted);
        let bytes = serde_json::to_vec(&next).context("writing names and keys as JSON")?;
        let file = self.list_file.clone();
        disk::blocking(move || disk::write_private(&file, &bytes)).await.context("keeping the list of nodes")?;
        info!(nodes = next.admitted.nodes.len(), "the site's nodes");
        self.held = Some(next);
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        if let Some(held) = &self.held {
            let nodes = held.admitted.nodes.iter().map(|node| node.name.clone());
            self.pulses.know(&nodes.collect::<BTreeSet<_>>());
            self.roll.send_replace(Some(Arc::new(held.roll(&self.site))));
        }
    }
}

#[cfg(test)]
mod tests {
    use api::AdmittedNode;

    use super::*;

    fn said(keys: &[&UserNkey]) -> AdmittedNodes {
        let node = |(at, key): (usize, &&UserNkey)| AdmittedNode {
            name: format!("node-{at}").parse().unwrap(),
            identity: Identity::Nkey((*key).clone()),
        };
        AdmittedNodes { nodes: keys.iter().enumerate().map(node).collect() }
    }

    #[test]
    fn whoever_was_admitted_and_is_no_longer_stays_revoked() {
        let [a, b, c] = [(); 3].map(|()| identity::nats::generate().1);
        let first = Held::next(None, said(&[&a, &b]));
        assert!(first.former.is_empty());
        let second = Held::next(Some(&first), said(&[&b]));
        let third = Held::next(Some(&second), said(&[&c]));
        assert_eq!(third.former, BTreeSet::from([a.clone(), b.clone()]));
        // The hub has the last word: it may have been wrong before.
        assert_eq!(Held::next(Some(&third), said(&[&a])).former, BTreeSet::from([b, c]));
    }
}
