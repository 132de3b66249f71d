//! Which repository names hold which content of the store.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

use margo::Digest;

use super::{ContentStore, StoreError, blocking, sync_folder};
use crate::{AnyManifest, ArtifactManifest, Descriptor, Index, RepositoryName};

impl ContentStore {
    fn marker(&self, name: &RepositoryName, kind: &str, digest: &Digest) -> PathBuf {
        self.0.root.join("repositories").join(name.as_str()).join(kind).join(digest.hex())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        media,
        store::testing::{artifact, store},
    };

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
}
