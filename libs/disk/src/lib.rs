//! Files that are whole after a power cut, and the lock of a folder. This is the one place that decides how a file
//! is made durable.
//!
//! Everything blocks; async code goes through [`blocking`].
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("state");
//! assert_eq!(disk::read_optional(&path)?, None);
//! disk::write_private(&path, b"1")?;
//! assert_eq!(disk::read_optional(&path)?, Some(b"1".to_vec()));
//! # Ok(())
//! # }
//! ```

mod deep;
mod lock;
mod private;
mod write;

use std::{fs, io, path::Path};

pub use deep::remove_deep_folder_if_there;
pub use lock::FolderLock;
pub use private::{keep_files_private, take_data_folder};
pub use write::{
    make_private_folder, names, sync, sync_together, sync_tree, write_all_private, write_private, write_private_shared,
};

/// Reads a file, and returns `None` when the file does not exist.
pub fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    none_if_missing(fs::read(path))
}

/// Removes a file. A file that does not exist counts as removed.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    none_if_missing(fs::remove_file(path)).map(|_| ())
}

/// Removes a folder with everything in it. A folder that does not exist counts as removed.
pub fn remove_folder_if_there(path: &Path) -> io::Result<()> {
    none_if_missing(fs::remove_dir_all(path)).map(|_| ())
}

fn none_if_missing<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// How many bytes are free on the file system that holds this, for whoever is not root.
pub fn free(path: &Path) -> io::Result<u64> {
    let file_system = rustix::fs::statvfs(path)?;
    Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
}

/// Runs work that blocks on a thread of its own, so that it holds no async thread up.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
