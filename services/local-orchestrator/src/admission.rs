//! Who may connect at the site: asked from the hub, kept on disk, written into the server's list of users.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use api::AdmittedNodes;
use bus::{Bus, CallVerb, Pattern, Role, SiteVerb, Subject};
use futures::StreamExt;
use identity::nats::{check_public_key, users_conf};
use serde::Deserialize;
use service::Backoff;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{files, health::Pulses, site::Site};

/// Between questions. Signals and reconnects bring every change at once; this finds what they lost.
const ASK: Duration = Duration::from_secs(3600);

pub struct Admission {
    site: Arc<Site>,
    pulses: Arc<Pulses>,
    reloader: Bus,
    users_file: PathBuf,
    own_users: Vec<(Role, String)>,
    list_file: PathBuf,
    /// `None`: the hub was never asked, and whoever is in the users file stays.
    admitted: Option<AdmittedNodes>,
    /// Whether the server may not know the users file. True at first: we may have died after writing it.
    reload_due: bool,
}

impl Admission {
    /// Takes up what the hub said last.
    pub fn open(
        site: Arc<Site>,
        pulses: Arc<Pulses>,
        reloader: Bus,
        users_file: PathBuf,
        own_users: Vec<(Role, String)>,
        list_file: PathBuf,
    ) -> anyhow::Result<Self> {
        let admitted = match files::read(&list_file).with_context(|| format!("reading {}", list_file.display()))? {
            None => None,
            Some(bytes) => {
                let admitted = serde_json::from_slice(&bytes);
                Some(admitted.with_context(|| format!("{} is not valid", list_file.display()))?)
            }
        };
        let admission = Self { site, pulses, reloader, users_file, own_users, list_file, admitted, reload_due: true };
        admission.tell();
        Ok(admission)
    }

    /// Keeps the list until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut calls = self.site.hub.subscribe(Pattern::CallsOf(self.site.client.clone())).await?;
        let mut hub = self.site.hub.connections();
        let mut server = self.reloader.connections();
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
                _ = server.changed() => {}
                () = sleep_until(write), if self.reloader.is_connected() => {}
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
        let mut admitted: AdmittedNodes =
            self.site.hub.call(&subject, &(), Some(self.site.client.as_str())).await.context("asking for the nodes")?;
        // The keys go into the server's configuration.
        admitted.nodes.retain(|node| {
            let valid = check_public_key(&node.public_key);
            if let Err(error) = &valid {
                self.site.refusals.add(&subject.to_string(), &format!("public key of node {}: {error}", node.name));
            }
            valid.is_ok()
        });
        if self.admitted.as_ref() == Some(&admitted) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&admitted).context("writing names and keys as JSON")?;
        let file = self.list_file.clone();
        files::blocking(move || identity::write_secret(&file, &bytes)).await.context("keeping the list of nodes")?;
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

    /// Writes the users file when it says something else, and has the server read it.
    async fn write(&mut self) -> anyhow::Result<()> {
        if let Some(admitted) = &self.admitted {
            let nodes = admitted.nodes.iter();
            let nodes = nodes.map(|node| (Role::Node(self.site.node(&node.name)), node.public_key.clone()));
            let users: Vec<_> = self.own_users.iter().cloned().chain(nodes).collect();
            let text = users_conf(users.iter().map(|(role, key)| (role, key.as_str())));
            let path = self.users_file.clone();
            let written = files::blocking(move || {
                let differs = files::read(&path)?.as_deref() != Some(text.as_bytes());
                if differs {
                    identity::write_secret(&path, text.as_bytes())?;
                }
                Ok(differs)
            });
            self.reload_due |= written.await.context("writing the server's list of users")?;
        }
        if self.reload_due {
            self.reload().await?;
            self.reload_due = false;
        }
        Ok(())
    }

    async fn reload(&self) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Answer {
            error: Option<Refusal>,
        }
        #[derive(Deserialize)]
        struct Refusal {
            description: String,
        }
        if !self.reloader.is_connected() {
            bail!("the server is not connected");
        }
        let client = self.reloader.client();
        let subject = format!("$SYS.REQ.SERVER.{}.RELOAD", client.server_info().server_id);
        let answer = client.request(subject, "".into()).await.context("asking the server to read its list of users")?;
        let answer: Answer = serde_json::from_slice(&answer.payload).context("the server's answer to a reload")?;
        match answer.error {
            None => Ok(()),
            Some(refusal) => bail!("the server refused its list of users: {}", refusal.description),
        }
    }
}
