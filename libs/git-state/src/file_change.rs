//! What a commit does to one file.

use crate::TreePath;

/// A file that a commit puts or deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// The path of the file in the repository.
    pub path: TreePath,
    /// The whole new content. `None` deletes the file, if the repository has it.
    pub content: Option<Vec<u8>>,
}
