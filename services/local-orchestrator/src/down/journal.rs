//! One file that only grows, in frames: how a site keeps what is in force.
//!
//! **Layout.** A frame is a line `<kind> <length> <digest>` and as many bytes as it says. Messages are frames that mean
//! nothing by themselves; a *record* says what is in force from now on and names earlier messages by their place.
//!
//! **Updates.** A change that touches one node of a thousand appends one message and one record, and costs **one**
//! sync: when the record is on the disk, everything before it in the file is. A folder of files would need a sync for
//! each file and for each folder. [`Journal::rewrite`] makes a new file of what still counts and puts it in place by
//! rename; whoever reads places of the old file goes on with the old file.
//!
//! **After a crash.** [`Journal::open`] takes frames as long as they are whole (the digest says so) and cuts off
//! whatever follows the last whole record. So a torn append never was, and the record before it stands. A rewriting
//! that was cut short leaves the old file in place, and a half new one beside it, which the next rewriting removes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use margo::Digest;
use serde::{Deserialize, Serialize};

/// The longest line before a frame: kind, 20 digits, a digest.
const MAX_LINE: u64 = 128;

/// The largest frame: a message of 8 MiB, or a record that names all nodes and deployments of a very large site.
const MAX_FRAME: u64 = 64 << 20;

const MESSAGE: &str = "message";
const RECORD: &str = "record";

/// Where a message stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    at: u64,
    length: u64,
}

impl Place {
    /// How many bytes the message has.
    pub fn length(self) -> u64 {
        self.length
    }

    /// Reads the message that stands here in this file.
    pub fn read(self, file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length as usize];
        file.read_exact_at(&mut bytes, self.at)?;
        Ok(bytes)
    }
}

/// The file, open for appending. There is one value of it for each file.
pub struct Journal {
    path: PathBuf,
    file: Arc<File>,
    /// Where the last durable record ends.
    durable: u64,
    /// Where the next frame goes; beyond `durable` while messages wait for their record.
    end: u64,
}

impl Journal {
    /// Opens the file, or makes an empty one, and tells the records that stand in it, the oldest first.
    pub fn open(path: PathBuf, mut record: impl FnMut(&[u8])) -> io::Result<Self> {
        let made = !path.try_exists()?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        if made {
            disk::sync(path.parent().unwrap_or(Path::new(".")))?;
        }
        let mut durable = 0;
        let mut end = 0;
        let mut frames = BufReader::new(&file);
        while let Some((kind, bytes, length)) = next_frame(&mut frames)? {
            end += length;
            if kind == RECORD {
                record(&bytes);
                durable = end;
            }
        }
        drop(frames);
        let journal = Self { path, file: Arc::new(file), durable, end: durable };
        journal.file.set_len(durable)?;
        Ok(journal)
    }

    /// The file as it is now, for readers of places.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }

    /// The size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Appends messages. They count once a record names them, and may be lost before.
    pub fn put(&mut self, messages: &[impl AsRef<[u8]>]) -> io::Result<Vec<Place>> {
        let put = messages.iter().map(|message| self.append(MESSAGE, message.as_ref())).collect();
        self.or_abandon(put)
    }

    /// Appends a record. When this returns `Ok`, the record is on the disk with every message before it.
    pub fn commit(&mut self, record: &[u8]) -> io::Result<()> {
        let committed = self.append(RECORD, record).and_then(|_| self.file.sync_data());
        self.or_abandon(committed)?;
        self.durable = self.end;
        Ok(())
    }

    /// Replaces the file by one that holds these messages of it and one record, made from their new places.
    pub fn rewrite(
        &mut self,
        messages: &[Place],
        record: impl FnOnce(&[Place]) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        let path = self.path.with_extension("new");
        disk::remove_if_there(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let mut next = Self { path: self.path.clone(), file: Arc::new(file), durable: 0, end: 0 };
        let mut places = Vec::with_capacity(messages.len());
        for place in messages {
            places.push(next.append(MESSAGE, &place.read(&self.file)?)?);
        }
        next.commit(&record(&places)?)?;
        fs::rename(&path, &self.path)?;
        *self = next;
        disk::sync(self.path.parent().unwrap_or(Path::new(".")))
    }

    /// Forgets the messages that were put since the last record.
    pub fn abandon(&mut self) -> io::Result<()> {
        self.end = self.durable;
        self.file.set_len(self.durable)
    }

    fn append(&mut self, kind: &str, bytes: &[u8]) -> io::Result<Place> {
        let mut frame = format!("{kind} {} {}\n", bytes.len(), Digest::of(bytes)).into_bytes();
        let place = Place { at: self.end + frame.len() as u64, length: bytes.len() as u64 };
        frame.extend_from_slice(bytes);
        self.file.write_all_at(&frame, self.end)?;
        self.end = place.at + place.length;
        Ok(place)
    }

    /// After a failure: nothing of what was appended since the last record may ever be taken for a frame.
    fn or_abandon<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        if done.is_err() {
            self.abandon()?;
        }
        done
    }
}

/// The kind, the bytes and the whole length of the next frame; `None` at the end, and where there is no whole frame.
fn next_frame(frames: &mut impl BufRead) -> io::Result<Option<(String, Vec<u8>, u64)>> {
    let mut line = String::new();
    match frames.by_ref().take(MAX_LINE).read_line(&mut line) {
        // What is no text is no line of ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        read => read?,
    };
    let mut words = line.strip_suffix('\n').unwrap_or_default().split(' ');
    let (Some(kind), Some(Ok(length)), Some(Ok(digest)), None) =
        (words.next(), words.next().map(str::parse::<u64>), words.next().map(str::parse::<Digest>), words.next())
    else {
        return Ok(None);
    };
    if length > MAX_FRAME || ![MESSAGE, RECORD].contains(&kind) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    frames.by_ref().take(length).read_to_end(&mut bytes)?;
    let whole = bytes.len() as u64 == length && Digest::of(&bytes) == digest;
    Ok(whole.then(|| (kind.to_owned(), bytes, line.len() as u64 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (Journal, Vec<String>) {
        let mut records = Vec::new();
        let journal =
            Journal::open(path.to_owned(), |record| records.push(String::from_utf8(record.to_vec()).unwrap()));
        (journal.unwrap(), records)
    }

    #[test]
    fn records_and_the_messages_before_them_survive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, records) = open(&path);
        assert!(records.is_empty());
        let places = journal.put(&["a", "bc\nd"]).unwrap();
        journal.commit(b"one").unwrap();
        let later = journal.put(&["e"]).unwrap();
        journal.commit(b"two").unwrap();
        let (journal, records) = open(&path);
        assert_eq!(records, ["one", "two"]);
        let file = journal.file();
        assert_eq!(places[1].read(&file).unwrap(), b"bc\nd");
        assert_eq!(later[0].read(&file).unwrap(), b"e");
    }

    #[test]
    fn whatever_part_of_an_append_is_lost_the_record_before_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = open(&path);
        journal.put(&["first"]).unwrap();
        journal.commit(b"one").unwrap();
        let before = journal.size();
        journal.put(&["second"]).unwrap();
        journal.commit(b"two").unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in before as usize..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(open(&path).1, ["one"], "cut at {cut}");
            // A block that never reached the disk reads as zeros.
            let mut torn = whole.clone();
            torn[before as usize..=cut].fill(0);
            fs::write(&path, &torn).unwrap();
            let (mut journal, records) = open(&path);
            assert_eq!(records, ["one"], "zeros up to {cut}");
            // What is appended now is not followed by anything of before.
            journal.commit(b"x").unwrap();
            assert_eq!(open(&path).1, ["one", "x"]);
        }
    }

    #[test]
    fn messages_without_a_record_never_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = open(&path);
        journal.put(&["lost"]).unwrap();
        drop(journal);
        assert_eq!(open(&path).0.size(), 0);
    }

    #[test]
    fn a_rewritten_file_holds_what_counts_and_old_readers_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (mut journal, _) = open(&path);
        let places = journal.put(&["dead", "alive"]).unwrap();
        journal.commit(b"one").unwrap();
        let old = journal.file();
        let mut moved = None;
        journal
            .rewrite(&places[1..], |places| {
                moved = Some(places[0]);
                Ok(b"two".to_vec())
            })
            .unwrap();
        assert_eq!(places[0].read(&old).unwrap(), b"dead");
        assert_eq!(moved.unwrap().read(&journal.file()).unwrap(), b"alive");
        journal.commit(b"three").unwrap();
        assert_eq!(open(&path).1, ["two", "three"]);
    }
}
