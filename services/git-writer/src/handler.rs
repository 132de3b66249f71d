//! Requests on the bus: how far a repository is, and what is refused.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use api::{Problem, Refusal};
use bus::Call;
use margo::RepositoryName;
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::{refusals::Refusals, serve::Access, store::Store};

/// The store, which the loop over the log and requests share. A lock may be held for as long as a group of commits
/// takes, so it is only taken on threads that may block.
pub type SharedStore = Arc<Mutex<Store>>;

/// What the endpoints of git-writer answer from.
pub struct Answers {
    pub store: SharedStore,
    pub refusals: Refusals,
    pub access: Arc<Access>,
}

impl Answers {
    /// Answers `svc.git-writer.handled` from the tip of the repository. A source that has not heard of its rows for
    /// long asks it which of them are committed. A repository that does not exist yet has handled nothing.
    pub async fn handled(self: Arc<Self>, call: Call<api::HandledRequest>) -> Result<api::Handled, Problem> {
        handled(self.store.clone(), call.body.repository).await
    }

    /// Answers `svc.git-writer.access` with where a client's repository is read, and its token.
    pub async fn access(
        self: Arc<Self>,
        call: Call<api::RepositoryAccessAsked>,
    ) -> Result<api::RepositoryAccess, Problem> {
        self.access.of_client(call.body).await
    }

    /// Answers `svc.git-writer.refusals` with the messages that were left out and the repositories that stand still.
    pub async fn refusals(self: Arc<Self>, _: Call<()>) -> Result<Vec<Refusal>, Problem> {
        Ok(self.refusals.list())
    }
}

async fn handled(store: SharedStore, repository: String) -> Result<api::Handled, Problem> {
    let name: RepositoryName = repository.parse().map_err(|error: margo::InvalidRepositoryName| {
        Problem::bad_request(format!("{error}: a repository is fleet or clients/NAME"))
    })?;
    let read = spawn_blocking(move || store.lock().unwrap_or_else(PoisonError::into_inner).handled(&name));
    match read.await {
        Ok(Ok((handled, tip))) => {
            Ok(api::Handled { commit: tip.map(|tip| tip.to_string()), handled: handled.numbers().clone() })
        }
        Ok(Err(error)) => Err(Problem::unavailable(format!("{repository} stands still: {}", process::chain(&error)))),
        Err(error) => {
            warn!(error = &error as &dyn Error, "reading a repository");
            Err(Problem::internal())
        }
    }
}
