//! Where runtimes keep what they have of their workloads: one folder for each, by a name that follows from the workload.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::WorkloadId;

/// Returns the path of a workload's folder below the folder of its runtime.
pub fn folder_of(root: &Path, id: &WorkloadId) -> PathBuf {
    // Neither part may hold a dot.
    root.join(format!("{}.{}", id.deployment, id.component))
}

/// Returns the paths of all folders that there are below the folder of a runtime, whosever they are.
pub fn folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root)?.map(|entry| Ok(entry?.path()));
    entries.filter(|path| path.as_ref().map_or(true, |path| path.is_dir())).collect()
}
