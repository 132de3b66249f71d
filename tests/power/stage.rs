//! A file system on a disk that forgets, on a loop device, on a file that this process serves (FUSE).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;

/// The disk cannot be made here, so nothing was shown.
pub struct NotRun(pub String);

/// What stands on the disk. They differ in what else one sync puts on the disk: on ext4 that is every name that was given
/// before; on btrfs it is hardly more than the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Btrfs,
}

impl FileSystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
        }
    }
}

/// What has to be there.
pub fn needed() -> Result<(), NotRun> {
    if !geteuid().is_root() {
        return Err(NotRun("a disk that forgets needs root".to_owned()));
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        fs::metadata(path).map_err(|error| NotRun(format!("{path}: {error}")))?;
    }
    for program in ["losetup", "mount", "umount"] {
        let found = Command::new(program).arg("--version").output();
        let old = Command::new(program).arg("-V").output();
        found.or(old).map_err(|error| NotRun(format!("running {program}: {error}")))?;
    }
    Ok(())
}

/// Makes an image with an empty file system.
pub fn format(image: &Path, size: u64, file_system: FileSystem) -> Result<(), NotRun> {
    fs::File::create(image).and_then(|file| file.set_len(size)).unwrap();
    let mut format = Command::new(format!("mkfs.{}", file_system.name()));
    format.arg("-q");
    if file_system == FileSystem::Ext4 {
        format.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    }
    run(format.arg(image)).map(drop)
}

/// A file system of an image that is mounted. It ends with this value.
pub struct Mounted {
    device: String,
    pub folder: PathBuf,
}

impl Mounted {
    pub fn new(image: &Path, folder: &Path, file_system: FileSystem) -> Result<Self, NotRun> {
        fs::create_dir_all(folder).unwrap();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(image))?.trim().to_owned();
        let mounted = Self { device, folder: folder.to_owned() };
        let mut mount = Command::new("mount");
        mount.args(["-t", file_system.name()]);
        if file_system == FileSystem::Ext4 {
            // Otherwise it writes the content of files early that take the place of others, and hides that a sync is missing.
            mount.args(["-o", "noauto_da_alloc"]);
        }
        run(mount.arg(&mounted.device).arg(folder))?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What was not mounted is not unmounted, and there is nothing to be done about either.
        let unmounted = Command::new("umount").arg(&self.folder).output();
        if !unmounted.is_ok_and(|output| output.status.success()) {
            // A test that failed has left a program there. Its disk must not stay in the way of other tests.
            let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
        }
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}

fn run(command: &mut Command) -> Result<String, NotRun> {
    let ended = command.output().map_err(|error| NotRun(format!("running {command:?}: {error}")))?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
    }
    Err(NotRun(format!("{command:?}: {}", String::from_utf8_lossy(&ended.stderr).trim())))
}
