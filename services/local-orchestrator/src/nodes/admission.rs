//! Who may connect at the site: the nodes whose NODE file is in force, under the signed head. No unsigned word admits anybody,
//! and every road can.
//!
//! The list of users, which the server's configuration includes, is made of the set in force and of the site's own services. A
//! disk or a server in trouble delays a new node and nobody else. The server may have started with an older list, or may not
//! have read the newest: each life, and each connection, begins with writing it and having it read.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use bus::{Bus, User, UserList};
use margo::{Identity, NodeName, UserNkey};
use process::Backoff;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::health::Pulses;
use crate::{down::InForce, site::Site};

/// Between looks at the list without a reason: what nobody told is found after this at the latest.
const LOOK: Duration = Duration::from_secs(3600);

/// The keeper of the site's list of users.
pub struct Admission {
    site: Arc<Site>,
    pulses: Arc<Pulses>,
    users: UserList,
    /// Who is in the list besides the nodes: the services of the site.
    own_users: Vec<(User, UserNkey)>,
    in_force: watch::Receiver<Option<Arc<InForce>>>,
}

/// The nodes that may connect by what is in force, each with its key.
pub fn admitted(in_force: &InForce) -> impl Iterator<Item = (&NodeName, &UserNkey)> {
    in_force.identities.iter().filter_map(|(node, identity)| {
        let Identity::Nkey(key) = identity.identity.as_ref()?;
        Some((node, key))
    })
}

impl Admission {
    pub fn new(
        site: Arc<Site>,
        pulses: Arc<Pulses>,
        reloader: Bus,
        users_file: PathBuf,
        own_users: Vec<(User, UserNkey)>,
        in_force: watch::Receiver<Option<Arc<InForce>>>,
    ) -> Self {
        let admission = Self { site, pulses, users: UserList::new(users_file, reloader), own_users, in_force };
        admission.tell();
        admission
    }

    /// Keeps the list until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut server = self.users.reloader().connections();
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
        let mut write = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                // The senders live as long as the values that this one holds.
                _ = server.changed() => self.users.distrust(),
                Ok(()) = self.in_force.changed() => self.tell(),
                () = sleep_until(write), if self.users.reloader().is_connected() => {}
            }
            write = match self.write().await {
                Ok(()) => {
                    backoff.reset();
                    Instant::now() + LOOK
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "the site's users are not in force yet");
                    Instant::now() + backoff.pause()
                }
            };
        }
    }

    fn tell(&self) {
        if let Some(in_force) = &*self.in_force.borrow() {
            self.pulses.know(&admitted(in_force).map(|(node, _)| node.clone()).collect::<BTreeSet<_>>());
        }
    }

    /// Makes the nodes that are admitted the server's users. Before anything is in force, whoever is in the list stays.
    async fn write(&mut self) -> anyhow::Result<()> {
        let Some(in_force) = self.in_force.borrow().clone() else { return self.users.keep().await };
        let nodes: Vec<_> =
            admitted(&in_force).map(|(node, key)| (User::Node(self.site.node(node)), key.clone())).collect();
        self.users.put(self.own_users.iter().chain(&nodes).map(|(user, key)| (user, key))).await?;
        Ok(())
    }
}
