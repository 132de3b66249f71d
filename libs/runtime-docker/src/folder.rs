//! The folder of one workload: all that an agent keeps of it, so that the next one goes on.
//!
//! **Layout.** The name of a revision is the digest of its document.
//!
//! ```text
//! in-force.json                        what is in force, and whether all of it was applied
//! revisions/<hex>/revision.json        a revision that is complete
//! revisions/<hex>/compose.json         the file that docker compose is given; parameters stand in it
//! revisions/<hex>/files/               what the archive holds: the project's folder
//! ```
//!
//! **Updates.** A revision is made beside the one in force; its `revision.json` is written last. It comes into force by a
//! rename, before anything that runs is touched. When `docker compose` has succeeded, `in-force.json` says so and other
//! revisions are removed.
//!
//! **After a crash.** What is in force and was not applied to its end is applied again. Revisions that are not in force were
//! prepared by an earlier life, and go. A folder without `in-force.json` is a leftover and goes whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use disk::{read_optional, remove_folder_if_there, remove_if_there};
use margo::Digest;
use runtime::WorkloadId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::revision::Volumes;

const IN_FORCE: &str = "in-force.json";
const REVISION: &str = "revision.json";
const REVISIONS: &str = "revisions";

/// A revision of a workload, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    pub workload: WorkloadId,
    /// The sha256 of the deployment's document.
    pub digest: Digest,
    pub services: BTreeMap<String, ServiceSpec>,
    /// The names that its images have in the engine.
    pub images: BTreeSet<String>,
    /// The ports of the host that it takes.
    pub ports: BTreeSet<u16>,
    pub volumes: Volumes,
}

/// What is to be seen of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// What its containers carry as a label.
    pub revision: String,
    /// How many containers it has.
    pub replicas: u32,
    /// Whether it does something and ends.
    pub is_job: bool,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Whether `docker compose` has succeeded with it.
    pub applied: bool,
    pub revision: Revision,
}

/// The folder of one workload.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder of this workload.
    pub fn of(root: &Path, id: &WorkloadId) -> Self {
        Self(runtime::folder_of(root, id))
    }

    /// Returns all folders there are.
    pub fn list(root: &Path) -> io::Result<Vec<Self>> {
        Ok(runtime::folders(root)?.into_iter().map(Self).collect())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the folder of a revision.
    pub fn revision(&self, digest: &Digest) -> PathBuf {
        self.0.join(REVISIONS).join(digest.hex())
    }

    /// Returns the file that `docker compose` is given for a revision.
    pub fn compose_file(&self, digest: &Digest) -> PathBuf {
        self.revision(digest).join("compose.json")
    }

    /// Returns the folder of the project of a revision.
    pub fn files(&self, digest: &Digest) -> PathBuf {
        self.revision(digest).join("files")
    }

    /// Returns what is in force; `None` in a leftover. A file that does not read is an error of the kind `InvalidData`.
    pub fn in_force(&self) -> io::Result<Option<InForce>> {
        read_json(&self.0.join(IN_FORCE))
    }

    /// Tells whether something is in force, also when this version cannot read what.
    pub fn has_in_force(&self) -> bool {
        self.0.join(IN_FORCE).exists()
    }

    /// Returns a revision that is complete.
    pub fn prepared(&self, digest: &Digest) -> io::Result<Option<Revision>> {
        read_json(&self.revision(digest).join(REVISION))
    }

    /// Makes the empty folders of a revision, and removes what an earlier attempt left.
    pub fn begin(&self, digest: &Digest) -> io::Result<()> {
        let revision = self.revision(digest);
        remove_folder_if_there(&revision)?;
        disk::make_private_folder(&revision)?;
        disk::make_private_folder(&self.files(digest))
    }

    /// Says that a revision is complete, with its file for `docker compose`.
    pub fn finish(&self, revision: &Revision, compose: &str) -> io::Result<()> {
        disk::write_private(&self.compose_file(&revision.digest), compose.as_bytes())?;
        let path = self.revision(&revision.digest).join(REVISION);
        disk::write_private(&path, &serde_json::to_vec_pretty(revision)?)
    }

    /// Writes what is in force.
    pub fn enforce(&self, in_force: &InForce) -> io::Result<()> {
        disk::write_private(&self.0.join(IN_FORCE), &serde_json::to_vec_pretty(in_force)?)
    }

    /// Removes every revision but these.
    pub fn retain(&self, kept: &[Digest]) -> io::Result<()> {
        let kept: BTreeSet<_> = kept.iter().map(Digest::hex).collect();
        let entries = match fs::read_dir(self.0.join(REVISIONS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(name)) {
                // Its file first: what is half removed counts as absent.
                remove_if_there(&entry.path().join(REVISION))?;
                remove_folder_if_there(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Returns the names that the images of all complete revisions have in the engine.
    pub fn images(&self) -> io::Result<BTreeSet<String>> {
        let entries = match fs::read_dir(self.0.join(REVISIONS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries?,
        };
        let mut images = BTreeSet::new();
        for entry in entries {
            // One that does not read is removed all the same.
            if let Ok(Some(revision)) = read_json::<Revision>(&entry?.path().join(REVISION)) {
                images.extend(revision.images);
            }
        }
        Ok(images)
    }

    /// Removes everything, what is in force first.
    pub fn delete(&self) -> io::Result<()> {
        remove_if_there(&self.0.join(IN_FORCE))?;
        if self.0.exists() {
            disk::sync(&self.0)?;
        }
        remove_folder_if_there(&self.0)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).map(Some).map_err(invalid)
}
