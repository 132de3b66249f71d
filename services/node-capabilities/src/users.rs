//! The hub's list of users: kept equal to what the database says, and in force at the server.
//!
//! Level-triggered: a new site, a connection, or a failure says "look again", and the whole list is made anew. A process
//! that dies between commit and reload puts it right at its next start.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use bus::{Bus, Role};
use identity::{nats::users_conf, write_secret};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::store::Store;

/// Between a failed attempt and the next one.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// How long an answer waits for the server to reload: ten times what it takes for 50,000 users. The site is durable
/// without it, and is let in as soon as the server is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who keeps the list.
pub struct HubUsers {
    store: Store,
    reloader: Bus,
    file: PathBuf,
    service_users: Vec<(Role, String)>,
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
    pub fn new(store: Store, reloader: Bus, file: PathBuf, service_users: Vec<(Role, String)>) -> Self {
        Self { store, reloader, file, service_users, progress: watch::Sender::default() }
    }

    /// Who is in the list without being a client, by public key.
    pub fn service_of_key(&self, public_key: &str) -> Option<String> {
        let service = self.service_users.iter().find(|(_, key)| key == public_key);
        service.map(|(role, _)| format!("the service {role}"))
    }

    /// Has the list made anew, and waits until the server has it, though not for ever.
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

    /// Keeps the list until shutdown.
    pub async fn keep(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut progress = self.progress.subscribe();
        let mut connections = self.reloader.connections();
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
                _ = connections.changed() => {}
                () = look_again => {}
            }
        }
    }

    async fn apply(&self) -> anyhow::Result<()> {
        let clients = self.store.client_keys().await?;
        let sites: Vec<_> = clients.into_iter().map(|(client, key)| (Role::Site(client), key)).collect();
        let users = users_conf(self.service_users.iter().chain(&sites).map(|(role, key)| (role, key.as_str())));
        let file = self.file.clone();
        let written =
            tokio::task::spawn_blocking(move || replace(&file, &users)).await.context("writing the list of users")?;
        if written.with_context(|| format!("writing {}", self.file.display()))? {
            info!(sites = sites.len(), "the hub's list of users is written anew");
        }
        // Also when the file was right: the server may have read it before it was.
        self.reloader.reload_server().await
    }
}

/// Writes the file, whole or not at all, when its content is another one.
fn replace(file: &Path, content: &str) -> std::io::Result<bool> {
    if fs::read(file).is_ok_and(|held| held == content.as_bytes()) {
        return Ok(false);
    }
    // No secret, but nobody's business beside the server's.
    write_secret(file, content.as_bytes())?;
    Ok(true)
}
