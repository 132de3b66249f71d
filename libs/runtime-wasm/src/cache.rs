//! The compiled code that runners keep for each other: what no workload may start any more goes.
//!
//! The names in the cache begin with the sha256 of the component (`wasm-runner/src/artifact.rs`). A workload may start the component
//! in force, the one that is prepared, and the one before, to which a failed update goes back.

use std::{collections::BTreeSet, fs, io, path::Path};

use margo::Digest;

use crate::folder::Folder;

/// Removes the code of components that no workload in these folders may start; returns how many files went. While nothing is
/// known of one of the workloads, everything stays. Nobody may prepare a revision meanwhile. Blocks.
pub fn prune(cache: &Path, workloads: &Path) -> io::Result<usize> {
    let used = used(workloads)?;
    let mut gone = 0;
    for entry in fs::read_dir(cache)? {
        let name = entry?.file_name();
        let component = name.to_str().and_then(|name| name.split_once('-')).map(|(component, _)| component);
        // What has another name is not ours.
        let component = component.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        if component.is_some_and(|component| !used.contains(&component)) {
            disk::remove_if_there(&cache.join(&name))?;
            gone += 1;
        }
    }
    Ok(gone)
}

fn used(workloads: &Path) -> io::Result<BTreeSet<Digest>> {
    let mut used = BTreeSet::new();
    for folder in Folder::list(workloads)? {
        // In this order: what is prepared may be put in force in between.
        for spec in [folder.next_spec()?, folder.spec()?].into_iter().flatten() {
            used.extend([Some(spec.artifact_digest), spec.before].into_iter().flatten());
        }
    }
    Ok(used)
}
