//! What it takes until files and folders of a repository are on the disk.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use crate::GitError;

/// Above this, one sync of the whole file system is cheaper than one for each file. Below, it might cost far more: it waits
/// for everybody's writes.
const SYNC_EACH: usize = 256;

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

/// Waits until files, and the entries of folders, are on the disk. What is not there is left out, because git may have
/// packed it. `volume` is any folder of the file system that they are on.
pub(crate) fn sync_all(files: &BTreeSet<PathBuf>, folders: &BTreeSet<PathBuf>, volume: &Path) -> Result<(), GitError> {
    if files.len() > SYNC_EACH {
        let folder = File::open(volume).map_err(|error| GitError::file("opening", volume, error))?;
        return rustix::fs::syncfs(&folder).map_err(|error| GitError::file("syncing", volume, error.into()));
    }
    // The files first: to sync one puts much of what its folder needs on the disk as well.
    let paths: Vec<_> = files.iter().chain(folders).filter(|path| path.exists()).collect();
    disk::sync_together(&paths).map_err(|error| GitError::file("syncing what was written below", volume, error))
}
