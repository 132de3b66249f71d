//! The content store on disk: content by digest, and which repository names hold it.
//!
//! **Layout.** The markers under `repositories/` are empty files.
//!
//! ```text
//! blobs/sha256/<hex>                          content, manifests included
//! repositories/<name>/_blobs/<hex>            the name may read this blob
//! repositories/<name>/_manifests/<hex>        the name holds this manifest with all that it names
//! staging/                                    what is being written; emptied at the start
//! ```
//!
//! **Updates.** Content is written into `staging/` and digested on the way; it is moved under its digest only when the
//! digest is right and the file is synced. A name gets its markers when all content is there, that of the manifest
//! last. Content is never changed; what proves to be damaged is removed.
//!
//! **After a crash.** Files are left in `staging/`, which the next start removes, or content that no marker names yet,
//! or markers of blobs without that of their manifest: then the name does not hold the manifest, and linking it again
//! completes the rest.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use margo::Digest;
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::{ArtifactManifest, MAX_MANIFEST, ManifestError, RepositoryName, digest::Digester};

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
pub struct ContentStore {
    root: Arc<PathBuf>,
}

impl ContentStore {
    /// Opens a store, or makes an empty one. What an earlier process was still writing is removed, because a store has
    /// one owner.
    pub async fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: Arc::new(root.into()) };
        let opened = store.clone();
        blocking(move || {
            let prepare = || {
                match fs::remove_dir_all(opened.staging()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                for folder in [opened.staging(), opened.blobs(), opened.root.join("repositories")] {
                    fs::create_dir_all(folder)?;
                }
                for folder in [opened.root.join("blobs"), opened.root.to_path_buf()] {
                    sync_folder(&folder)?;
                }
                Ok(())
            };
            prepare().map_err(StoreError::io(format!("opening the content store {}", opened.root.display())))
        })
        .await?;
        Ok(store)
    }

    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Returns the path at which this content stands when it is in the store. It does not look whether it is.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn marker(&self, name: &RepositoryName, kind: &str, digest: &Digest) -> PathBuf {
        self.root.join("repositories").join(name.as_str()).join(kind).join(digest.hex())
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
        Ok(StagingFolder(path))
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

    /// Reads a manifest and its bytes, and digests them again.
    pub(crate) fn read_manifest(&self, digest: &Digest) -> Result<(ArtifactManifest, Vec<u8>), StoreError> {
        let bytes = self.read(digest, MAX_MANIFEST)?;
        match ArtifactManifest::parse(&bytes) {
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

    /// Has this name hold a manifest. It fails when the manifest, or anything that it names, is not in the store.
    pub async fn link(&self, name: &RepositoryName, digest: &Digest) -> Result<(), StoreError> {
        let (store, name, digest) = (self.clone(), name.clone(), *digest);
        blocking(move || {
            let (manifest, _) = store.read_manifest(&digest)?;
            if let Some(absent) = manifest.blobs().find(|blob| !store.contains(&blob.digest)) {
                return Err(StoreError::Absent(absent.digest));
            }
            let mark = || {
                // The manifest's own marker comes last: it promises all the others.
                store.mark(&name, "_blobs", manifest.blobs().map(|blob| &blob.digest))?;
                store.mark(&name, "_manifests", std::iter::once(&digest))
            };
            mark().map_err(StoreError::io(format!("linking {digest} to {name}")))
        })
        .await
    }

    #[expect(clippy::disallowed_methods, reason = "a mark is an empty file: there is no content to be cut off")]
    fn mark<'a>(&self, name: &RepositoryName, kind: &str, digests: impl Iterator<Item = &'a Digest>) -> io::Result<()> {
        let repositories = self.root.join("repositories");
        let folder = repositories.join(name.as_str()).join(kind);
        fs::create_dir_all(&folder)?;
        for digest in digests {
            File::create(folder.join(digest.hex()))?.sync_all()?;
        }
        folder.ancestors().take_while(|above| above.starts_with(&repositories)).try_for_each(sync_folder)
    }

    /// Tells whether this name holds this manifest, and everything that the manifest names is in the store.
    pub async fn holds(&self, name: &RepositoryName, digest: &Digest) -> Result<bool, StoreError> {
        let (store, name, digest) = (self.clone(), name.clone(), *digest);
        blocking(move || {
            if !store.marker(&name, "_manifests", &digest).exists() {
                return Ok(false);
            }
            match store.read_manifest(&digest) {
                Ok((manifest, _)) => Ok(manifest.blobs().all(|blob| store.contains(&blob.digest))),
                Err(StoreError::Absent(_) | StoreError::WrongDigest { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
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
pub(crate) struct StagingFolder(PathBuf);

impl StagingFolder {
    pub(crate) fn file(&self, digest: &Digest) -> PathBuf {
        self.0.join(digest.hex())
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "staging folder left behind; the next start removes it");
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{Descriptor, media};

    async fn store() -> (TempDir, ContentStore) {
        let folder = TempDir::new().unwrap();
        let store = ContentStore::open(folder.path()).await.unwrap();
        (folder, store)
    }

    fn staged(store: &ContentStore) -> usize {
        fs::read_dir(store.staging()).unwrap().count()
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
    async fn what_an_earlier_process_was_writing_is_removed_at_the_start() {
        let (folder, store) = store().await;
        let mut writer = store.writer(10).await.unwrap();
        writer.write(b"half").await.unwrap();
        std::mem::forget(writer);
        assert_eq!(staged(&store), 1);
        let store = ContentStore::open(folder.path()).await.unwrap();
        assert_eq!(staged(&store), 0);
    }
}
