//! Unpacking the tar of an image layout into a staging folder, with every entry checked.
//!
//! Nothing in the archive decides where something is written: blobs are staged under the digest that they turned
//! out to have. The tar is read raw, without its extension headers. The paths of a layout are short, and a path or
//! a size that comes in an extension is one that these checks would not see.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
};

use margo::Digest;
use tar::{Archive, EntryType};

use super::{INDEX, MARKER, Marker, VERSION};
use crate::{
    ArtifactManifest, ContentStore, Index, MAX_MANIFEST, ManifestError, RepositoryName, StoreError,
    digest::Digester,
    store::{StagingFolder, blocking},
};

/// More entries than a hundred components with their files need.
const MAX_ENTRIES: usize = 2_000;

/// The largest extension header that is passed over. `pax` headers carry times and owners, a few hundred bytes.
const MAX_EXTENSION: u64 = 64 << 10;

/// An archive was refused. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The stream broke, or it is no tar.
    #[error("reading the archive")]
    Read(#[source] io::Error),
    /// The archive has too many entries, or entries that are too large together.
    #[error("the archive must hold at most {MAX_ENTRIES} entries and {limit} bytes")]
    TooLarge {
        /// How many bytes are allowed.
        limit: u64,
    },
    /// The archive has an entry that no image layout has.
    #[error("entry {path:?}: {rule}")]
    Entry {
        /// The path of the entry.
        path: String,
        /// The rule that the entry breaks.
        rule: String,
    },
    /// A blob that the index or a manifest names is not in the archive.
    #[error("{file} is not in the archive")]
    Missing {
        /// The path that the blob has in an image layout.
        file: String,
    },
    /// `oci-layout` or `index.json` is not what it must be.
    #[error("{file}: {rule}")]
    Document {
        /// The name of the file.
        file: String,
        /// The rule that the file breaks.
        rule: String,
    },
    /// A manifest cannot be served.
    #[error("manifest {digest} is not valid")]
    Manifest {
        /// The digest of the manifest.
        digest: Digest,
        /// The rule that the manifest breaks.
        source: ManifestError,
    },
    /// The platform's own disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An image layout whose digests were checked, and that waits to be taken or dropped. Dropping it removes its
/// files.
#[derive(Debug)]
pub struct StagedLayout {
    folder: StagingFolder,
    blobs: BTreeMap<Digest, u64>,
    index: Index,
}

/// The things that an entry of an image layout can be.
#[derive(Debug, PartialEq)]
enum Place {
    Folder,
    Marker,
    Index,
    Blob(Digest),
}

/// Returns where an entry belongs. Its path must be one of the few that an image layout has.
fn place(path: &str) -> Result<Place, &'static str> {
    if path.starts_with('/') {
        return Err("an absolute path is not allowed");
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
    match segments[..] {
        _ if segments.contains(&"..") => Err("a path with .. is not allowed"),
        [] | ["blobs"] | ["blobs", "sha256"] => Ok(Place::Folder),
        [MARKER] => Ok(Place::Marker),
        [INDEX] => Ok(Place::Index),
        ["blobs", "sha256", hex] => format!("sha256:{hex}")
            .parse()
            .map(Place::Blob)
            .map_err(|_| "a blob's name must be 64 lower-case hex digits"),
        _ => Err("an image layout has only oci-layout, index.json and blobs/sha256/<hex>"),
    }
}

/// Reads the tar of an image layout of at most `limit` bytes into the staging folder of the store. It blocks, so it
/// is called where blocking is allowed.
pub fn unpack(archive: impl Read, store: &ContentStore, limit: u64) -> Result<StagedLayout, LayoutError> {
    let mut unpacking = Unpacking { folder: store.stage()?, blobs: BTreeMap::new(), marker: None, index: None };
    let mut archive = Archive::new(archive);
    let mut left = limit;
    for (count, entry) in archive.entries().map_err(LayoutError::Read)?.raw(true).enumerate() {
        let mut entry = entry.map_err(LayoutError::Read)?;
        left = left.checked_sub(entry.size()).ok_or(LayoutError::TooLarge { limit })?;
        if count >= MAX_ENTRIES {
            return Err(LayoutError::TooLarge { limit });
        }
        unpacking.take(&mut entry)?;
    }
    unpacking.finish()
}

struct Unpacking {
    folder: StagingFolder,
    blobs: BTreeMap<Digest, u64>,
    marker: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
}

impl Unpacking {
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), LayoutError> {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse = |rule: &str| LayoutError::Entry { path: path.chars().take(300).collect(), rule: rule.to_owned() };
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XHeader | EntryType::XGlobalHeader) && entry.size() <= MAX_EXTENSION {
            return Ok(());
        }
        let place = place(&path).map_err(refuse)?;
        let special = entry.header().mode().map_err(LayoutError::Read)? & 0o7000 != 0;
        match (kind, place) {
            (EntryType::Directory, Place::Folder) => Ok(()),
            (EntryType::Regular, _) if special => {
                Err(refuse("set-user-id, set-group-id and sticky bits are not allowed"))
            }
            (EntryType::Regular, Place::Marker) if self.marker.is_none() => {
                self.marker = Some(small(entry, refuse)?);
                Ok(())
            }
            (EntryType::Regular, Place::Index) if self.index.is_none() => {
                self.index = Some(small(entry, refuse)?);
                Ok(())
            }
            (EntryType::Regular, Place::Blob(digest)) if !self.blobs.contains_key(&digest) => {
                self.blob(entry, digest, refuse)
            }
            (EntryType::Regular, Place::Folder) => Err(refuse("must be a folder")),
            (EntryType::Regular, _) => Err(refuse("stands twice in the archive")),
            _ => Err(refuse("must be a regular file: links and special files are not allowed")),
        }
    }

    fn blob(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        digest: Digest,
        refuse: impl Fn(&str) -> LayoutError,
    ) -> Result<(), LayoutError> {
        let disk = || StoreError::io("writing to the staging folder");
        let mut file = File::create_new(self.folder.file(&digest)).map_err(disk())?;
        let mut digester = Digester::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = entry.read(&mut buffer).map_err(LayoutError::Read)?;
            if count == 0 {
                break;
            }
            digester.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(disk())?;
        }
        let size = digester.size();
        if size != entry.size() {
            return Err(truncated());
        }
        let found = digester.finish();
        if found != digest {
            return Err(refuse(&format!("its content has digest {found}")));
        }
        self.blobs.insert(digest, size);
        Ok(())
    }

    fn finish(self) -> Result<StagedLayout, LayoutError> {
        let missing = |file: &str| LayoutError::Missing { file: file.to_owned() };
        let document = |file: &str, rule: String| LayoutError::Document { file: file.to_owned(), rule };
        let marker = self.marker.ok_or_else(|| missing(MARKER))?;
        let marker: Marker = serde_json::from_slice(&marker).map_err(|error| document(MARKER, error.to_string()))?;
        if marker.version != VERSION {
            return Err(document(MARKER, format!("imageLayoutVersion must be {VERSION}")));
        }
        let index = self.index.ok_or_else(|| missing(INDEX))?;
        let index: Index = serde_json::from_slice(&index).map_err(|error| document(INDEX, error.to_string()))?;
        if index.schema_version != 2 {
            return Err(document(INDEX, "schemaVersion must be 2".to_owned()));
        }
        Ok(StagedLayout { folder: self.folder, blobs: self.blobs, index })
    }
}

fn small(entry: &mut tar::Entry<'_, impl Read>, refuse: impl Fn(&str) -> LayoutError) -> Result<Vec<u8>, LayoutError> {
    if entry.size() > MAX_MANIFEST {
        return Err(refuse(&format!("must be at most {MAX_MANIFEST} bytes")));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(LayoutError::Read)?;
    if bytes.len() as u64 == entry.size() { Ok(bytes) } else { Err(truncated()) }
}

fn truncated() -> LayoutError {
    LayoutError::Read(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in the middle of an entry"))
}

impl StagedLayout {
    /// Returns the list of the manifests in the layout.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads a staged blob of at most `limit` bytes.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, LayoutError> {
        let path = format!("blobs/sha256/{}", digest.hex());
        match self.blobs.get(digest) {
            None => Err(LayoutError::Missing { file: path }),
            Some(size) if *size > limit => {
                Err(LayoutError::Entry { path, rule: format!("must be at most {limit} bytes for what it is") })
            }
            Some(_) => Ok(fs::read(self.folder.file(digest)).map_err(StoreError::io("reading the staging folder"))?),
        }
    }

    /// Reads a staged manifest. It fails unless everything that the manifest names is staged, with the size that it
    /// names.
    pub fn manifest(&self, digest: &Digest) -> Result<ArtifactManifest, LayoutError> {
        let bytes = self.read(digest, MAX_MANIFEST)?;
        let manifest =
            ArtifactManifest::parse(&bytes).map_err(|source| LayoutError::Manifest { digest: *digest, source })?;
        for blob in manifest.blobs() {
            let file = format!("blobs/sha256/{}", blob.digest.hex());
            match self.blobs.get(&blob.digest) {
                None => return Err(LayoutError::Missing { file }),
                Some(size) if *size != blob.size => {
                    let rule = format!("has {size} bytes; manifest {digest} says {}", blob.size);
                    return Err(LayoutError::Entry { path: file, rule });
                }
                Some(_) => {}
            }
        }
        Ok(manifest)
    }

    /// Moves these manifests with all that they name into the store, and has the names hold them. What no manifest
    /// names is dropped. It is safe to repeat.
    pub async fn move_into(
        self,
        store: &ContentStore,
        manifests: &[(RepositoryName, Digest)],
    ) -> Result<(), LayoutError> {
        let mut wanted = Vec::new();
        for (_, digest) in manifests {
            wanted.extend(self.manifest(digest)?.blobs().map(|blob| blob.digest));
            wanted.push(*digest);
        }
        wanted.sort_unstable();
        wanted.dedup();
        let (place, folder) = (store.clone(), self.folder);
        blocking(move || {
            let mut absent = wanted.iter().filter(|digest| !place.contains(digest));
            absent.try_for_each(|digest| place.adopt(&folder.file(digest), digest))
        })
        .await?;
        for (name, digest) in manifests {
            store.link(name, digest).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_paths_of_an_image_layout_have_a_place() {
        let digest = Digest::of(b"");
        assert_eq!(place(&format!("./blobs/sha256/{}", digest.hex())), Ok(Place::Blob(digest)));
        assert_eq!(place("./"), Ok(Place::Folder));
        assert_eq!(place("blobs/sha256/"), Ok(Place::Folder));
        assert_eq!(place("index.json"), Ok(Place::Index));
        for bad in [
            "/index.json",
            "../index.json",
            "blobs/../index.json",
            "blobs/sha256/..",
            "a/b/c/d/e",
            "blobs/sha256/xyz",
            "blobs/sha512/00",
            "INDEX.JSON",
            "index.json\0",
        ] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
