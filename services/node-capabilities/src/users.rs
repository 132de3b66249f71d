//! Keeps the hub's list of users equal to what the database says, and in force at the server.
//!
//! A new site, a connection or a failure says only "look again"; the whole list is then made anew. So a process that dies
//! between commit and reload puts the list right at its next start.

use std::{error::Error, path::PathBuf, time::Duration};

use bus::{Bus, User, UserList};
use margo::{Identity, UserNkey};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::Store;

/// The pause between a failed attempt and the next one.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long an answer waits for the server to reload: ten times what a reload of 50,000 users takes. The new site is durable
/// without the reload, and is let in as soon as the server has it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keeper of the list: [`HubUsers::keep`] is its loop, and [`HubUsers::renew`] asks that loop to look.
pub struct HubUsers {
    store: Store,
    list: Mutex<UserList>,
    service_users: Vec<(User, UserNkey)>,
    progress: watch::Sender<Progress>,
}

/// How often the list was asked for, and up to which of these times it is in force.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    asked: u64,
    in_force: u64,
}

impl HubUsers {
    /// Keeps `file` and the server that `reloader` is connected to.
    pub fn new(store: Store, reloader: Bus, file: PathBuf, service_users: Vec<(User, UserNkey)>) -> Self {
        let list = Mutex::new(UserList::new(file, reloader));
        Self { store, list, service_users, progress: watch::Sender::default() }
    }

    /// The service that has this public key, if one has, in words for a message.
    pub fn service_of_key(&self, public_key: &UserNkey) -> Option<String> {
        let service = self.service_users.iter().find(|(_, key)| key == public_key);
        service.map(|(user, _)| format!("the service {user}"))
    }

    /// Has the list made anew, and waits until it is in force at the server, for at most [`PATIENCE`].
    pub async fn renew(&self) {
        let mut asked = 0;
        self.progress.send_modify(|progress| {
            progress.asked += 1;
            asked = progress.asked;
        });
        let mut progress = self.progress.subscribe();
        let in_force = progress.wait_for(|progress| progress.in_force >= asked);
        if tokio::time::timeout(PATIENCE, in_force).await.is_err() {
            warn!("the hub has not reloaded its users yet; a new site may connect when it has");
        }
    }

    /// Keeps the list in force until shutdown.
    pub async fn keep(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut progress = self.progress.subscribe();
        let mut connections = self.list.lock().await.reloader().connections();
        loop {
            connections.mark_unchanged();
            let asked = progress.borrow_and_update().asked;
            let applied = self.apply().await;
            match &applied {
                Ok(()) => self.progress.send_modify(|progress| progress.in_force = asked),
                Err(error) => warn!(error = &**error as &dyn Error, "the hub's users are not in force yet"),
            }
            let look_again = async {
                match applied {
                    Ok(()) => drop(progress.wait_for(|progress| progress.asked > asked).await),
                    Err(_) => tokio::time::sleep(RETRY_DELAY).await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                // A server that was away may have started with an older list.
                _ = connections.changed() => self.list.lock().await.distrust(),
                () = look_again => {}
            }
        }
    }

    async fn apply(&self) -> anyhow::Result<()> {
        let clients = self.store.client_identities().await?;
        let sites: Vec<_> =
            clients.into_iter().map(|(client, Identity::Nkey(key))| (User::Site(client), key)).collect();
        let users = self.service_users.iter().chain(&sites).map(|(user, key)| (user, key));
        if self.list.lock().await.put(users).await? {
            info!(sites = sites.len(), "the hub's list of users is written anew");
        }
        Ok(())
    }
}
