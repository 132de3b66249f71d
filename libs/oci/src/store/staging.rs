//! What one process is writing into the store: it stands in a folder of that process, and comes to its place when it is whole.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use margo::Digest;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::{ContentStore, StoreError, blocking, lock_file};
use crate::digest::Digester;

/// The folder in which this process writes. It is removed when the last clone of the store is dropped; of a process that
/// was killed, the next one to open the store removes it.
#[derive(Debug)]
pub(super) struct OwnStaging {
    folder: PathBuf,
    /// Tells other processes that this one lives.
    _lock: File,
}

impl Drop for OwnStaging {
    fn drop(&mut self) {
        // What is left here is found by the next process that opens the store.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl OwnStaging {
    /// Makes a folder in `staging`, and removes those of processes that have ended. Only one process may be at it.
    pub(super) fn take(staging: &Path) -> io::Result<Self> {
        for entry in fs::read_dir(staging)? {
            let path = entry?.path();
            match File::open(path.join("lock")).map(|lock| lock.try_lock()) {
                Ok(Err(TryLockError::WouldBlock)) => {}
                Ok(Err(TryLockError::Error(error))) => return Err(error),
                _ => {
                    let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                    // A process that ends removes its folder itself, perhaps at this moment.
                    if let Err(error) = removed
                        && error.kind() != io::ErrorKind::NotFound
                    {
                        return Err(error);
                    }
                }
            }
        }
        let folder = staging.join(Uuid::new_v4().to_string());
        fs::create_dir(&folder)?;
        let lock = lock_file(&folder.join("lock"))?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock })
    }
}

impl ContentStore {
    fn staging(&self) -> &Path {
        &self.0.staging.folder
    }

    /// Begins to write content of at most `limit` bytes.
    pub async fn writer(&self, limit: u64) -> Result<BlobWriter, StoreError> {
        let path = self.staging().join(Uuid::new_v4().to_string());
        let file = tokio::fs::File::create_new(&path).await;
        let file = file.map_err(StoreError::io(format!("creating {}", path.display())))?;
        Ok(BlobWriter { store: self.clone(), file, path: Temporary(path), digester: Digester::default(), limit })
    }

    /// Makes a folder on the same file system, from which content is moved. It is removed with all that is left in it.
    pub(crate) fn stage(&self) -> Result<StagingFolder, StoreError> {
        let path = self.staging().join(Uuid::new_v4().to_string());
        fs::create_dir(&path).map_err(StoreError::io(format!("creating {}", path.display())))?;
        Ok(StagingFolder { path, _store: self.clone() })
    }
}

/// Content that is being written. It is digested on the way, and comes into the store only when the digest is
/// right.
pub struct BlobWriter {
    store: ContentStore,
    file: tokio::fs::File,
    path: Temporary,
    digester: Digester,
    limit: u64,
}

impl BlobWriter {
    /// Writes the next bytes. It fails when they are more than the limit allows.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.digester.size() + bytes.len() as u64 > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        self.digester.update(bytes);
        self.file.write_all(bytes).await.map_err(StoreError::io("writing content"))
    }

    /// Checks the digest and moves the content to its place. It is on the disk when this returns.
    pub async fn finish(mut self, wanted: &Digest) -> Result<(), StoreError> {
        let found = self.digester.finish();
        if found != *wanted {
            return Err(StoreError::WrongDigest { wanted: *wanted, found });
        }
        self.file.flush().await.map_err(StoreError::io("writing content"))?;
        blocking(move || self.store.adopt(&self.path.0, &found)).await
    }
}

/// A file that is removed when this value is dropped, unless it was moved away before.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Usually the file was moved away; what stays is removed at the next start.
        let _ = fs::remove_file(&self.0);
    }
}

/// A folder that is removed with all that is left in it when this value is dropped.
#[derive(Debug)]
pub(crate) struct StagingFolder {
    path: PathBuf,
    /// Keeps the folder of this process, in which this one is.
    _store: ContentStore,
}

impl StagingFolder {
    pub(crate) fn file(&self, digest: &Digest) -> PathBuf {
        self.path.join(digest.hex())
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "staging folder left behind; the next start removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    /// How many files and folders are being written. One file is the lock.
    fn staged(store: &ContentStore) -> usize {
        fs::read_dir(store.staging()).unwrap().count() - 1
    }

    #[tokio::test]
    async fn content_stands_under_its_digest_or_not_at_all() {
        let (_folder, store) = store().await;
        let mut writer = store.writer(10).await.unwrap();
        writer.write(b"hello").await.unwrap();
        let error = writer.finish(&Digest::of(b"other")).await.unwrap_err();
        assert!(matches!(error, StoreError::WrongDigest { .. }), "{error}");

        let mut writer = store.writer(4).await.unwrap();
        assert!(matches!(writer.write(b"hello").await, Err(StoreError::TooLarge { limit: 4 })));
        drop(writer);
        assert_eq!(staged(&store), 0);
        assert!(!store.contains(&Digest::of(b"hello")));

        let digest = store.put(b"hello").await.unwrap();
        assert_eq!(fs::read(store.verified_path(&digest).await.unwrap()).unwrap(), b"hello");
        assert_eq!(staged(&store), 0);
    }

    #[tokio::test]
    async fn what_another_process_is_writing_is_left_alone_and_goes_with_it() {
        let (folder, one) = store().await;
        let mut writer = one.writer(10).await.unwrap();
        writer.write(b"half").await.unwrap();
        // Each opening has locks of its own, as each process has.
        let other = ContentStore::open(folder.path()).await.unwrap();
        assert_eq!(staged(&one), 1);
        writer.write(b"whole").await.unwrap();
        let digest = Digest::of(b"halfwhole");
        writer.finish(&digest).await.unwrap();
        assert!(other.contains(&digest));
        let staging = folder.path().join("staging");
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 2);
        drop(one);
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 1);
        // What an earlier release left, and a process that was killed.
        fs::write(staging.join("file"), b"left").unwrap();
        fs::create_dir_all(staging.join("folder/below")).unwrap();
        fs::create_dir(staging.join("killed")).unwrap();
        fs::write(staging.join("killed/lock"), b"").unwrap();
        let again = ContentStore::open(folder.path()).await.unwrap();
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 2);
        drop((other, again));
    }
}
