//! Questions to git-writer how far a repository is: several at once, each with a limit of its own, so that none waits for
//! another one's answer.

use std::time::Duration;

use api::{Handled, HandledRequest, Problem};
use bus::{Bus, ServiceName, Subject};
use margo::RepositoryName;
use tokio::{task::JoinSet, time::timeout};
use tracing::error;

/// Repositories asked about at once. Most answers come from git-writer's memory; a few may take a read of a slow disk.
const AT_ONCE: usize = 32;

/// How long an answer may take. git-writer answers at once or has to read the tip of one repository.
const PATIENCE: Duration = Duration::from_secs(3);

/// What git-writer says of a repository: the last number that it has handled of this source, or why it cannot tell.
pub(crate) type Answer = (RepositoryName, Result<u64, Problem>);

/// The questions in work.
pub(crate) struct Asking {
    bus: Bus,
    source: ServiceName,
    in_work: JoinSet<Answer>,
}

impl Asking {
    pub fn new(bus: Bus, source: ServiceName) -> Self {
        Self { bus, source, in_work: JoinSet::new() }
    }

    /// Whether one more question may be asked.
    pub fn has_room(&self) -> bool {
        self.in_work.len() < AT_ONCE
    }

    /// Asks about a repository.
    pub fn ask(&mut self, repository: RepositoryName) {
        let (bus, source) = (self.bus.clone(), self.source);
        self.in_work.spawn(async move {
            let answer = timeout(PATIENCE, ask_one(&bus, source, &repository)).await;
            let answer = answer.unwrap_or_else(|_| Err(Problem::unavailable("no answer in time")));
            (repository, answer)
        });
    }

    /// Waits for the next answer; for ever when there is no question. Cancel-safe.
    pub async fn answer(&mut self) -> Answer {
        loop {
            match self.in_work.join_next().await {
                Some(Ok(answer)) => return answer,
                Some(Err(error)) => error!(error = &error as &dyn std::error::Error, "asking git-writer"),
                None => std::future::pending().await,
            }
        }
    }
}

async fn ask_one(bus: &Bus, source: ServiceName, repository: &RepositoryName) -> Result<u64, Problem> {
    let subject = Subject::service(ServiceName::GitWriter, "handled");
    let request = HandledRequest { repository: repository.to_string() };
    let answer: Handled = bus.call(&subject, &request, None).await?;
    Ok(answer.handled.get(source.as_str()).copied().unwrap_or(0))
}
