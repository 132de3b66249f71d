//! What the tip of a repository says of the rows that it holds.

use std::path::PathBuf;

use git_state::{CommitId, Repository, layout};
use margo::{KeySet, RepositoryName, TenantName};

use crate::{domain::Handled, error::StoreError};

/// What a repository says of its sources, and its tip.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub handled: Handled,
    pub tip: Option<CommitId>,
}

/// Reads the tips of repositories beside the writer.
pub struct Reader {
    pub folder: PathBuf,
    pub tenant: TenantName,
    pub keys: KeySet,
}

impl Reader {
    /// Reads how far a repository is. One that does not exist has handled nothing. Blocks.
    pub fn read(&self, name: &RepositoryName) -> Result<Level, StoreError> {
        let Some(repository) = Repository::open(&self.folder, &self.tenant, name)? else { return Ok(Level::default()) };
        let Some(tip) = repository.tip()? else { return Ok(Level::default()) };
        Ok(Level { handled: handled_at(&repository, tip, &self.keys)?, tip: Some(tip) })
    }
}

/// What a tip says of its sources. A key in force has to have signed it.
pub fn handled_at(repository: &Repository, tip: CommitId, keys: &KeySet) -> Result<Handled, StoreError> {
    repository.verify(tip, keys).map_err(StoreError::Foreign)?;
    let message = repository.message(tip)?;
    Ok(message.trailer(layout::HANDLED_TRAILER).ok_or(StoreError::NotHandled)?.parse()?)
}
