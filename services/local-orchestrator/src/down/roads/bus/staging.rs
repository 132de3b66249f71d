//! What has come over the bus and waits for the rest.
//!
//! **Layout.** Each message is one file named after its subject: a line with the trace it came in, then the exact
//! bytes. Most orders never come here: what is whole when it arrives goes into force directly.
//!
//! **Updates.** A newer message replaces the file by rename. Messages that came together are synced together. What is
//! no longer waited for is removed.
//!
//! **After a crash.** A message is there whole or not at all; one that is lost is noticed, because the list is then not
//! the head's. One that was removed may come back, and is compared with what is in force like any other.

use std::{fs, io, path::PathBuf};

use bus::Subject;
use bytes::Bytes;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The trace that it came in (`traceparent`).
    pub trace: Option<String>,
    /// The bytes of the message, exactly as they came.
    pub payload: Bytes,
}

impl Parcel {
    fn from_file(bytes: Vec<u8>) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let trace = std::str::from_utf8(&bytes[..end]).ok()?;
        let trace = (!trace.is_empty()).then(|| trace.to_owned());
        Some(Self { trace, payload: Bytes::from(bytes).slice(end + 1..) })
    }
}

/// The folder of the messages that wait. Every call blocks.
#[derive(Clone)]
pub struct Staging(PathBuf);

impl Staging {
    /// Opens the folder, and makes it when there is none.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        disk::make_private_folder(&folder)?;
        Ok(Self(folder))
    }

    /// Stages messages; they are on the disk when this returns.
    pub fn put(&self, parcels: &[(Subject, Parcel)]) -> io::Result<()> {
        let files = parcels.iter().map(|(subject, parcel)| {
            let trace = parcel.trace.as_deref().unwrap_or_default().as_bytes();
            (subject.to_string(), vec![trace, b"\n".as_slice(), &parcel.payload])
        });
        disk::write_all_private(&self.0, files)
    }

    /// Everything that is staged. A file that is no message is left out.
    pub fn load(&self) -> io::Result<Vec<(Subject, Parcel)>> {
        let mut parcels = Vec::new();
        for name in disk::names(&self.0)? {
            if let Ok(subject) = name.parse()
                && let Some(parcel) = self.read(&subject)?
            {
                parcels.push((subject, parcel));
            }
        }
        Ok(parcels)
    }

    /// One message; `None` when it is not there or is no message.
    pub fn read(&self, subject: &Subject) -> io::Result<Option<Parcel>> {
        Ok(disk::read_optional(&self.0.join(subject.to_string()))?.and_then(Parcel::from_file))
    }

    /// Removes every file but the messages of these subjects. Not durable: a message that comes back after a power cut
    /// is compared with what is in force like any other.
    pub fn keep_only(&self, keep: impl Fn(&Subject) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if !entry.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|subject| keep(&subject)) {
                disk::remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn parcel(payload: &str) -> Parcel {
        Parcel { trace: Some("00-1-2-01".to_owned()), payload: payload.to_owned().into() }
    }

    #[test]
    fn what_is_staged_stays_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::open(folder.path().join("staging")).unwrap();
        let (head, node) = (subject("desired.plant.head"), subject("desired.plant.node.press"));
        staging.put(&[(head.clone(), parcel("head 1")), (node.clone(), parcel("a\nb"))]).unwrap();
        let untraced = Parcel { trace: None, payload: "head 2".into() };
        staging.put(&[(head.clone(), untraced.clone())]).unwrap();
        assert_eq!(staging.load().unwrap(), [(head.clone(), untraced), (node.clone(), parcel("a\nb"))]);
        staging.keep_only(|subject| *subject == node).unwrap();
        assert_eq!(staging.load().unwrap(), [(node.clone(), parcel("a\nb"))]);
        assert_eq!(staging.read(&node).unwrap(), Some(parcel("a\nb")));
        assert_eq!(staging.read(&head).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_as_good_as_lost() {
        let folder = tempfile::tempdir().unwrap();
        let staging = Staging::open(folder.path().to_owned()).unwrap();
        fs::write(folder.path().join("desired.plant.head"), "no line end").unwrap();
        fs::write(folder.path().join("no subject"), "\n").unwrap();
        assert!(staging.load().unwrap().is_empty());
        staging.keep_only(|_| false).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
