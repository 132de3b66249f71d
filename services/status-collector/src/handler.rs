//! Requests on the bus, which are answered from the database.

use std::sync::Arc;

use api::{ActualDeployment, HistoryEntry, HistoryOf, Problem, Refusal};
use bus::Call;

use crate::{error::store_problem, store::Store};

/// Answers `list` with the last status of every deployment.
pub async fn list(store: Arc<Store>, _: Call<()>) -> Result<Vec<ActualDeployment>, Problem> {
    store.list().await.map_err(|error| store_problem(&error))
}

/// Answers `history` with the transitions of one deployment.
pub async fn history(store: Arc<Store>, call: Call<HistoryOf>) -> Result<Vec<HistoryEntry>, Problem> {
    store.history(&call.body).await.map_err(|error| store_problem(&error))
}

/// Answers `refusals` with what nodes have refused.
pub async fn refusals(store: Arc<Store>, _: Call<()>) -> Result<Vec<Refusal>, Problem> {
    store.refusals().await.map_err(|error| store_problem(&error))
}
