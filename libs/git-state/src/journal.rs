//! The journal of the writer: a group of commits is on the disk here, whole, before anything of it goes into its
//! repositories. One sync is all that a group waits for, however many repositories and objects it has.
//!
//! **Layout.** The folder `journal` beside a tenant's repositories holds files that are named by rising numbers. A file is
//! a sequence of records, one for each group: the length of its payload in bytes (8 bytes, little endian), the SHA-256 of
//! the payload, and the payload, a [`Group`] in protobuf.
//!
//! **Updates.** A record is appended and synced. When a file is large enough, the next one begins, and a thread syncs the
//! file system of the repositories and then removes the older files: what they hold is in the repositories for good.
//!
//! **After a crash.** [`Journal::open`] hands out every group that is left, so that it is written into its repositories
//! once more: a power cut may have left any part of it there, or nothing. A last record that was cut short was promised to
//! nobody and is left out.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use margo::Digest;
use prost::Message;

use crate::GitError;

/// The size in bytes at which the next file begins. It bounds what a start after a crash has to write again: a thousand
/// objects, about a tenth of a second.
const FULL: u64 = 1 << 20;

/// The size in bytes at which commits wait for the thread that empties the older files, because the disk does not keep up.
const WAIT: u64 = 64 << 20;

/// The head of a record: the length of its payload, and its SHA-256.
const HEAD: usize = 8 + 32;

/// Commits that are written together.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Group {
    #[prost(message, repeated, tag = "1")]
    pub moves: Vec<Move>,
}

/// New commits of one repository.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Move {
    /// The name of the repository.
    #[prost(string, tag = "1")]
    pub repository: String,
    /// The commit at which the branch was, as 20 bytes; empty when there was no branch.
    #[prost(bytes = "vec", tag = "2")]
    pub from: Vec<u8>,
    /// The last of the new commits.
    #[prost(bytes = "vec", tag = "3")]
    pub to: Vec<u8>,
    /// All objects that the new commits need and that the one at `from` does not have, and perhaps others.
    #[prost(message, repeated, tag = "4")]
    pub objects: Vec<Object>,
}

/// A Git object.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Object {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Git's word for its kind, such as `blob`.
    #[prost(string, tag = "2")]
    pub kind: String,
    #[prost(bytes = "vec", tag = "3")]
    pub content: Vec<u8>,
}

/// The journal, open for appending.
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    number: u64,
    /// Length of `file` in bytes up to the end of its last whole record.
    length: u64,
    /// The thread that removes the older files once nobody needs them.
    emptying: Option<JoinHandle<io::Result<()>>>,
    /// Whether a failure has left open what is on the disk. Then the journal has to be opened again.
    in_doubt: bool,
}

impl Journal {
    /// Opens the journal in `folder`, which is made when there is none. Groups that an earlier life has left are handed to
    /// `write_again` in their order, and are in their repositories for good when this returns.
    pub(crate) fn open(
        folder: &Path,
        mut write_again: impl FnMut(Group) -> Result<(), GitError>,
    ) -> Result<Self, GitError> {
        let failed = |error| GitError::file("opening the journal in", folder, error);
        fs::create_dir_all(folder).map_err(failed)?;
        let numbers = numbers(folder).map_err(failed)?;
        let mut any = false;
        for number in &numbers {
            let path = path(folder, *number);
            let bytes = fs::read(&path).map_err(|error| GitError::file("reading", &path, error))?;
            let (groups, rest) = read(&bytes);
            // Only the record that was being appended when the process died can be broken, and it is in the last file.
            if rest != 0 && Some(number) != numbers.last() {
                return Err(GitError::Journal { path: path.display().to_string(), at: bytes.len() - rest });
            }
            any |= !groups.is_empty();
            groups.into_iter().try_for_each(&mut write_again)?;
        }
        if any {
            sync_file_system(folder).map_err(failed)?;
        }
        // The older ones go first: one that ends in a broken record must never have another behind it.
        let number = numbers.last().map_or(1, |last| last + 1);
        remove_before(folder, number).map_err(failed)?;
        let file = begin(folder, number).map_err(failed)?;
        Ok(Self { folder: folder.to_owned(), file, number, length: 0, emptying: None, in_doubt: false })
    }

    /// Appends a group. It is on the disk when this returns; after an error it may be or not.
    pub(crate) fn append(&mut self, group: &Group) -> Result<(), GitError> {
        let failed = |error| GitError::file("writing the journal in", &self.folder, error);
        let mut record = Vec::with_capacity(HEAD + group.encoded_len());
        record.resize(HEAD, 0);
        group.encode(&mut record).expect("a vector grows as it has to");
        let (head, payload) = record.split_at_mut(HEAD);
        head[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        head[8..].copy_from_slice(Digest::of(payload).as_bytes());
        if let Err(error) = self.file.write_all(&record).and_then(|()| self.file.sync_data()) {
            self.in_doubt = true;
            return Err(failed(error));
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Begins the next file when this one is large enough. Everything that was appended has to be in the repositories by
    /// now, though not yet on the disk.
    pub(crate) fn turn_over(&mut self) {
        let busy = self.emptying.as_ref().is_some_and(|thread| !thread.is_finished());
        if self.length >= WAIT || self.length >= FULL && !busy {
            let begun = self.emptied().and_then(|()| begin(&self.folder, self.number + 1));
            match begun {
                Ok(file) => {
                    (self.file, self.number, self.length) = (file, self.number + 1, 0);
                    let (folder, number) = (self.folder.clone(), self.number);
                    self.emptying = Some(thread::spawn(move || {
                        sync_file_system(&folder)?;
                        remove_before(&folder, number)
                    }));
                }
                // What a file system could not write it may have forgotten, so that the journal is all that is left.
                Err(_) => self.in_doubt = true,
            }
        }
    }

    /// Says that something was appended that is not in its repository.
    pub(crate) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Whether the journal has to be opened again before anything else.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Puts the repositories on the disk, so that the next start has nothing to write again. Everything that was appended
    /// has to be in the repositories by now.
    pub(crate) fn empty(&mut self) -> Result<(), GitError> {
        let emptied = self.emptied().and_then(|()| {
            if self.length > 0 {
                sync_file_system(&self.folder)?;
                self.file.set_len(0)?;
            }
            Ok(())
        });
        self.length = 0;
        self.in_doubt = emptied.is_err();
        emptied.map_err(|error| GitError::file("emptying the journal in", &self.folder, error))
    }

    /// Waits for the thread that removes the older files, and returns whether it could.
    pub(crate) fn emptied(&mut self) -> io::Result<()> {
        let Some(thread) = self.emptying.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that empties the journal has panicked")))
    }
}

/// Reads the groups of a file up to its end or to the first record that is not whole. Returns also how many bytes come
/// behind them.
fn read(mut bytes: &[u8]) -> (Vec<Group>, usize) {
    let mut groups = Vec::new();
    while let Some((group, rest)) = read_record(bytes) {
        groups.push(group);
        bytes = rest;
    }
    (groups, bytes.len())
}

fn read_record(bytes: &[u8]) -> Option<(Group, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (payload, rest) = rest.split_at_checked(length)?;
    let whole = Digest::of(payload).as_bytes() == digest;
    Some((whole.then(|| Group::decode(payload).ok())??, rest))
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:020}"))
}

/// The numbers of the files that are there, rising.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let names = disk::names(folder)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

fn begin(folder: &Path, number: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).append(true).open(path(folder, number))?;
    disk::sync(folder)?;
    Ok(file)
}

fn remove_before(folder: &Path, number: u64) -> io::Result<()> {
    let older = numbers(folder)?.into_iter().filter(|other| *other < number);
    older.into_iter().try_for_each(|older| disk::remove_if_there(&path(folder, older)))
}

/// Waits until everything that was written to the file system is on the disk.
fn sync_file_system(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> Group {
        let objects = vec![Object { id: vec![1; 20], kind: "blob".into(), content: vec![7; 300] }];
        Group { moves: vec![Move { repository: name.into(), from: vec![], to: vec![2; 20], objects }] }
    }

    fn left(folder: &Path) -> Vec<String> {
        let mut names = Vec::new();
        let note = |group: Group| {
            names.extend(group.moves.into_iter().map(|moved| moved.repository));
            Ok(())
        };
        Journal::open(folder, note).unwrap();
        names
    }

    #[test]
    fn a_record_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| Ok(())).unwrap();
        journal.append(&group("one")).unwrap();
        let first = journal.length as usize;
        journal.append(&group("two")).unwrap();
        let bytes = fs::read(path(folder.path(), 1)).unwrap();
        drop(journal);
        for cut in first..bytes.len() {
            let folder = tempfile::tempdir().unwrap();
            fs::write(path(folder.path(), 1), &bytes[..cut]).unwrap();
            assert_eq!(left(folder.path()), ["one"], "cut at {cut}");
            assert!(left(folder.path()).is_empty(), "what was written again is not there any more");

            let mut damaged = bytes.clone();
            damaged[cut] ^= 1;
            fs::write(path(folder.path(), 9), &damaged).unwrap();
            assert_eq!(left(folder.path()), ["one"], "damaged at {cut}");
        }
        assert_eq!(left(folder.path()), ["one", "two"]);
    }

    #[test]
    fn a_file_that_was_left_behind_whole_and_is_not_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| Ok(())).unwrap();
        journal.append(&group("one")).unwrap();
        drop(journal);
        fs::write(path(folder.path(), 2), "").unwrap();
        let mut bytes = fs::read(path(folder.path(), 1)).unwrap();
        bytes.pop();
        fs::write(path(folder.path(), 1), bytes).unwrap();
        let opened = Journal::open(folder.path(), |_| Ok(()));
        assert!(matches!(opened.err(), Some(GitError::Journal { at: 0, .. })));
    }

    #[test]
    fn files_give_way_once_the_repositories_are_on_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), |_| Ok(())).unwrap();
        let mut big = group("big");
        big.moves[0].objects[0].content = vec![7; FULL as usize];
        for number in 1..=3 {
            assert_eq!(journal.number, number);
            journal.append(&big).unwrap();
            journal.turn_over();
            journal.emptied().unwrap();
        }
        assert!(!journal.is_in_doubt());
        assert_eq!(numbers(folder.path()).unwrap(), [4]);
        journal.append(&group("last")).unwrap();
        journal.empty().unwrap();
        drop(journal);
        assert!(left(folder.path()).is_empty());
    }
}
