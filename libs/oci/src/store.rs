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

mod held;
mod staging;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use margo::Digest;

pub use self::staging::BlobWriter;
use self::staging::OwnStaging;
pub(crate) use self::staging::StagingFolder;
use crate::{AnyManifest, ArtifactManifest, MAX_MANIFEST, ManifestError, digest::Digester};

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

    /// Tells whether this content is in the store. The content is not digested again.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Writes these bytes to the store and returns their digest.
    pub async fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let mut writer = self.writer(bytes.len() as u64).await?;
        writer.write(bytes).await?;
        writer.finish(&digest).await?;
        Ok(digest)
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
    use margo::Digest;
    use tempfile::TempDir;

    use super::ContentStore;
    use crate::{ArtifactManifest, Descriptor, media};

    /// An empty store in a folder of its own.
    pub async fn store() -> (TempDir, ContentStore) {
        let folder = TempDir::new().unwrap();
        let store = ContentStore::open(folder.path()).await.unwrap();
        (folder, store)
    }

    /// An artifact of one layer: the digests of its manifest and of the layer.
    pub async fn artifact(store: &ContentStore) -> (Digest, Digest) {
        let layer = store.put(b"wasm").await.unwrap();
        store.put(media::EMPTY_CONFIG).await.unwrap();
        let manifest = ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![Descriptor::of(media::WASM, b"wasm")]);
        (store.put(&manifest.to_json()).await.unwrap(), layer)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        testing::{artifact, store},
        *,
    };

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
}
