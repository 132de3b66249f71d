//! A file in a file system of this process (FUSE), on which a loop device stands: the disk that forgets.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use end_to_end::random::Random;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite, Request, WriteFlags,
};

use crate::{stage::NotRun, volatile::Volatile};

const DISK: INodeNo = INodeNo(2);
const NAME: &str = "disk";

/// How long the kernel may keep what it was told of the two files.
const KEPT: Duration = Duration::from_secs(3600);

/// A disk that is served. It ends with this value.
pub struct Served {
    folder: PathBuf,
    disk: Arc<Mutex<Volatile>>,
    _session: BackgroundSession,
}

struct Files(Arc<Mutex<Volatile>>);

impl Served {
    /// Serves the disk of an image in a folder.
    pub fn new(image: &Path, folder: &Path) -> Result<Self, NotRun> {
        std::fs::create_dir_all(folder).unwrap();
        let disk = Arc::new(Mutex::new(Volatile::over(image).unwrap()));
        let session = fuser::spawn_mount(Files(disk.clone()), folder, &Config::default());
        let session = session.map_err(|error| NotRun(format!("mounting a file system of this process: {error}")))?;
        Ok(Self { folder: folder.to_owned(), disk, _session: session })
    }

    pub fn disk(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// Cuts the power as [`Volatile::cut_after`].
    pub fn cut_after(&self, operations: u64) {
        lock(&self.disk).cut_after(operations);
    }

    pub fn is_off(&self) -> bool {
        lock(&self.disk).is_off()
    }

    /// Ends the disk, and puts what is left of it into its image as [`Volatile::leave`].
    pub fn leave(self, random: &mut Random) -> (usize, usize) {
        let Self { disk, _session, .. } = self;
        drop(_session);
        lock(&disk).leave(random).unwrap()
    }
}

fn lock(disk: &Mutex<Volatile>) -> MutexGuard<'_, Volatile> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attributes(disk: &Volatile, ino: INodeNo) -> FileAttr {
    let (kind, size) = if ino == DISK { (FileType::RegularFile, disk.size()) } else { (FileType::Directory, 0) };
    FileAttr {
        ino,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&KEPT, &attributes(&lock(&self.0), DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEPT, &attributes(&lock(&self.0), ino));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).read(offset, size as usize) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.0).write(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match lock(&self.0).sync() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }
}
