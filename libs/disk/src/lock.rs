//! A lock that one process at a time can hold.

use std::{fs::File, io, path::Path};

use rustix::fs::{FlockOperation, flock};

/// Holds a folder for this process. The kernel frees it when the value is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
}

impl FolderLock {
    /// Takes the lock file, which is made when there is none; returns `None` when another process holds it.
    pub fn take(path: &Path) -> io::Result<Option<Self>> {
        #[expect(clippy::disallowed_methods, reason = "a lock file holds nothing")]
        let file = File::create(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // To close the file is not enough: a child that another thread has forked, and that is no other program yet, has it open.
        let _closed_in_any_case = flock(&self.file, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FolderLock::take(&path).unwrap();
        assert!(held.is_some());
        assert!(FolderLock::take(&path).unwrap().is_none());
        // As a forked child has it.
        let _open_elsewhere = held.as_ref().unwrap().file.try_clone().unwrap();
        drop(held);
        assert!(FolderLock::take(&path).unwrap().is_some());
    }
}
