//! What can go wrong when a repository is read or written.

use std::{error::Error, io, path::Path, sync::Arc};

use crate::CommitId;

/// A repository could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The repository does not have the form that is needed, or an object in it cannot be read or written.
    #[error("{attempt} in {repository}")]
    Repository {
        /// What was attempted, in words that fit before "in" and the path.
        attempt: &'static str,
        /// The path of the repository.
        repository: String,
        /// What Git's library said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The operating system refused to read, write or sync a file.
    #[error("{attempt} {path}")]
    File {
        /// What was attempted, in words that fit before the path.
        attempt: &'static str,
        /// The path of the file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another program has moved the branch, so that the commits do not follow its newest one.
    #[error("the branch of {repository} is no longer at {expected}, but at {found}")]
    Moved {
        /// The path of the repository.
        repository: String,
        /// The commit at which the branch was thought to be.
        expected: String,
        /// The commit at which the branch is.
        found: String,
    },
    /// The commits follow from others of `fleet.git`, which were refused.
    #[error("the commits follow from those of fleet.git, which were refused")]
    FleetRefused,
    /// Nothing of the journal can be put right while commits of other repositories are on their way into it.
    #[error("other commits are being written; it is tried again")]
    Busy,
    /// Another process writes the repositories of this tenant.
    #[error("another git-writer holds {path}")]
    Locked {
        /// The path of the lock file.
        path: String,
    },
    /// Something failed that the commits of a group share, such as a write to a full disk. They may come about
    /// nevertheless, before anything else does.
    #[error("writing several commits together")]
    Shared(#[source] Arc<GitError>),
    /// A file of the journal that was whole when the next one began is not. Commits that it promised may be missing from
    /// their repositories.
    #[error("the journal {path} is damaged at byte {at}")]
    Journal {
        /// The path of the file.
        path: String,
        /// Where the record begins that cannot be read.
        at: u64,
    },
    /// The journal names a repository in a form that this version does not know.
    #[error("reading the journal")]
    Name(#[source] margo::InvalidRepositoryName),
    /// The journal holds commits of a repository in a form that this version does not know, or that was damaged.
    #[error("the journal does not hold the pack {pack} of {repository} as it was")]
    Pack {
        /// The path of the repository.
        repository: String,
        /// The checksum of the pack.
        pack: String,
    },
    /// An object was made to have the id of another one.
    #[error("hashing an object")]
    Hash(#[source] Box<dyn Error + Send + Sync>),
    /// A commit of the series has failed before, so that no other can stand on it.
    #[error("an earlier commit of the series has failed")]
    Series,
    /// The signing key could not sign.
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
