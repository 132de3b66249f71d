//! Who may connect at the site: asked from the hub, kept on disk, written into the server's list of users.
//!
//! **Layout.** `nodes.json` holds what the hub said last, and that holds while the hub is away. The list of users,
//! which the server's configuration includes, is made of it and of the site's own services.
//!
//! **Updates.** An answer of the hub replaces `nodes.json`, whole and synced; then the list of users is written, and
//! the server reads it. A disk or a server in trouble delays a new node and nobody else.
//!
//! **After a crash.** The list of users may be older than `nodes.json`, or the server may not have read it: the next
//! life begins with writing the one from the other and having it read. Where the hub was never heard, whoever is in the
//! list stays.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use api::AdmittedNodes;
use bus::{Bus, CallVerb, Pattern, SiteVerb, Subject, User, UserList};
use futures::StreamExt;
use margo::{Identity, UserNkey};
use process::Backoff;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::health::Pulses;
use crate::site::Site;

/// Between questions. Signals and reconnects bring every change at once; this finds what they lost.
const ASK: Duration = Duration::from_secs(3600);

/// The keeper of the site's list of users.
pub struct Admission {
    site: Arc<Site>,
    pulses: Arc<Pulses>,
    users: UserList,
    /// Who is in the list besides the nodes: the services of the site.
    own_users: Vec<(User, UserNkey)>,
    list_file: PathBuf,
    /// `None` when the hub was never asked; then whoever is in the users file stays.
    admitted: Option<AdmittedNodes>,
}

impl Admission {
    /// Takes up what the hub said last.
    pub fn open(
        site: Arc<Site>,
        pulses: Arc<Pulses>,
        reloader: Bus,
        users_file: PathBuf,
        own_users: Vec<(User, UserNkey)>,
        list_file: PathBuf,
    ) -> anyhow::Result<Self> {
        let admitted =
            match disk::read_optional(&list_file).with_context(|| format!("reading {}", list_file.display()))? {
                None => None,
                Some(bytes) => {
                    let admitted = serde_json::from_slice(&bytes);
                    Some(admitted.with_context(|| format!("{} is not valid", list_file.display()))?)
                }
            };
        let users = UserList::new(users_file, reloader);
        let admission = Self { site, pulses, users, own_users, list_file, admitted };
        admission.tell();
        Ok(admission)
    }

    /// Keeps the list until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut calls = self.site.hub.subscribe(Pattern::CallsOf(self.site.client.clone())).await?;
        let mut hub = self.site.hub.connections();
        let mut server = self.users.reloader().connections();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
        let (mut ask, mut write) = (Instant::now(), Instant::now());
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
                    continue;
                }
                // The senders live as long as the connections that this value holds.
                _ = hub.changed() => {
                    ask = Instant::now();
                    continue;
                }
                // It may have started with an older list.
                _ = server.changed() => self.users.distrust(),
                () = sleep_until(write), if self.users.reloader().is_connected() => {}
                () = sleep_until(ask), if hub_is_there => match self.ask().await {
                    Ok(()) => {
                        backoff.reset();
                        ask = Instant::now() + ASK;
                    }
                    Err(error) => {
                        debug!(error = format!("{error:#}"), "the hub was asked for the site's nodes");
                        ask = Instant::now() + backoff.pause();
                        continue;
                    }
                },
            }
            write = match self.write().await {
                Ok(()) => Instant::now() + ASK,
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the server's list of users is not up to date");
                    Instant::now() + backoff.pause()
                }
            };
        }
    }

    /// Asks the hub, and keeps what it says.
    async fn ask(&mut self) -> anyhow::Result<()> {
        let subject = Subject::Site(self.site.client.clone(), SiteVerb::Nodes);
        let admitted: AdmittedNodes = self.site.hub.call(&subject, &(), None).await.context("asking for the nodes")?;
        if self.admitted.as_ref() == Some(&admitted) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&admitted).context("writing names and keys as JSON")?;
        let file = self.list_file.clone();
        disk::blocking(move || disk::write_private(&file, &bytes)).await.context("keeping the list of nodes")?;
        info!(nodes = admitted.nodes.len(), "the site's nodes");
        self.admitted = Some(admitted);
        self.tell();
        Ok(())
    }

    fn tell(&self) {
        if let Some(admitted) = &self.admitted {
            self.pulses.know(&admitted.nodes.iter().map(|node| node.name.clone()).collect::<BTreeSet<_>>());
        }
    }

    /// Makes the nodes that the hub admitted the server's users.
    async fn write(&mut self) -> anyhow::Result<()> {
        let Some(admitted) = &self.admitted else { return self.users.keep().await };
        let nodes = admitted.nodes.iter().map(|node| {
            let Identity::Nkey(key) = &node.identity;
            (User::Node(self.site.node(&node.name)), key.clone())
        });
        let nodes: Vec<_> = nodes.collect();
        self.users.put(self.own_users.iter().chain(&nodes).map(|(user, key)| (user, key))).await?;
        Ok(())
    }
}
