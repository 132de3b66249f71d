//! Why a repository stands still.

use git_state::{GitError, InvalidManifest, VerifyError};
use margo::InvalidId;

use crate::domain::{ImpossibleChange, InvalidHandled};

/// Why rows could not be committed. All of it is tried again: the disk may have room, the tip may be put right.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The repository cannot be read or written.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Somebody else has written to it. To go on would be to sign what they wrote.
    #[error("the tip is not by git-writer")]
    Foreign(#[source] VerifyError),
    /// Its tip does not say how far it is.
    #[error("the tip has no trailer Handled")]
    NotHandled,
    /// Its tip says so in another way than we do.
    #[error(transparent)]
    Handled(#[from] InvalidHandled),
    /// It is no client's repository any more.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// No further version is possible.
    #[error("numbering the next manifest")]
    Version(#[source] InvalidId),
    /// The next row can never be carried out.
    #[error("row {number} of {source_name} cannot be carried out")]
    Impossible {
        /// Who numbered it.
        source_name: bus::ServiceName,
        /// Its number.
        number: u64,
        /// Why.
        source: ImpossibleChange,
    },
    /// Others of the same group could not be put on the disk, and so neither could this one.
    #[error("syncing what was written failed: {0}")]
    Sync(String),
}

/// An error with its causes in one line, for operators.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
