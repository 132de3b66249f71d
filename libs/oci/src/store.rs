//! The content store on disk: content by digest, and which repository names hold it.
//!
//! **Layout.** The markers under `repositories/` are empty files.
//!
//! ```text
//! blobs/sha256/<hex>                          content, manifests included
//! repositories/<name>/_blobs/<hex>            the name may read this blob
//! repositories/<name>/_manifests/<hex>        the name holds this manifest with all that it names
//! staging/<uuid>/                             what one process is writing; it holds the lock on the file `lock` in it
//! partial/<hex>                               a download, as far as it has come; whoever goes on with it holds its lock
//! lock                                        held for a moment by whoever opens the store
//! ```
//!
//! **Updates.** Content is written into `staging/` or `partial/` and digested on the way; it is moved under its digest
//! only when the digest is right and the file is synced. A name gets its markers when all content is there, that of the
//! manifest last; an index is held when a manifest of it is held. Content is never changed; what proves to be damaged is
//! removed.
//!
//! **Several processes** may use one store at once, on a file system of this machine. Two that write the same content
//! move the same bytes to the same place. The locks are those of `flock`, which end with the process that holds them.
//!
//! **After a crash.** Files are left in `staging/`, which the next process that opens the store removes; or a part of a
//! download, which the next one goes on with; or content that no marker names yet, or markers of blobs without that of
//! their manifest: then the name does not hold the manifest, and linking it again completes the rest.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use margo::Digest;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::{
    AnyManifest, ArtifactManifest, Descriptor, Index, MAX_MANIFEST, ManifestError, RepositoryName, digest::Digester,
};

const BLOBS: &str = "blobs/sha256";
const PARTIAL: &str = "partial";

/// Downloads that nobody goes on with, of which so many are kept when a store is opened. It is more than one interrupted
/// pull leaves behind, which works at a few blobs at once.
const MAX_IDLE_DOWNLOADS: usize = 32;

/// Content could not be written to the store or read from it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The bytes do not have the digest that was asked for.
    #[error("the content has digest {found} instead of {wanted}")]
    WrongDigest {
        /// The digest that was asked for.
        wanted: Digest,
        /// The digest that the bytes have.
        found: Digest,
    },
    /// The content has more bytes than are allowed.
    #[error("the content is larger than {limit} bytes")]
    TooLarge {
        /// How many bytes are allowed.
        limit: u64,
    },
    /// The store does not have the content with this digest.
    #[error("{0} is not in the store")]
    Absent(Digest),
    /// The content is no manifest that can be served.
    #[error("manifest {digest} is not valid")]
    Manifest {
        /// The digest of the content.
        digest: Digest,
        /// The rule that the content breaks.
        source: ManifestError,
    },
    /// There is too little space on the disk for content that is about to be downloaded.
    #[error("{needed} bytes are needed on the disk, and of {free} free ones {reserve} have to stay free")]
    NoSpace {
        /// How many bytes are still missing.
        needed: u64,
        /// How many bytes are free.
        free: u64,
        /// How many bytes have to stay free.
        reserve: u64,
    },
    /// The operating system refused to read or write.
    #[error("{what}")]
    Io {
        /// What was attempted, in words for people.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl StoreError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what: what.into(), source }
    }
}

/// Content on disk by digest, and the repository names that hold it. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct ContentStore(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    root: PathBuf,
    staging: OwnStaging,
}

/// The folder in which this process writes. It is removed when the last clone of the store is dropped; of a process that
/// was killed, the next one to open the store removes it.
#[derive(Debug)]
struct OwnStaging {
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
    fn take(staging: &Path) -> io::Result<Self> {
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

/// Opens a file to be locked, which is made when there is none.
pub(crate) fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

impl ContentStore {
    /// Opens a store, or makes an empty one. What processes were writing that have ended is removed.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        blocking(move || {
            let prepare = || {
                let staging = root.join("staging");
                for folder in [staging.clone(), root.join(BLOBS), root.join(PARTIAL), root.join("repositories")] {
                    fs::create_dir_all(folder)?;
                }
                for folder in [root.join("blobs"), root.clone()] {
                    sync_folder(&folder)?;
                }
                let alone = lock_file(&root.join("lock"))?;
                alone.lock()?;
                OwnStaging::take(&staging)
            };
            let staging = prepare().map_err(StoreError::io(format!("opening the content store {}", root.display())))?;
            let store = Self(Arc::new(Opened { root, staging }));
            store.drop_idle_downloads(MAX_IDLE_DOWNLOADS, &[])?;
            Ok(store)
        })
        .await
    }

    fn staging(&self) -> &Path {
        &self.0.staging.folder
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.0.root.join(BLOBS)
    }

    pub(crate) fn partial(&self) -> PathBuf {
        self.0.root.join(PARTIAL)
    }

    /// Returns the path at which this content stands when it is in the store. It does not look whether it is.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn marker(&self, name: &RepositoryName, kind: &str, digest: &Digest) -> PathBuf {
        self.0.root.join("repositories").join(name.as_str()).join(kind).join(digest.hex())
    }

    /// Tells whether this content is in the store. The content is not digested again.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Begins to write content of at most `limit` bytes.
    pub async fn writer(&self, limit: u64) -> Result<BlobWriter, StoreError> {
        let path = self.staging().join(Uuid::new_v4().to_string());
        let file = tokio::fs::File::create_new(&path).await;
        let file = file.map_err(StoreError::io(format!("creating {}", path.display())))?;
        Ok(BlobWriter { store: self.clone(), file, path: Temporary(path), digester: Digester::default(), limit })
    }

    /// Writes these bytes to the store and returns their digest.
    pub async fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let mut writer = self.writer(bytes.len() as u64).await?;
        writer.write(bytes).await?;
        writer.finish(&digest).await?;
        Ok(digest)
    }

    /// Makes a folder on the same file system, from which content is moved. It is removed with all that is left in it.
    pub(crate) fn stage(&self) -> Result<StagingFolder, StoreError> {
        let path = self.staging().join(Uuid::new_v4().to_string());
        fs::create_dir(&path).map_err(StoreError::io(format!("creating {}", path.display())))?;
        Ok(StagingFolder { path, _store: self.clone() })
    }

    /// Takes over a file whose digest was checked while it was written.
    pub(crate) fn adopt(&self, file: &Path, digest: &Digest) -> Result<(), StoreError> {
        let place = || {
            File::open(file)?.sync_all()?;
            fs::rename(file, self.path(digest))?;
            sync_folder(&self.blobs())
        };
        place().map_err(StoreError::io(format!("storing {digest}")))
    }

    /// Reads a manifest and digests it again.
    pub async fn manifest(&self, digest: &Digest) -> Result<ArtifactManifest, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.read_manifest(&digest).map(|(manifest, _)| manifest)).await
    }

    /// Reads a manifest or an index, whichever it is, and digests it again.
    pub async fn any_manifest(&self, digest: &Digest) -> Result<AnyManifest, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || store.read_any_manifest(&digest).map(|(manifest, _)| manifest)).await
    }

    fn read_manifest(&self, digest: &Digest) -> Result<(ArtifactManifest, Vec<u8>), StoreError> {
        self.read_parsed(digest, ArtifactManifest::parse)
    }

    /// Reads a manifest or an index and its bytes, and digests them again.
    pub(crate) fn read_any_manifest(&self, digest: &Digest) -> Result<(AnyManifest, Vec<u8>), StoreError> {
        self.read_parsed(digest, AnyManifest::parse)
    }

    fn read_parsed<T>(
        &self,
        digest: &Digest,
        parse: fn(&[u8]) -> Result<T, ManifestError>,
    ) -> Result<(T, Vec<u8>), StoreError> {
        let bytes = self.read(digest, MAX_MANIFEST)?;
        match parse(&bytes) {
            Ok(manifest) => Ok((manifest, bytes)),
            Err(source) => Err(StoreError::Manifest { digest: *digest, source }),
        }
    }

    /// Reads content and digests it again, because the disk may have changed it. Content that no longer has its digest
    /// is removed, so that it counts as absent from then on.
    fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let file = File::open(self.path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Absent(*digest),
            _ => StoreError::Io { what: format!("opening {digest}"), source: error },
        })?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(StoreError::io(format!("reading {digest}")))?;
        if bytes.len() as u64 > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let found = Digest::of(&bytes);
        if found != *digest {
            self.discard(digest)?;
            return Err(StoreError::WrongDigest { wanted: *digest, found });
        }
        Ok(bytes)
    }

    /// Digests content on the disk again and returns its path; it is for whoever is about to execute the content.
    /// Content that no longer has its digest is removed, so that the next pull brings it again.
    pub async fn verified_path(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let (store, digest) = (self.clone(), *digest);
        blocking(move || {
            let path = store.path(&digest);
            let mut file = File::open(&path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => StoreError::Absent(digest),
                _ => StoreError::Io { what: format!("opening {digest}"), source: error },
            })?;
            let mut digester = Digester::default();
            let mut buffer = vec![0; 64 << 10];
            loop {
                match file.read(&mut buffer).map_err(StoreError::io(format!("reading {digest}")))? {
                    0 => break,
                    count => digester.update(&buffer[..count]),
                }
            }
            let found = digester.finish();
            if found != digest {
                store.discard(&digest)?;
                return Err(StoreError::WrongDigest { wanted: digest, found });
            }
            Ok(path)
        })
        .await
    }

    /// Removes content that proved to be damaged.
    pub(crate) fn discard(&self, digest: &Digest) -> Result<(), StoreError> {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Io { what: format!("removing the damaged {digest}"), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Has this name hold a manifest or an index. It fails when the manifest, or anything that it names, is not in the
    /// store, and for an index when the name holds none of the manifests that it names.
    pub async fn link(&self, name: &RepositoryName, digest: &Digest) -> Result<(), StoreError> {
        let (store, name, digest) = (self.clone(), name.clone(), *digest);
        blocking(move || {
            let (manifest, _) = store.read_any_manifest(&digest)?;
            let absent = match &manifest {
                AnyManifest::Artifact(manifest) => manifest.blobs().find(|blob| !store.contains(&blob.digest)),
                AnyManifest::Index(index) => {
                    if store.holds_of(&name, index)? {
                        None
                    } else {
                        index.manifests.first()
                    }
                }
            };
            if let Some(absent) = absent {
                return Err(StoreError::Absent(absent.digest));
            }
            let mark = || {
                // The manifest's own marker comes last: it promises all the others.
                if let AnyManifest::Artifact(manifest) = &manifest {
                    store.mark(&name, "_blobs", manifest.blobs().map(|blob| &blob.digest))?;
                }
                store.mark(&name, "_manifests", std::iter::once(&digest))
            };
            mark().map_err(StoreError::io(format!("linking {digest} to {name}")))
        })
        .await
    }

    #[expect(clippy::disallowed_methods, reason = "a mark is an empty file: there is no content to be cut off")]
    fn mark<'a>(&self, name: &RepositoryName, kind: &str, digests: impl Iterator<Item = &'a Digest>) -> io::Result<()> {
        let repositories = self.0.root.join("repositories");
        let folder = repositories.join(name.as_str()).join(kind);
        fs::create_dir_all(&folder)?;
        for digest in digests {
            File::create(folder.join(digest.hex()))?.sync_all()?;
        }
        folder.ancestors().take_while(|above| above.starts_with(&repositories)).try_for_each(sync_folder)
    }

    /// Tells whether this name holds this manifest, and everything that the manifest names is in the store. An index is
    /// held when at least one of its manifests is, and all of them that the name ever held still are.
    pub async fn holds(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let (store, name, digest) = (self.clone(), name.clone(), *digest);
        blocking(move || match store.read_held(&name, &digest)? {
            None => Ok(false),
            Some(AnyManifest::Artifact(manifest)) => Ok(store.contains_all(&manifest)),
            Some(AnyManifest::Index(index)) => store.holds_of(&name, &index),
        })
        .await
    }

    /// Reads a manifest that this name holds, whether or not all that it names is in the store.
    fn read_held(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<AnyManifest>, StoreError> {
        if !self.marker(name, "_manifests", digest).exists() {
            return Ok(None);
        }
        match self.read_any_manifest(digest) {
            Ok((manifest, _)) => Ok(Some(manifest)),
            Err(StoreError::Absent(_) | StoreError::WrongDigest { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn contains_all(&self, manifest: &ArtifactManifest) -> bool {
        manifest.blobs().all(|blob| self.contains(&blob.digest))
    }

    /// Tells whether this name holds manifests of this index, and all of them whole. An index in the index is not looked
    /// at.
    fn holds_of(&self, name: &RepositoryName, index: &Index) -> Result<bool, StoreError> {
        let mut whole = false;
        for Descriptor { digest, .. } in &index.manifests {
            if !self.marker(name, "_manifests", digest).exists() {
                continue;
            }
            match self.read_held(name, digest)? {
                Some(AnyManifest::Artifact(manifest)) if self.contains_all(&manifest) => whole = true,
                Some(AnyManifest::Index(_)) => {}
                _ => return Ok(false),
            }
        }
        Ok(whole)
    }

    /// Tells whether this name may read this blob, because a manifest that it holds names the blob.
    #[cfg(feature = "server")]
    pub(crate) fn may_read_blob(&self, name: &RepositoryName, digest: &Digest) -> bool {
        self.marker(name, "_blobs", digest).exists()
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

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Io { what: "working on the disk".to_owned(), source: io::Error::other(error) })?
}

/// What the tests of this module and of downloads begin with.
#[cfg(test)]
pub(crate) mod testing {
    use tempfile::TempDir;

    use super::ContentStore;

    /// An empty store in a folder of its own.
    pub async fn store() -> (TempDir, ContentStore) {
        let folder = TempDir::new().unwrap();
        let store = ContentStore::open(folder.path()).await.unwrap();
        (folder, store)
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::store, *};
    use crate::{Descriptor, media};

    /// How many files and folders are being written. One file is the lock.
    fn staged(store: &ContentStore) -> usize {
        fs::read_dir(store.staging()).unwrap().count() - 1
    }

    async fn artifact(store: &ContentStore) -> (Digest, Digest) {
        let layer = store.put(b"wasm").await.unwrap();
        store.put(media::EMPTY_CONFIG).await.unwrap();
        let manifest = ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, b"wasm")]);
        (store.put(&manifest.to_json()).await.unwrap(), layer)
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
    async fn a_name_holds_only_what_is_whole() {
        let (_folder, store) = store().await;
        let (hello, other): (RepositoryName, RepositoryName) = ("hello".parse().unwrap(), "a/b".parse().unwrap());
        let (manifest, layer) = artifact(&store).await;
        assert!(!store.holds(&hello, &manifest).await.unwrap());
        store.link(&hello, &manifest).await.unwrap();
        store.link(&other, &manifest).await.unwrap();
        assert!(store.holds(&hello, &manifest).await.unwrap());
        assert!(store.holds(&other, &manifest).await.unwrap());
        assert!(!store.holds(&"a".parse().unwrap(), &manifest).await.unwrap());

        fs::remove_file(store.path(&layer)).unwrap();
        assert!(!store.holds(&hello, &manifest).await.unwrap());
        assert!(matches!(store.link(&hello, &manifest).await, Err(StoreError::Absent(absent)) if absent == layer));
    }

    #[tokio::test]
    async fn damaged_content_is_found_out_and_counts_as_absent() {
        let (_folder, store) = store().await;
        let (manifest, layer) = artifact(&store).await;
        for digest in [manifest, layer] {
            fs::write(store.path(&digest), b"damaged").unwrap();
        }
        assert!(matches!(store.manifest(&manifest).await, Err(StoreError::WrongDigest { .. })));
        assert!(matches!(store.verified_path(&layer).await, Err(StoreError::WrongDigest { .. })));
        assert!(matches!(store.verified_path(&layer).await, Err(StoreError::Absent(_))));
        assert!(!store.contains(&manifest));
    }

    #[tokio::test]
    async fn an_index_is_held_with_at_least_one_manifest_and_with_all_that_were_held() {
        let (_folder, store) = store().await;
        let hello: RepositoryName = "hello".parse().unwrap();
        let (manifest, layer) = artifact(&store).await;
        let other = ArtifactManifest::artifact(media::APP, vec![Descriptor::of(media::DESCRIPTION, b"text")]).to_json();
        let listed = [Descriptor::new(media::MANIFEST, manifest, 1), Descriptor::of(media::MANIFEST, &other)];
        let index = Index { schema_version: 2, media_type: None, manifests: listed.to_vec() };
        let index = store.put(&serde_json::to_vec(&index).unwrap()).await.unwrap();
        assert!(matches!(store.link(&hello, &index).await, Err(StoreError::Absent(absent)) if absent == manifest));

        store.link(&hello, &manifest).await.unwrap();
        store.link(&hello, &index).await.unwrap();
        assert!(store.holds(&hello, &index).await.unwrap());
        assert!(!store.holds(&"other".parse().unwrap(), &index).await.unwrap());

        let (other, text) = (store.put(&other).await.unwrap(), store.put(b"text").await.unwrap());
        store.link(&hello, &other).await.unwrap();
        fs::remove_file(store.path(&text)).unwrap();
        assert!(!store.holds(&hello, &index).await.unwrap());
        store.put(b"text").await.unwrap();
        assert!(store.holds(&hello, &index).await.unwrap());
        fs::remove_file(store.path(&layer)).unwrap();
        assert!(!store.holds(&hello, &index).await.unwrap());
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
