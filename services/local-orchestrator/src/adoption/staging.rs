//! Two folders of messages as they came: what is staged, and what is in force.
//!
//! Each message is one file named after its subject: a line with the trace it came in, then the exact bytes. A staged file
//! is replaced by rename and never changed, so a set comes into force as hard links to the staged files in a folder of
//! its own, named by the version, that appears whole.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use bus::Subject;
use margo::ManifestVersion;

use crate::files;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The trace it came in.
    pub traceparent: Option<String>,
    pub payload: Vec<u8>,
}

impl Parcel {
    fn from_file(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let trace = std::str::from_utf8(&bytes[..end]).ok()?;
        let traceparent = (!trace.is_empty()).then(|| trace.to_owned());
        Some(Self { traceparent, payload: bytes[end + 1..].to_vec() })
    }
}

/// Messages with their subjects.
pub type Parcels = Vec<(Subject, Parcel)>;

/// What a folder holds. A file that is no message is left out: what is missing is noticed by the list.
fn load(folder: &Path) -> io::Result<Parcels> {
    let mut parcels = Vec::new();
    for name in files::names(folder)? {
        let bytes = fs::read(folder.join(&name))?;
        if let (Ok(subject), Some(parcel)) = (name.parse(), Parcel::from_file(&bytes)) {
            parcels.push((subject, parcel));
        }
    }
    Ok(parcels)
}

/// What has come and may come into force.
#[derive(Clone)]
pub struct Staging(PathBuf);

impl Staging {
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Stages messages; they are on disk when this returns.
    pub fn put(&self, parcels: &[(Subject, Parcel)]) -> io::Result<()> {
        let files = parcels.iter().map(|(subject, parcel)| {
            let trace = parcel.traceparent.as_deref().unwrap_or_default().as_bytes();
            (subject.to_string(), vec![trace, b"\n".as_slice(), parcel.payload.as_slice()])
        });
        files::write_all(&self.0, files)
    }

    pub fn load(&self) -> io::Result<Parcels> {
        load(&self.0)
    }

    pub fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            fs::remove_file(entry?.path())?;
        }
        File::open(&self.0)?.sync_all()
    }
}

/// What is in force.
#[derive(Clone)]
pub struct Adopted(PathBuf);

impl Adopted {
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Takes staged messages over as the set of this version, durably, and forgets earlier sets.
    pub fn take(&self, staging: &Staging, version: ManifestVersion, subjects: &[Subject]) -> io::Result<()> {
        let name = version.to_string();
        let (unfinished, finished) = (self.0.join(format!("{name}~")), self.0.join(&name));
        for leftover in [&unfinished, &finished] {
            match fs::remove_dir_all(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::create_dir(&unfinished)?;
        for subject in subjects {
            let name = subject.to_string();
            fs::hard_link(staging.0.join(&name), unfinished.join(&name))?;
        }
        File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &finished)?;
        File::open(&self.0)?.sync_all()?;
        for earlier in self.versions()?.into_iter().filter(|earlier| *earlier < version) {
            fs::remove_dir_all(self.0.join(earlier.to_string()))?;
        }
        Ok(())
    }

    /// The set in force with its version; `None` before the first.
    pub fn load(&self) -> io::Result<Option<(ManifestVersion, Parcels)>> {
        let Some(version) = self.versions()?.into_iter().max() else { return Ok(None) };
        Ok(Some((version, load(&self.0.join(version.to_string()))?)))
    }

    /// One message of the set in force.
    pub fn read(&self, version: ManifestVersion, subject: &Subject) -> io::Result<Parcel> {
        let path = self.0.join(version.to_string()).join(subject.to_string());
        Parcel::from_file(&fs::read(&path)?)
            .ok_or_else(|| io::Error::other(format!("{} is no message", path.display())))
    }

    fn versions(&self) -> io::Result<Vec<ManifestVersion>> {
        let names = files::names(&self.0)?;
        let number = |name: &String| name.parse::<u64>().ok()?.try_into().ok();
        Ok(names.iter().filter_map(number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn parcel(payload: &str) -> Parcel {
        Parcel { traceparent: Some("00-1-2-01".to_owned()), payload: payload.into() }
    }

    #[test]
    fn what_is_in_force_stays_when_staging_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::open(folder.path().join("staging")).unwrap();
        let adopted = Adopted::open(folder.path().join("adopted")).unwrap();
        let (head, node) = (subject("desired.plant.head"), subject("desired.plant.node.press"));
        staging.put(&[(head.clone(), parcel("head 1")), (node.clone(), parcel("a\nb"))]).unwrap();
        let first = ManifestVersion::FIRST;
        adopted.take(&staging, first, &[head.clone(), node.clone()]).unwrap();
        staging.put(&[(head.clone(), parcel("head 2"))]).unwrap();
        assert_eq!(adopted.read(first, &head).unwrap(), parcel("head 1"));
        staging.clear().unwrap();
        assert!(staging.load().unwrap().is_empty());
        let (version, set) = adopted.load().unwrap().unwrap();
        assert_eq!((version, set), (first, vec![(head.clone(), parcel("head 1")), (node, parcel("a\nb"))]));

        staging.put(&[(head.clone(), Parcel { traceparent: None, payload: b"head 2".into() })]).unwrap();
        let second = first.next().unwrap();
        adopted.take(&staging, second, std::slice::from_ref(&head)).unwrap();
        let (version, set) = adopted.load().unwrap().unwrap();
        assert_eq!((version, set.len(), set[0].1.traceparent.clone()), (second, 1, None));
        assert!(adopted.read(first, &head).is_err());
    }

    #[test]
    fn a_set_that_was_half_taken_over_does_not_exist() {
        let folder = tempfile::tempdir().unwrap();
        let adopted = Adopted::open(folder.path().to_owned()).unwrap();
        fs::create_dir(folder.path().join("7~")).unwrap();
        assert!(adopted.load().unwrap().is_none());
    }
}
