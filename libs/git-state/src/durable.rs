//! What it takes until a file is on the disk.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::GitError;

/// Above this, one sync of the whole file system is cheaper than one for each file: an fsync costs about 0.3 ms here,
/// and each new object needs two, its own and its folder's.
const SYNC_EACH: usize = 100;

/// A file or a folder.
pub(crate) fn sync(path: &Path) -> Result<(), GitError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| GitError::file("syncing", path, error))
}

/// Everything in a folder, and the folder.
pub(crate) fn sync_tree(folder: &Path) -> Result<(), GitError> {
    let error = |error| GitError::file("reading", folder, error);
    for entry in folder.read_dir().map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.file_type().map_err(error)?.is_dir() { sync_tree(&entry.path())? } else { sync(&entry.path())? }
    }
    sync(folder)
}

/// Files, then as many folders above each. One that is not there is left out: git may have packed it. `volume` is any
/// folder of the file system they are on.
pub(crate) fn sync_all(files: &BTreeSet<PathBuf>, above: usize, volume: &Path) -> Result<(), GitError> {
    if files.len() > SYNC_EACH {
        let folder = File::open(volume).map_err(|error| GitError::file("opening", volume, error))?;
        return rustix::fs::syncfs(&folder).map_err(|error| GitError::file("syncing", volume, error.into()));
    }
    let mut folders = BTreeSet::new();
    for file in files {
        match File::open(file).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result.map_err(|error| GitError::file("syncing", file, error))?,
        }
        folders.extend(file.ancestors().skip(1).take(above).map(Path::to_owned));
    }
    folders.iter().try_for_each(|folder| sync(folder))
}

/// Replaces a file, whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), GitError> {
    let new = path.with_added_extension("new");
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(|error| GitError::file("writing", path, error))?;
    sync(path.parent().unwrap_or(Path::new(".")))
}
