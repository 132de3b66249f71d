//! What it takes until files and folders of a repository are on the disk.

use std::path::Path;

use crate::GitError;

/// Waits until a file, or the entries of a folder, are on the disk.
pub(crate) fn sync(path: &Path) -> Result<(), GitError> {
    disk::sync(path).map_err(|error| GitError::file("syncing", path, error))
}

/// Waits until everything in a folder, and the folder itself, is on the disk.
pub(crate) fn sync_tree(folder: &Path) -> Result<(), GitError> {
    let error = |error| GitError::file("reading", folder, error);
    for entry in folder.read_dir().map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.file_type().map_err(error)?.is_dir() { sync_tree(&entry.path())? } else { sync(&entry.path())? }
    }
    sync(folder)
}
