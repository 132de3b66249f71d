//! Files that are whole after a power cut.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// From here on one sync of the file system costs less than one of each file. Below, it might cost far more: it also
/// writes what containers and downloads have left unwritten.
const MANY: usize = 64;

/// The file's bytes; `None` when it does not exist.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Puts files into a folder, each whole or not at all, and all on disk when this returns.
pub fn write_all<'a>(folder: &Path, files: impl IntoIterator<Item = (String, Vec<&'a [u8]>)>) -> io::Result<()> {
    let mut written = Vec::new();
    for (name, chunks) in files {
        let temporary = folder.join(format!("{name}~"));
        let mut file = File::create(&temporary)?;
        for chunk in chunks {
            file.write_all(chunk)?;
        }
        written.push((file, temporary, folder.join(name)));
    }
    let parent = File::open(folder)?;
    if written.len() < MANY {
        for (file, ..) in &written {
            file.sync_data()?;
        }
    } else {
        rustix::fs::syncfs(&parent)?;
    }
    for (_, temporary, path) in &written {
        fs::rename(temporary, path)?;
    }
    parent.sync_all()
}

/// Names in a folder, without those of half-written files.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(name) = entry?.file_name().into_string()
            && !name.ends_with('~')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Runs file work where it holds nothing up.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
