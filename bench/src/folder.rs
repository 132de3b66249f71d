//! Where everything that is measured keeps its data.

use std::{fs::File, path::Path};

use anyhow::{Context, anyhow};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use tempfile::TempDir;

/// Makes a folder, on the disk of the programs, in which all folders of this run are made. It goes with the returned value.
///
/// It is not the system's folder for temporary files, which may be memory. And folders in it begin far from each other:
/// ext4 gives a file an inode near its folder, but none that was freed within the last five minutes, so that a file made
/// where the run before has deleted thousands takes thirty times as long (0.57 ms instead of 0.02 ms on the machine of
/// the figures). Other file systems do not know the flag, and need not.
pub fn for_this_run() -> anyhow::Result<TempDir> {
    let program = std::env::current_exe().context("asking for the path of this program")?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix("bench-data-").tempdir_in(beside);
    let folder = folder.with_context(|| format!("making a folder in {}", beside.display()))?;
    let opened = File::open(folder.path()).with_context(|| format!("opening {}", folder.path().display()))?;
    if let Err(error) = ioctl_getflags(&opened).and_then(|flags| ioctl_setflags(&opened, flags | IFlags::TOPDIR)) {
        eprintln!("bench: folders are not spread over the disk: {error}");
    }
    tempfile::env::override_temp_dir(folder.path()).map_err(|set| anyhow!("{} was set before", set.display()))?;
    Ok(folder)
}
