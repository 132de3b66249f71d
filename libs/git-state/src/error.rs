//! What can go wrong with a repository.

use std::{error::Error, io, path::Path};

use crate::CommitId;

/// Why a repository could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The repository is not as it has to be, or not readable.
    #[error("{attempt} in {repository}")]
    Repository {
        /// What was attempted.
        attempt: &'static str,
        /// Where.
        repository: String,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk.
    #[error("{attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// With which file.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody else has moved the branch.
    #[error("the branch of {repository} is no longer at {expected}, but at {found}")]
    Moved {
        /// Where.
        repository: String,
        /// Where it was thought to be.
        expected: String,
        /// Where it is.
        found: String,
    },
    /// Another process writes these repositories.
    #[error("another git-writer holds {path}")]
    Locked {
        /// The lock.
        path: String,
    },
    /// The signing key cannot sign.
    #[error("signing")]
    Sign(#[source] identity::KeyError),
}

impl GitError {
    pub(crate) fn git(
        attempt: &'static str,
        repository: &Path,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Repository { attempt, repository: repository.display().to_string(), source: source.into() }
    }

    pub(crate) fn file(attempt: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File { attempt, path: path.display().to_string(), source }
    }

    pub(crate) fn moved(repository: &Path, expected: Option<CommitId>, found: Option<CommitId>) -> Self {
        let text = |id: Option<CommitId>| id.map_or_else(|| "no commit".to_owned(), |id| id.to_string());
        Self::Moved { repository: repository.display().to_string(), expected: text(expected), found: text(found) }
    }
}
