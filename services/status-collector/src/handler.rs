//! Requests on the bus, which are answered from the database; the dead letters are counted in their stream.

use std::sync::Arc;

use api::{ActualDeployment, HistoryAsked, HistoryEntry, Problem, Refusal, StatusAsked};
use bus::{Bus, Call, streams};
use tracing::warn;

use crate::{error::store_problem, store::Store};

/// What is answered from.
pub struct Answers {
    pub bus: Bus,
    pub store: Store,
}

impl Answers {
    /// Answers `list` with the last status of every deployment.
    pub async fn list(self: Arc<Self>, _: Call<()>) -> Result<Vec<ActualDeployment>, Problem> {
        self.store.list().await.map_err(|error| store_problem(&error))
    }

    /// Answers `status` with the last status of one deployment; with nothing when its node has said nothing of it.
    pub async fn status(self: Arc<Self>, call: Call<StatusAsked>) -> Result<Option<ActualDeployment>, Problem> {
        self.store.status(&call.body).await.map_err(|error| store_problem(&error))
    }

    /// Answers `history` with the transitions of one deployment.
    pub async fn history(self: Arc<Self>, call: Call<HistoryAsked>) -> Result<Vec<HistoryEntry>, Problem> {
        self.store.history(call.body).await.map_err(|error| store_problem(&error))
    }

    /// Answers `refusals` with what nodes have refused.
    pub async fn refusals(self: Arc<Self>, _: Call<()>) -> Result<Vec<Refusal>, Problem> {
        self.store.refusals().await.map_err(|error| store_problem(&error))
    }

    /// Answers `dead-letters` with the number of messages that no service could handle.
    pub async fn dead_letters(self: Arc<Self>, _: Call<()>) -> Result<u64, Problem> {
        let letters = self.bus.look_at(streams::DEAD_LETTERS).await.map_err(|error| {
            warn!(error = format!("{error:#}"), "dead letters not counted");
            Problem::unavailable("the dead letters cannot be counted now")
        })?;
        Ok(letters.state.messages)
    }
}
