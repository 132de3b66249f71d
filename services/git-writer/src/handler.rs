//! Requests on the bus: how far a repository is, and what is refused.

use std::{error::Error, sync::Arc, time::Duration};

use api::{Problem, Refusal};
use bus::Call;
use margo::RepositoryName;
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};
use tracing::warn;

use crate::{
    levels::{Found, Levels},
    reader::{Level, Reader},
    refusals::Refusals,
    serve::Access,
};

/// Tips that are read at once. A read of a disk that hangs keeps its place until it ends.
pub const READS: usize = 16;

/// How long a tip may take to be read before the source is told to ask again.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the endpoints of git-writer answer from.
pub struct Answers {
    pub levels: Levels,
    pub reader: Arc<Reader>,
    pub reads: Arc<Semaphore>,
    pub refusals: Refusals,
    pub access: Arc<Access>,
}

impl Answers {
    /// Answers `svc.git-writer.handled` from memory, or from the tip of a repository that was not used since the start. A
    /// source that has not heard of its rows for long asks it which of them are committed. A repository that does not exist
    /// yet has handled nothing.
    pub async fn handled(self: Arc<Self>, call: Call<api::HandledRequest>) -> Result<api::Handled, Problem> {
        let repository = call.body.repository;
        let name: RepositoryName = repository.parse().map_err(|error: margo::InvalidRepositoryName| {
            Problem::bad_request(format!("{error}: a repository is fleet or clients/NAME"))
        })?;
        let in_work = || Problem::unavailable(format!("{name} is being read or committed; ask again"));
        let level = match self.levels.ask(&name) {
            Found::At(level) => level,
            Found::InWork => return Err(in_work()),
            Found::Unknown => self.read(name.clone()).await?.ok_or_else(in_work)?,
        };
        let Level { handled, tip } = level;
        Ok(api::Handled { commit: tip.map(|tip| tip.to_string()), handled: handled.numbers().clone() })
    }

    async fn read(&self, name: RepositoryName) -> Result<Option<Level>, Problem> {
        let Ok(place) = self.reads.clone().try_acquire_owned() else {
            self.levels.read(&name, None);
            return Err(Problem::unavailable("too many repositories are being read; ask again"));
        };
        let (levels, reader) = (self.levels.clone(), self.reader.clone());
        let read = spawn_blocking(move || {
            let _place = place;
            let read = reader.read(&name);
            let known = levels.read(&name, read.as_ref().ok().cloned());
            match read {
                Ok(_) => Ok(known),
                Err(error) => Err(Problem::unavailable(format!("{name} stands still: {}", process::chain(&error)))),
            }
        });
        match timeout(PATIENCE, read).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                warn!(error = &error as &dyn Error, "reading a repository");
                Err(Problem::internal())
            }
            // It is known when it ends.
            Err(_) => Err(Problem::unavailable("the repository takes long to be read; ask again")),
        }
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
