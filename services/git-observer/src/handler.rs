//! Requests on the bus: what is refused, and a site that wants everything again.

use std::sync::Arc;

use anyhow::anyhow;
use api::{Problem, Refusal};
use bus::Call;
use margo::ClientName;
use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::{info, warn};

use crate::{hub::Hub, refusals::Refusals, store::Store};

/// What the endpoints of git-observer answer from.
pub struct Answers {
    pub hub: Hub,
    pub store: Store,
    pub refusals: Refusals,
    /// Clients whose consumer was made again, and that are to be compared with their repositories.
    pub resynced: mpsc::Sender<ClientName>,
}

impl Answers {
    /// Answers `svc.git-observer.refusals` with the tips that are not published, one for each client.
    pub async fn refusals(self: Arc<Self>, _: Call<()>) -> Result<Vec<Refusal>, Problem> {
        Ok(self.refusals.list())
    }

    /// Answers `site.<client>.resync`: the hub delivers everything to the client's LO again, and then compares it with
    /// the repository. Refused for a client that neither has a repository nor is in `fleet.git`.
    pub async fn resync(self: Arc<Self>, call: Call<()>) -> Result<(), Problem> {
        let client = call.subject.client().ok_or_else(|| Problem::bad_request("the subject names no client"))?;
        let unavailable = |error: anyhow::Error| {
            warn!(%client, error = format!("{error:#}"), "not resynced");
            Problem::unavailable("the hub cannot resync now; ask again")
        };
        let store = self.store.clone();
        let clients = spawn_blocking(move || store.clients()).await.map_err(|error| unavailable(error.into()))?;
        if !clients.map_err(unavailable)?.contains(client) {
            return Err(Problem::not_found(format!("{client} is no client; has the site been added?")));
        }
        self.hub.ensure_stream().await.map_err(unavailable)?;
        self.hub.recreate_consumer(client).await.map_err(unavailable)?;
        info!(%client, "resync");
        self.resynced.send(client.clone()).await.map_err(|_| unavailable(anyhow!("shutting down")))
    }
}
