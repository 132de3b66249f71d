//! Why a repository stands still.

use git_state::{GitError, InvalidManifest, VerifyError};
use margo::InvalidId;

use crate::domain::{ImpossibleEdits, InvalidHandled};

/// Why rows could not be committed. Whatever the reason is, they are tried again: the disk may get room, an operator
/// may put the tip right, and a later version of git-writer may know what to do with the row.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The repository could not be read or written.
    #[error(transparent)]
    Git(#[from] GitError),
    /// No key in force signed the tip, so somebody else wrote it. To go on would be to sign what they wrote.
    #[error("the tip is not by git-writer")]
    Foreign(#[source] VerifyError),
    /// The tip does not say which rows are committed.
    #[error("the tip has no trailer Handled")]
    NotHandled,
    /// The tip says which rows are committed, in a form that git-writer never writes.
    #[error(transparent)]
    Handled(#[from] InvalidHandled),
    /// The files of the tip are not those of a client's repository.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// The client's manifest is at the last version that can be numbered.
    #[error("numbering the next manifest")]
    Version(#[source] InvalidId),
    /// The next row of the source can never be carried out.
    #[error("row {number} of {source_name} cannot be carried out")]
    Impossible { source_name: bus::ServiceName, number: u64, source: ImpossibleEdits },
}
