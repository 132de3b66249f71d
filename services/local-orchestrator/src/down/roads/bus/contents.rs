//! What was fetched and checked, and waits for the set that it is part of.
//!
//! **Layout.** Most orders are small and stay in memory. Beyond a few megabytes everything goes into a folder: one file for each
//! content, named by the digest of its bytes.
//!
//! **Updates.** A file is written once. All are removed when a set has come into force.
//!
//! **After a crash.** Files may be missing or torn, for nothing is synced: what does not have the digest of its name is as good
//! as missing, and is fetched again.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::PathBuf,
};

use bytes::Bytes;
use margo::Digest;

/// Bytes that are kept in memory.
const MEMORY: usize = 4 << 20;

/// Contents by digest.
pub struct Contents {
    folder: PathBuf,
    memory: HashMap<Digest, Bytes>,
    bytes: usize,
    files: HashSet<Digest>,
}

impl Contents {
    /// Opens the folder, and makes it when there is none.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        disk::make_private_folder(&folder)?;
        let names = disk::names(&folder)?;
        let files = names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect();
        Ok(Self { folder, memory: HashMap::new(), bytes: 0, files })
    }

    /// Whether the content of this digest is here, as far as can be told without reading it.
    pub fn has(&self, digest: Digest) -> bool {
        self.memory.contains_key(&digest) || self.files.contains(&digest)
    }

    /// Keeps a content under its digest.
    pub async fn put(&mut self, content: Bytes) -> io::Result<()> {
        let digest = Digest::of(&content);
        if self.has(digest) {
            return Ok(());
        }
        if self.bytes + content.len() <= MEMORY {
            self.bytes += content.len();
            self.memory.insert(digest, content);
            return Ok(());
        }
        let path = self.folder.join(digest.hex());
        disk::blocking(move || write(&path, &content)).await?;
        self.files.insert(digest);
        Ok(())
    }

    /// The content of this digest; `None` when it is not here.
    pub async fn get(&mut self, digest: Digest) -> io::Result<Option<Bytes>> {
        if let Some(content) = self.memory.get(&digest) {
            return Ok(Some(content.clone()));
        }
        if !self.files.contains(&digest) {
            return Ok(None);
        }
        let path = self.folder.join(digest.hex());
        let content = disk::blocking(move || disk::read_optional(&path)).await?;
        let content = content.map(Bytes::from).filter(|content| Digest::of(content) == digest);
        if content.is_none() {
            self.files.remove(&digest);
        }
        Ok(content)
    }

    /// Forgets everything.
    pub async fn clear(&mut self) -> io::Result<()> {
        self.memory.clear();
        self.bytes = 0;
        if self.files.is_empty() {
            return Ok(());
        }
        self.files.clear();
        let folder = self.folder.clone();
        disk::blocking(move || {
            for name in disk::names(&folder)? {
                disk::remove_if_there(&folder.join(name))?;
            }
            Ok(())
        })
        .await
    }
}

/// Not synced: what a power cut takes or tears is noticed by its digest.
fn write(path: &std::path::Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_fetched_is_there_until_a_set_is_in_force_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Contents::open(folder.path().join("fetched")).unwrap();
        let mut contents = open();
        let large = |byte: u8| Bytes::from(vec![byte; MEMORY / 2 + 1]);
        for byte in 0..3 {
            contents.put(large(byte)).await.unwrap();
        }
        for byte in 0..3 {
            assert_eq!(contents.get(Digest::of(&large(byte))).await.unwrap(), Some(large(byte)));
        }
        let mut contents = open();
        assert!(!contents.has(Digest::of(&large(0))), "what was in memory is fetched again");
        assert_eq!(contents.get(Digest::of(&large(2))).await.unwrap(), Some(large(2)));
        fs::write(folder.path().join("fetched").join(Digest::of(&large(1)).hex()), "torn").unwrap();
        assert_eq!(contents.get(Digest::of(&large(1))).await.unwrap(), None);
        contents.clear().await.unwrap();
        assert!(disk::names(&folder.path().join("fetched")).unwrap().is_empty());
    }
}
