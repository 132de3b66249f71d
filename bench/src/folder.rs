//! Where everything that is measured keeps its data.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;

/// Makes a folder in which all folders of this run are made: in `parent`, else beside the programs. It goes with the returned value.
///
/// It is not the system's folder for temporary files, which may be memory. And folders in it begin far from each other:
/// ext4 gives a file an inode near its folder, but none that was freed within the last five minutes, so that a file made
/// where the run before has deleted thousands takes thirty times as long (0.57 ms instead of 0.02 ms on the machine of
/// the figures). Other file systems do not know the flag, and need not.
pub fn for_this_run(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let program = std::env::current_exe().context("asking for the path of this program")?;
    let parent = parent.or(program.parent()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix("bench-data-").tempdir_in(parent);
    let folder = folder.with_context(|| format!("making a folder in {}", parent.display()))?;
    let opened = File::open(folder.path()).with_context(|| format!("opening {}", folder.path().display()))?;
    if let Err(error) = ioctl_getflags(&opened).and_then(|flags| ioctl_setflags(&opened, flags | IFlags::TOPDIR)) {
        eprintln!("bench: folders are not spread over the disk: {error}");
    }
    tempfile::env::override_temp_dir(folder.path()).map_err(|set| anyhow!("{} was set before", set.display()))?;
    Ok(folder)
}

/// What kind of file system a folder lies on, as far as it tells: syncs cost another time on each.
pub fn file_system(folder: &Path) -> Option<String> {
    let (folder, mounts) = (folder.canonicalize().ok()?, fs::read_to_string("/proc/self/mountinfo").ok()?);
    let (kind, source) = mount_of(&folder, &mounts)?;
    let device = Path::new(source).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // The kernel tells of each journal of ext4 below this name.
    let has_journal = || fs::exists(format!("/proc/fs/jbd2/{device}-8")).unwrap_or(true);
    Some(if kind == "ext4" && !has_journal() { "ext4 without a journal".to_owned() } else { kind.to_owned() })
}

/// The kind and the source of the file system that holds a folder.
fn mount_of<'a>(folder: &Path, mounts: &'a str) -> Option<(&'a str, &'a str)> {
    let found = mounts.lines().filter_map(|line| {
        let (mount, about) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?);
        let mut words = about.split(' ');
        folder.starts_with(&point).then_some((point.components().count(), (words.next()?, words.next()?)))
    });
    // Of two at one place the later one is seen.
    found.max_by_key(|(depth, _)| *depth).map(|(_, about)| about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_that_of_the_deepest_mount() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                      46 27 7:0 / /data rw - xfs /dev/loop0 rw\n\
                      47 27 0:5 / /data/tmp rw shared:1 - tmpfs tmpfs rw\n\
                      48 27 7:1 / /data rw - btrfs /dev/loop1 rw\n";
        let found = |folder: &str| mount_of(Path::new(folder), mounts).unwrap();
        assert_eq!(found("/home"), ("ext4", "/dev/vda"));
        assert_eq!(found("/data/a"), ("btrfs", "/dev/loop1"));
        assert_eq!(found("/data/tmp/a"), ("tmpfs", "tmpfs"));
        assert_eq!(found("/database"), ("ext4", "/dev/vda"));
        assert!(file_system(Path::new(".")).is_some());
    }
}
