//! Downloads that outlast their connection and their process.
//!
//! What has come of a blob stands in `partial/<hex>` of the store. Whoever goes on with it holds the lock of that file,
//! so of two processes that want the same blob one downloads and the other waits for it. The file's beginning is
//! digested when a download goes on, and the whole is verified before it moves to its place.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use margo::Digest;
use rustix::fs::FallocateFlags;
use tokio::{
    io::{AsyncSeekExt, AsyncWriteExt},
    time::sleep,
};

use crate::{
    ContentStore, StoreError,
    digest::Digester,
    store::{blocking, lock_file},
};

/// The pause between two looks whether somebody else's download of the same content has ended. `flock` can be waited for
/// only by a thread that does nothing else.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Content that is being downloaded: nobody else, in any process, downloads it to the same store meanwhile. When this value
/// is dropped, what has come stays, and the next download of the content goes on with it.
pub struct Download {
    store: ContentStore,
    digest: Digest,
    limit: u64,
    path: PathBuf,
    file: tokio::fs::File,
    digester: Digester,
    finished: bool,
}

/// What an attempt to become the one who downloads has led to.
enum Taken {
    /// The file is this process's alone. Its content has been digested.
    Mine(File, Digester),
    /// Somebody else is downloading.
    Busy,
    /// Somebody else has downloaded.
    Here,
}

impl ContentStore {
    /// Begins to download content of at most `limit` bytes, or goes on with a download that was interrupted. Waits while
    /// somebody else downloads the same content, and returns `None` when the content is in the store.
    pub async fn download(&self, digest: &Digest, limit: u64) -> Result<Option<Download>, StoreError> {
        loop {
            let (store, wanted) = (self.clone(), *digest);
            let path = self.partial().join(digest.hex());
            let taken = blocking(move || {
                let path = store.partial().join(wanted.hex());
                store.take(&wanted, &path, limit).map_err(StoreError::io(format!("opening {}", path.display())))
            });
            match taken.await? {
                Taken::Here => return Ok(None),
                Taken::Busy => sleep(LOOK_AGAIN).await,
                Taken::Mine(file, digester) => {
                    let (store, digest, file) = (self.clone(), *digest, tokio::fs::File::from_std(file));
                    return Ok(Some(Download { store, digest, limit, path, file, digester, finished: false }));
                }
            }
        }
    }

    fn take(&self, digest: &Digest, path: &Path, limit: u64) -> io::Result<Taken> {
        loop {
            if self.contains(digest) {
                return Ok(Taken::Here);
            }
            let mut file = lock_file(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Taken::Busy),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Between opening and locking, whoever had the lock may have moved the file to its place, or removed it.
            if !is_at(&file, path)? {
                continue;
            }
            if self.contains(digest) {
                fs::remove_file(path)?;
                return Ok(Taken::Here);
            }
            let mut digester = Digester::default();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    count => digester.update(&buffer[..count]),
                }
            }
            // A download with another limit, or no download at all.
            if digester.size() > limit {
                file.set_len(0)?;
                file.rewind()?;
                digester = Digester::default();
            }
            return Ok(Taken::Mine(file, digester));
        }
    }

    /// Removes what interrupted downloads left, except for the newest ones, for these, and for what is being downloaded.
    pub(crate) fn drop_idle_downloads(&self, keep: usize, needed: &[Digest]) -> Result<(), StoreError> {
        let drop = || {
            let needed: BTreeSet<_> = needed.iter().map(|digest| OsString::from(digest.hex())).collect();
            let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
            for entry in fs::read_dir(self.partial())? {
                let entry = entry?;
                if needed.contains(&entry.file_name()) {
                    continue;
                }
                match entry.metadata().and_then(|metadata| metadata.modified()) {
                    Ok(modified) => found.push((modified, entry.path())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            found.sort_unstable();
            let idle = found.len().saturating_sub(keep);
            for (_, path) in &found[..idle] {
                let file = match File::open(path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    file => file?,
                };
                if file.try_lock().is_ok() && is_at(&file, path)? {
                    fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        drop().map_err(StoreError::io("removing interrupted downloads"))
    }

    /// Makes sure that content of these digests and sizes fits on the disk and `reserve` bytes stay free, counting what
    /// was begun of it. When it does not fit, interrupted downloads that nobody goes on with are given up first.
    pub async fn make_room(&self, content: Vec<(Digest, u64)>, reserve: u64) -> Result<(), StoreError> {
        let store = self.clone();
        blocking(move || {
            let missing = content.iter().map(|(digest, size)| {
                let begun = fs::metadata(store.partial().join(digest.hex()));
                // Space is taken for the whole when a download begins, where the file system can do that.
                let taken = begun.map_or(0, |file| file.len().max(file.blocks() * 512));
                size.saturating_sub(taken)
            });
            let missing = missing.fold(0u64, u64::saturating_add);
            let digests: Vec<_> = content.iter().map(|(digest, _)| *digest).collect();
            store.find_room(missing, reserve, &digests)
        })
        .await
    }

    fn find_room(&self, missing: u64, reserve: u64, needed: &[Digest]) -> Result<(), StoreError> {
        if missing == 0 || self.free()? >= missing.saturating_add(reserve) {
            return Ok(());
        }
        self.drop_idle_downloads(0, needed)?;
        let free = self.free()?;
        if free >= missing.saturating_add(reserve) {
            return Ok(());
        }
        Err(StoreError::NoSpace { needed: missing, free, reserve })
    }

    /// Returns how many bytes this process may still write to the disk that the store is on.
    fn free(&self) -> Result<u64, StoreError> {
        disk::free(&self.partial()).map_err(StoreError::io("asking for the free space of the disk"))
    }
}

/// Tells whether this open file is what stands at the path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

impl Download {
    /// Returns how many bytes have come so far, in this and in earlier attempts.
    pub fn held(&self) -> u64 {
        self.digester.size()
    }

    /// Returns how many bytes the content may have at most.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes care that the whole content, of this many bytes, has its place on the disk, and that `reserve` bytes stay
    /// free. The place is taken at once where the file system can do that, so that downloads at the same time do not
    /// count on the same space.
    pub async fn make_room(&mut self, size: u64, reserve: u64) -> Result<(), StoreError> {
        if size > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        let file = self.file.try_clone().await.map_err(StoreError::io("taking space for a download"))?;
        let (store, file, held) = (self.store.clone(), file.into_std().await, self.held());
        blocking(move || {
            let taken = file.metadata().map_err(StoreError::io("taking space for a download"))?.blocks() * 512;
            let missing = size.saturating_sub(taken.max(held));
            store.find_room(missing, reserve, &[])?;
            if missing == 0 {
                return Ok(());
            }
            match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, held, size - held) {
                Err(rustix::io::Errno::NOSPC) => {
                    Err(StoreError::NoSpace { needed: missing, free: store.free()?, reserve })
                }
                // Not every file system can. Then the space was looked at, and that is all.
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await
    }

    /// Writes the next bytes. It fails when they are more than the limit allows.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if self.held() + bytes.len() as u64 > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        self.digester.update(bytes);
        self.file.write_all(bytes).await.map_err(StoreError::io("writing a download"))
    }

    /// Forgets what has come so far.
    pub async fn restart(&mut self) -> Result<(), StoreError> {
        let restart = async {
            self.file.flush().await?;
            self.file.set_len(0).await?;
            self.file.rewind().await
        };
        restart.await.map_err(StoreError::io("beginning a download again"))?;
        self.digester = Digester::default();
        Ok(())
    }

    /// Checks the digest and moves the content to its place. It is on the disk when this returns. Content with another
    /// digest is forgotten, so that the download can begin again.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        let size = self.held();
        let found = self.digester.clone().finish();
        if found != self.digest {
            self.restart().await?;
            return Err(StoreError::WrongDigest { wanted: self.digest, found });
        }
        let trim = async {
            self.file.flush().await?;
            // Space that was taken for more than has come is given back.
            self.file.set_len(size).await
        };
        trim.await.map_err(StoreError::io("writing a download"))?;
        let (store, path) = (self.store.clone(), self.path.clone());
        // From here on the file may be at its place, even when nobody waits for the answer.
        self.finished = true;
        blocking(move || store.adopt(&path, &found)).await
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.finished && self.held() == 0 {
            // Nothing has come, so nothing is worth keeping. The lock is still held: this is nobody else's file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::store;

    fn partial(store: &ContentStore) -> Vec<(String, u64)> {
        let entries = fs::read_dir(store.partial()).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect()
    }

    async fn begin(store: &ContentStore, digest: &Digest) -> Download {
        store.download(digest, 100).await.unwrap().unwrap()
    }

    /// Drops a download once its bytes are in the file.
    async fn interrupt(mut download: Download) {
        download.file.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_download_goes_on_in_another_process_and_is_verified_as_a_whole() {
        let (folder, store) = store().await;
        let digest = Digest::of(b"hello");
        let mut download = begin(&store, &digest).await;
        download.make_room(5, 0).await.unwrap();
        download.write(b"hel").await.unwrap();
        interrupt(download).await;
        drop(store);

        let store = ContentStore::open(folder.path()).await.unwrap();
        assert!(!store.contains(&digest));
        let mut download = begin(&store, &digest).await;
        assert_eq!(download.held(), 3);
        download.write(b"lo").await.unwrap();
        download.finish().await.unwrap();
        drop(download);
        assert_eq!(fs::read(store.verified_path(&digest).await.unwrap()).unwrap(), b"hello");
        assert_eq!(partial(&store), []);
        assert!(store.download(&digest, 100).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_damaged_part_is_found_out_and_the_download_begins_again() {
        let (_folder, store) = store().await;
        let digest = Digest::of(b"hello");
        let mut download = begin(&store, &digest).await;
        download.write(b"HEL").await.unwrap();
        interrupt(download).await;
        let mut download = begin(&store, &digest).await;
        download.write(b"lo").await.unwrap();
        assert!(matches!(download.finish().await, Err(StoreError::WrongDigest { .. })));
        assert!(!store.contains(&digest));
        assert_eq!(download.held(), 0);
        download.write(b"hello").await.unwrap();
        download.finish().await.unwrap();
        assert!(store.contains(&digest));
    }

    #[tokio::test]
    async fn of_two_that_want_the_same_content_one_downloads_and_the_other_waits() {
        let (folder, store) = store().await;
        // Each opening has locks of its own, as each process has.
        let other = ContentStore::open(folder.path()).await.unwrap();
        let digest = Digest::of(b"hello");
        let mut download = begin(&store, &digest).await;
        download.write(b"hello").await.unwrap();
        let waits = tokio::spawn(async move { other.download(&digest, 100).await.unwrap().is_none() });
        download.finish().await.unwrap();
        assert!(waits.await.unwrap());

        // The one gives up, the other goes on.
        let digest = Digest::of(b"other");
        let other = ContentStore::open(folder.path()).await.unwrap();
        let mut download = begin(&store, &digest).await;
        download.write(b"ot").await.unwrap();
        let waits = tokio::spawn(async move { other.download(&digest, 100).await.unwrap().unwrap().held() });
        interrupt(download).await;
        assert_eq!(waits.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_is_too_large_ends_and_a_part_that_is_too_large_counts_for_nothing() {
        let (_folder, store) = store().await;
        let digest = Digest::of(b"hello");
        let mut download = store.download(&digest, 4).await.unwrap().unwrap();
        assert!(matches!(download.make_room(5, 0).await, Err(StoreError::TooLarge { limit: 4 })));
        assert!(matches!(download.write(b"hello").await, Err(StoreError::TooLarge { limit: 4 })));
        download.write(b"hell").await.unwrap();
        interrupt(download).await;
        assert_eq!(store.download(&digest, 3).await.unwrap().unwrap().held(), 0);
        // Nothing came, so nothing stays.
        assert_eq!(partial(&store), []);
    }

    #[tokio::test]
    async fn without_space_nothing_begins_and_interrupted_downloads_make_room() {
        let (_folder, store) = store().await;
        let digest = Digest::of(b"hello");
        let mut idle = begin(&store, &Digest::of(b"idle")).await;
        idle.write(b"id").await.unwrap();
        let mut busy = begin(&store, &Digest::of(b"busy")).await;
        busy.write(b"bu").await.unwrap();
        interrupt(idle).await;
        let mut download = begin(&store, &digest).await;
        let refused = download.make_room(5, u64::MAX).await.unwrap_err();
        assert!(matches!(refused, StoreError::NoSpace { needed: 5, reserve: u64::MAX, .. }), "{refused}");
        drop(download);
        assert_eq!(partial(&store), [(Digest::of(b"busy").hex(), 2)]);
        let free = store.free().unwrap();
        store.make_room(vec![(digest, 1)], 0).await.unwrap();
        assert!(matches!(store.make_room(vec![(digest, free)], free).await, Err(StoreError::NoSpace { .. })));
    }

    #[tokio::test]
    async fn what_was_begun_counts_and_is_not_given_up_for_itself() {
        let (_folder, store) = store().await;
        let digest = Digest::of(b"hello");
        let mut download = begin(&store, &digest).await;
        download.make_room(100, 0).await.unwrap();
        download.write(b"hel").await.unwrap();
        interrupt(download).await;
        // A block of the disk holds it all, wherever space was taken; else the file itself says how much has come.
        let refused = store.make_room(vec![(digest, 100_000)], u64::MAX).await.unwrap_err();
        let StoreError::NoSpace { needed, .. } = refused else { panic!("{refused}") };
        assert!(needed <= 99_997, "{needed}");
        assert_eq!(begin(&store, &digest).await.held(), 3);
    }

    #[tokio::test]
    async fn only_the_newest_of_many_interrupted_downloads_are_kept() {
        let (folder, store) = store().await;
        for number in 0..40u8 {
            let mut download = begin(&store, &Digest::of(&[number])).await;
            download.write(b"part").await.unwrap();
            interrupt(download).await;
            let age = SystemTime::UNIX_EPOCH + Duration::from_secs(number.into());
            let file = lock_file(&store.partial().join(Digest::of(&[number]).hex())).unwrap();
            file.set_modified(age).unwrap();
        }
        ContentStore::open(folder.path()).await.unwrap();
        assert_eq!(partial(&store).len(), 32);
        assert_eq!(begin(&store, &Digest::of(&[7])).await.held(), 0);
        assert_eq!(begin(&store, &Digest::of(&[8])).await.held(), 4);
    }
}
