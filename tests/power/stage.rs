//! A file system on a disk that forgets: ext4, on a loop device, on a file that this process serves (FUSE).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;

/// The disk cannot be made here, so nothing was shown.
pub struct NotRun(pub String);

/// What has to be there.
pub fn needed() -> Result<(), NotRun> {
    if !geteuid().is_root() {
        return Err(NotRun("a disk that forgets needs root".to_owned()));
    }
    for path in ["/dev/fuse", "/dev/loop-control"] {
        fs::metadata(path).map_err(|error| NotRun(format!("{path}: {error}")))?;
    }
    for program in ["losetup", "mkfs.ext4", "mount", "umount"] {
        let found = Command::new(program).arg("--version").output();
        let old = Command::new(program).arg("-V").output();
        found.or(old).map_err(|error| NotRun(format!("running {program}: {error}")))?;
    }
    Ok(())
}

/// Makes an image with an empty file system.
pub fn format(image: &Path, size: u64) -> Result<(), NotRun> {
    fs::File::create(image).and_then(|file| file.set_len(size)).unwrap();
    let mut format = Command::new("mkfs.ext4");
    run(format.args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(image)).map(drop)
}

/// A file system of an image that is mounted. It ends with this value.
pub struct Mounted {
    device: String,
    pub folder: PathBuf,
}

impl Mounted {
    pub fn new(image: &Path, folder: &Path) -> Result<Self, NotRun> {
        fs::create_dir_all(folder).unwrap();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(image))?.trim().to_owned();
        let mounted = Self { device, folder: folder.to_owned() };
        run(Command::new("mount").arg(&mounted.device).arg(folder))?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What was not mounted is not unmounted, and there is nothing to be done about either.
        let _ = Command::new("umount").arg(&self.folder).output();
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
