//! The component's data folder: how much is in it, and that it does not get more than its package asks for.
//!
//! Linux limits the size of a folder only with quotas of the file system, which need root and a mount option. So the runner
//! counts: everything that makes a file longer or makes a new entry goes through [`Counted`], which refuses with "no space" what
//! does not fit. A file counts its length, and each entry [`ENTRY`] more, because empty files take space as well. Something
//! that was deleted counts again once the space is needed: then the folder is looked through.
//!
//! Nothing leaves the folder: wasmtime resolves each path below the opened folder, with `openat2`, links and `..` included.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::{
    async_trait,
    filesystem::{Descriptor, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult, OutputStream, Pollable, StreamError, StreamResult,
        bindings::filesystem::types::{self, ErrorCode, HostDescriptor, HostDirectoryEntryStream},
    },
};

/// What an entry of a folder counts beside its length: a block of the file system.
const ENTRY: u64 = 4096;

/// The data folder of a workload, with its size.
pub struct DataFolder {
    path: PathBuf,
    limit: u64,
    used: Mutex<Used>,
}

struct Used {
    /// Never less than what is there.
    bytes: u64,
    /// Whether it may be less, because something was deleted since the folder was looked through.
    may_be_less: bool,
}

impl DataFolder {
    /// Opens the folder, which is made when it is missing. It is looked through before the first byte is written and not now,
    /// because the runner before this one may still write.
    pub fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        disk::make_private_folder(&path)?;
        let used = Mutex::new(Used { bytes: u64::MAX, may_be_less: true });
        Ok(Self { path, limit, used })
    }

    /// Returns where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes so many bytes of what is left; returns whether there were so many.
    fn take(&self, bytes: u64) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |used: &Used| used.bytes.checked_add(bytes).is_some_and(|sum| sum <= self.limit);
        if !fits(&used) && used.may_be_less {
            *used = Used { bytes: size_of(&self.path), may_be_less: false };
        }
        let taken = bytes == 0 || fits(&used);
        if taken {
            used.bytes = used.bytes.saturating_add(bytes);
        }
        taken
    }

    fn deleted(&self) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).may_be_less = true;
    }
}

/// What is in a folder, and below it. One that cannot be looked through, because it is deeper than a path may be long, counts as
/// full.
fn size_of(folder: &Path) -> u64 {
    let (mut sum, mut folders) = (0u64, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        let Ok(entries) = entries else { return u64::MAX };
        for entry in entries {
            // Not of what a link points to.
            let Ok(metadata) = entry.metadata() else { return u64::MAX };
            let length = if metadata.is_dir() { 0 } else { metadata.len() };
            sum = sum.saturating_add(ENTRY).saturating_add(length);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    sum
}

/// The interface `wasi:filesystem/types` with limits.
pub struct Files;

impl HasData for Files {
    type Data<'a> = Counted<'a>;
}

/// The files of one instance. Without a data folder it has none at all.
pub struct Counted<'a> {
    pub data: Option<Arc<DataFolder>>,
    pub files: WasiFilesystemCtxView<'a>,
}

impl Counted<'_> {
    fn take(&self, bytes: u64) -> FsResult<()> {
        match &self.data {
            Some(data) if !data.take(bytes) => Err(ErrorCode::InsufficientSpace.into()),
            _ => Ok(()),
        }
    }

    fn deleted(&self) {
        if let Some(data) = &self.data {
            data.deleted();
        }
    }

    fn file(&self, fd: &Resource<Descriptor>) -> FsResult<Option<Arc<fs::File>>> {
        Ok(match self.files.table.get(fd)? {
            Descriptor::File(file) => Some(file.file.clone()),
            Descriptor::Dir(_) => None,
        })
    }

    /// Has every byte counted that makes the file longer, from this position on or, without one, at its end.
    fn count(
        &mut self,
        fd: &Resource<Descriptor>,
        stream: Resource<DynOutputStream>,
        position: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        if let (Some(data), Some(file)) = (self.data.clone(), self.file(fd)?) {
            let place = self.files.table.get_mut(&stream)?;
            let nothing: DynOutputStream = Box::new(wasmtime_wasi::p2::pipe::ClosedOutputStream);
            let stream = std::mem::replace(place, nothing);
            *place = Box::new(CountedStream { stream, file, position, counted: 0, data });
        }
        Ok(stream)
    }
}

/// A stream into a file of the data folder.
struct CountedStream {
    stream: DynOutputStream,
    file: Arc<fs::File>,
    /// Where the next byte goes; `None` when that is the end of the file.
    position: Option<u64>,
    /// Up to where this stream has counted. What was written before may still be under way.
    counted: u64,
    data: Arc<DataFolder>,
}

impl CountedStream {
    fn take(&mut self, bytes: usize) -> StreamResult<()> {
        let failed = |error: io::Error| StreamError::LastOperationFailed(error.into());
        let length = self.file.metadata().map_err(failed)?.len().max(self.counted);
        let end = self.position.unwrap_or(length).saturating_add(bytes as u64);
        if !self.data.take(end.saturating_sub(length)) {
            return Err(failed(io::Error::from(rustix::io::Errno::NOSPC)));
        }
        self.counted = end.max(length);
        self.position = self.position.map(|_| end);
        Ok(())
    }
}

#[async_trait]
impl Pollable for CountedStream {
    async fn ready(&mut self) {
        self.stream.ready().await;
    }
}

#[async_trait]
impl OutputStream for CountedStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(bytes.len())?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.stream.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.stream.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(bytes.len())?;
        self.stream.blocking_write_and_flush(bytes).await
    }

    async fn cancel(&mut self) {
        self.stream.cancel().await;
    }
}

impl types::Host for Counted<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.files, error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        types::Host::filesystem_error_code(&mut self.files, error)
    }
}

/// Passes on to wasmtime what needs no space.
macro_rules! pass_on {
    ($( $method:ident($($argument:ident: $kind:ty),*) -> $answer:ty; )*) => {
        $( async fn $method(&mut self, fd: Resource<Descriptor>, $($argument: $kind),*) -> $answer {
            self.files.$method(fd, $($argument),*).await
        } )*
    };
}

impl HostDescriptor for Counted<'_> {
    pass_on! {
        advise(offset: u64, length: u64, advice: types::Advice) -> FsResult<()>;
        sync_data() -> FsResult<()>;
        get_flags() -> FsResult<types::DescriptorFlags>;
        get_type() -> FsResult<types::DescriptorType>;
        set_times(access: types::NewTimestamp, modification: types::NewTimestamp) -> FsResult<()>;
        read(length: u64, offset: u64) -> FsResult<(Vec<u8>, bool)>;
        read_directory() -> FsResult<Resource<types::DirectoryEntryStream>>;
        sync() -> FsResult<()>;
        stat() -> FsResult<types::DescriptorStat>;
        stat_at(flags: types::PathFlags, path: String) -> FsResult<types::DescriptorStat>;
        set_times_at(
            flags: types::PathFlags, path: String, access: types::NewTimestamp, modification: types::NewTimestamp
        ) -> FsResult<()>;
        readlink_at(path: String) -> FsResult<String>;
        is_same_object(other: Resource<Descriptor>) -> wasmtime::Result<bool>;
        metadata_hash() -> FsResult<types::MetadataHashValue>;
        metadata_hash_at(flags: types::PathFlags, path: String) -> FsResult<types::MetadataHashValue>;
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        if let Some(file) = self.file(&fd)? {
            let length = file.metadata()?.len();
            self.take(size.saturating_sub(length))?;
            if size < length {
                self.deleted();
            }
        }
        self.files.set_size(fd, size).await
    }

    async fn write(&mut self, fd: Resource<Descriptor>, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        if let Some(file) = self.file(&fd)? {
            let end = offset.saturating_add(bytes.len() as u64);
            self.take(end.saturating_sub(file.metadata()?.len()))?;
        }
        self.files.write(fd, bytes, offset).await
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.take(ENTRY)?;
        self.files.create_directory_at(fd, path).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_flags: types::PathFlags,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        // By both names the file counts when the folder is looked through.
        let of = Resource::new_borrow(fd.rep());
        let length = self.files.stat_at(of, old_flags, old_path.clone()).await.map_or(0, |stat| stat.size);
        self.take(length.saturating_add(ENTRY))?;
        self.files.link_at(fd, old_flags, old_path, new_fd, new_path).await
    }

    async fn symlink_at(&mut self, fd: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
        self.take(ENTRY.saturating_add(target.len() as u64))?;
        self.files.symlink_at(fd, target, path).await
    }

    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
        how: types::OpenFlags,
        mode: types::DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let of = Resource::new_borrow(fd.rep());
        if how.contains(types::OpenFlags::CREATE) && self.files.stat_at(of, flags, path.clone()).await.is_err() {
            self.take(ENTRY)?;
        }
        if how.contains(types::OpenFlags::TRUNCATE) {
            self.deleted();
        }
        self.files.open_at(fd, flags, path, how, mode).await
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.deleted();
        self.files.remove_directory_at(fd, path).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        // What had the new name is gone.
        self.deleted();
        self.files.rename_at(fd, old_path, new_fd, new_path).await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.deleted();
        self.files.unlink_file_at(fd, path).await
    }

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: u64) -> FsResult<Resource<DynInputStream>> {
        self.files.read_via_stream(fd, offset)
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        let of = Resource::new_borrow(fd.rep());
        let stream = self.files.write_via_stream(fd, offset)?;
        self.count(&of, stream, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        let of = Resource::new_borrow(fd.rep());
        let stream = self.files.append_via_stream(fd)?;
        self.count(&of, stream, None)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.files, fd)
    }
}

impl HostDirectoryEntryStream for Counted<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<types::DirectoryEntryStream>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        self.files.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<types::DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.files, stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_counts_and_what_was_deleted_does_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data = DataFolder::open(path.clone(), 20_000).unwrap();
        assert!(data.take(0));
        fs::create_dir(path.join("a")).unwrap();
        fs::write(path.join("a/b"), [0; 5_000]).unwrap();
        std::os::unix::fs::symlink("/usr/bin/env", path.join("link")).unwrap();
        let used = 3 * ENTRY + 5_000 + "/usr/bin/env".len() as u64;

        // The next runner finds it, though it has counted nothing of it itself.
        let data_again = DataFolder::open(path.clone(), 20_000).unwrap();
        assert!(!data_again.take(20_000 - used + 1));
        assert!(data_again.take(20_000 - used) && !data_again.take(1) && data_again.take(0));

        assert!(data.take(20_000) && !data.take(1), "it has counted this itself, and nothing was deleted");
        fs::remove_dir_all(path.join("a")).unwrap();
        data.deleted();
        assert!(data.take(20_000 - ENTRY - "/usr/bin/env".len() as u64));
        assert!(!data.take(1));
    }
}
