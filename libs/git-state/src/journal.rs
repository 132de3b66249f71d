//! The journal of the writer: a group of commits is on the disk here before anything of it goes into its repositories. One
//! sync is all that a group waits for, however many repositories and objects it has.
//!
//! **Layout.** The folder `journal` beside a tenant's repositories holds files that are named by rising numbers. A file is
//! a sequence of records, one for each repository of a group: the length of its payload in bytes (8 bytes, little endian), the
//! SHA-256 of the payload, and the payload, a [`Move`] in protobuf.
//!
//! **Updates.** The records of a group are appended and synced. When a file is large enough, the next one begins, and a thread syncs the
//! file systems of the repositories and then removes the older files: what they hold is in the repositories for good.
//!
//! **After a crash.** [`Remains`] hands out every record that is left, so that it is written into its repository once more: a
//! power cut may have left any part of it there, or nothing. A last record that was cut short was promised to nobody and is
//! cut off; those of its group that precede it come about, in their order. Then [`Remains::replace`] begins a new file and removes the others.

use std::{
    error::Error,
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use margo::Digest;
use prost::Message;
use tracing::warn;

use crate::GitError;

/// The size in bytes at which the next file begins, unless the thread is still busy with the ones before. A start after a
/// crash writes so much once more, which takes about two seconds. Each file has every repository begin another pack.
const FULL: u64 = 64 << 20;

/// The size in bytes at which commits wait for that thread, because the disk does not keep up.
const WAIT: u64 = 128 << 20;

/// The bytes of records that are collected in memory before they are written.
const BUFFER: usize = 1 << 20;

/// The length of what precedes the payload of a record.
const HEAD: usize = 8 + 32;

/// New commits of one repository, as what they add to its newest pack. The pieces of a pack follow each other in the journal,
/// from the one that begins it on, so the journal alone is enough to make every pack that it names.
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
    /// Whether these bytes begin a pack. Otherwise they follow those of the repository's move before.
    #[prost(bool, tag = "5")]
    pub begins: bool,
    /// What is added to the pack. Empty when the pack is in the repository, which a failed attempt may leave.
    #[prost(bytes = "vec", tag = "6")]
    pub bytes: Vec<u8>,
    /// The objects that are added, in their order: 20 bytes of the id of each, and 4 of its place in the pack, big endian.
    #[prost(bytes = "vec", tag = "7")]
    pub objects: Vec<u8>,
    /// The checksum of the pack with these bytes, which gives it its name in the repository.
    #[prost(bytes = "vec", tag = "8")]
    pub pack: Vec<u8>,
}

/// A life of the journal: until what it holds is in the repositories for good. Packs of an earlier one are not in the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// The number of the journal's file.
    pub(crate) file: u64,
    /// How often the file was emptied.
    pub(crate) emptied: u64,
}

impl Epoch {
    fn of(file: u64) -> Self {
        Self { file, emptied: 0 }
    }
}

/// The journal, open for appending.
pub(crate) struct Journal {
    folder: PathBuf,
    disks: Disks,
    file: File,
    epoch: Epoch,
    /// Length of `file` in bytes up to the end of its last whole record.
    length: u64,
    /// How many of these bytes are commits that could not be written into their repositories, so that this file is needed
    /// until the journal is opened again.
    unwritten: u64,
    /// The thread that removes the older files once nobody needs them.
    emptying: Option<JoinHandle<io::Result<()>>>,
    /// Whether a failure has left open what is on the disk. Then the journal has to be opened again.
    in_doubt: bool,
}

impl Journal {
    /// Appends a group. It is on the disk when this returns; after an error any of it may be or not.
    pub(crate) fn append(&mut self, moves: impl IntoIterator<Item = Move>) -> Result<(), GitError> {
        let appended = self.append_records(moves).and_then(|()| self.file.sync_data());
        self.in_doubt |= appended.is_err();
        appended.map_err(|error| GitError::file("writing the journal in", &self.folder, error))
    }

    fn append_records(&mut self, moves: impl IntoIterator<Item = Move>) -> io::Result<()> {
        let mut records = Vec::new();
        for planned in moves {
            let begin = records.len();
            records.resize(begin + HEAD, 0);
            planned.encode(&mut records).expect("a vector grows as it has to");
            let (head, payload) = records[begin..].split_at_mut(HEAD);
            head[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
            head[8..].copy_from_slice(Digest::of(payload).as_bytes());
            if records.len() >= BUFFER {
                self.append_bytes(&mut records)?;
            }
        }
        self.append_bytes(&mut records)
    }

    fn append_bytes(&mut self, records: &mut Vec<u8>) -> io::Result<()> {
        self.file.write_all(records)?;
        self.length += records.len() as u64;
        records.clear();
        Ok(())
    }

    /// Returns the life of the journal that the next group is appended to.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Begins the next file when this one is large enough. Everything that was appended has to be in the repositories by
    /// now, though not yet on the disk. What could not be written before has to be carried over, which opening it again
    /// does.
    pub(crate) fn turn_over(&mut self) {
        let busy = self.emptying.as_ref().is_some_and(|thread| !thread.is_finished());
        let size = self.length - self.unwritten;
        if self.in_doubt || size < FULL || size < WAIT && busy {
            return;
        }
        if self.unwritten > 0 {
            self.in_doubt = true;
        } else if let Err(error) = self.begin_next() {
            // What the disk could not take it may have forgotten, so that the journal is all that is left of it.
            warn!(error = &error as &dyn Error, "the disk did not take all commits: they are written once more");
            self.in_doubt = true;
        }
    }

    fn begin_next(&mut self) -> io::Result<()> {
        self.emptied()?;
        let disks = self.disks.try_clone()?;
        let number = self.epoch.file + 1;
        (self.file, self.epoch, self.length) = (begin(&self.folder, number)?, Epoch::of(number), 0);
        let folder = self.folder.clone();
        self.emptying = Some(thread::spawn(move || {
            disks.sync()?;
            remove_before(&folder, number)
        }));
        Ok(())
    }

    /// Says that something was appended that is not in its repository.
    pub(crate) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Whether the journal has to be opened again before anything else.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Puts the repositories on the disk, so that the next start has nothing to write once more. Everything that was
    /// appended has to be in them by now; what could not be written before stays.
    pub(crate) fn empty(&mut self) -> Result<(), GitError> {
        let emptied = self.emptied().and_then(|()| {
            if self.length > 0 && self.unwritten == 0 {
                self.disks.sync()?;
                self.file.set_len(0)?;
                self.length = 0;
                self.epoch.emptied += 1;
            }
            Ok(())
        });
        self.in_doubt = emptied.is_err();
        emptied.map_err(|error| GitError::file("emptying the journal in", &self.folder, error))
    }

    /// Waits for the thread that removes the older files, and returns whether it could.
    pub(crate) fn emptied(&mut self) -> io::Result<()> {
        let Some(thread) = self.emptying.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that empties the journal has panicked")))
    }
}

/// What an earlier life, or one that has failed, has left in the journal.
pub(crate) struct Remains {
    folder: PathBuf,
    /// Opened before anything is written, so that no failure to write it is missed.
    disks: Disks,
    numbers: Vec<u64>,
    /// Whether a move was handed out.
    any: bool,
}

impl Remains {
    /// Looks into the journal that stands in `home` beside the repositories, and makes it when there is none.
    pub(crate) fn find(home: &Path) -> Result<Self, GitError> {
        let folder = home.join("journal");
        let found = disk::make_private_folder(&folder)
            .and_then(|()| disk::sync(home))
            .and_then(|()| Ok((Disks::of(home)?, numbers(&folder)?)));
        let (disks, numbers) = found.map_err(|error| GitError::file("looking into", &folder, error))?;
        Ok(Self { folder, disks, numbers, any: false })
    }

    /// Hands out the moves in the order in which they were appended.
    pub(crate) fn moves(&mut self, mut take: impl FnMut(Move)) -> Result<(), GitError> {
        for number in &self.numbers {
            let path = path(&self.folder, *number);
            let failed = |error| GitError::file("reading", &path, error);
            let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            let (mut reader, mut at) = (BufReader::new(&file), 0);
            while let Some((planned, size)) = read_record(&mut reader, length - at).map_err(failed)? {
                take(planned);
                self.any = true;
                at += size;
            }
            if at == length {
                continue;
            }
            // Only the record that was being appended can be broken, and nothing is begun behind it.
            if Some(number) != self.numbers.last() {
                return Err(GitError::Journal { path: path.display().to_string(), at });
            }
            warn!(path = %path.display(), at, length, "the end of the journal is no whole record and is cut off");
            file.set_len(at).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(())
    }

    /// Ends what was found, now that all of it is in the repositories but for `unwritten`, which stays in the journal.
    pub(crate) fn replace(self, unwritten: Vec<Move>) -> Result<Journal, GitError> {
        let Self { folder, disks, numbers, any } = self;
        let failed = |error| GitError::file("opening the journal in", &folder, error);
        if any {
            disks.sync().map_err(failed)?;
        }
        let number = numbers.last().map_or(1, |last| last + 1);
        let file = begin(&folder, number).map_err(failed)?;
        let mut journal = Journal {
            folder,
            disks,
            file,
            epoch: Epoch::of(number),
            length: 0,
            unwritten: 0,
            emptying: None,
            in_doubt: false,
        };
        if !unwritten.is_empty() {
            // The older files hold all of it, so the new one need not stay; each attempt on a full disk would leave one.
            journal.append(unwritten).inspect_err(|_| {
                let _stays = disk::remove_if_there(&path(&journal.folder, number));
            })?;
            journal.unwritten = journal.length;
        }
        remove_before(&journal.folder, number)
            .map_err(|error| GitError::file("opening the journal in", &journal.folder, error))?;
        Ok(journal)
    }
}

/// Reads a record and returns it with its size. `None` when the bytes that are left are no whole record.
fn read_record(file: &mut impl Read, left: u64) -> io::Result<Option<(Move, u64)>> {
    let Some(left) = left.checked_sub(HEAD as u64) else { return Ok(None) };
    let (mut length, mut digest) = ([0; 8], [0; 32]);
    file.read_exact(&mut length)?;
    file.read_exact(&mut digest)?;
    let length = u64::from_le_bytes(length);
    if length > left {
        return Ok(None);
    }
    let mut payload = vec![0; length as usize];
    file.read_exact(&mut payload)?;
    let whole = *Digest::of(&payload).as_bytes() == digest;
    let planned = whole.then(|| Move::decode(payload.as_slice()).ok()).flatten();
    Ok(planned.map(|planned| (planned, HEAD as u64 + length)))
}

/// The file systems of the repositories: that of `fleet.git`, and that of the clients, which may be another one.
struct Disks([File; 2]);

impl Disks {
    fn of(home: &Path) -> io::Result<Self> {
        Ok(Self([File::open(home)?, File::open(home.join("clients"))?]))
    }

    fn try_clone(&self) -> io::Result<Self> {
        let Self([fleet, clients]) = self;
        Ok(Self([fleet.try_clone()?, clients.try_clone()?]))
    }

    /// Waits until everything that was written there is on the disk. Fails when something could not be written since
    /// these were opened (from Linux 5.8 on; before, that is not told).
    fn sync(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|disk| Ok(rustix::fs::syncfs(disk)?))
    }
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
    let file = OpenOptions::new().create(true).append(true).open(path(folder, number))?;
    disk::sync(folder)?;
    Ok(file)
}

fn remove_before(folder: &Path, number: u64) -> io::Result<()> {
    let older = numbers(folder)?.into_iter().filter(|other| *other < number);
    older.into_iter().try_for_each(|older| disk::remove_if_there(&path(folder, older)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn home() -> TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("clients")).unwrap();
        home
    }

    fn planned(name: &str) -> Move {
        Move { repository: name.into(), to: vec![2; 20], begins: true, bytes: vec![7; 300], ..Move::default() }
    }

    fn group(name: &str) -> [Move; 1] {
        [planned(name)]
    }

    /// A group that fills a file by itself.
    fn of_a_whole_file() -> [Move; 1] {
        [Move { bytes: vec![7; FULL as usize], ..planned("big") }]
    }

    /// Opens the journal, which keeps nothing, and returns the repositories of which something was left.
    fn open(home: &TempDir) -> (Journal, Vec<String>) {
        let mut remains = Remains::find(home.path()).unwrap();
        let mut names = Vec::new();
        remains.moves(|planned| names.push(planned.repository)).unwrap();
        (remains.replace(Vec::new()).unwrap(), names)
    }

    #[test]
    fn a_record_is_whole_or_not_there() {
        let first_home = home();
        let (mut journal, _) = open(&first_home);
        journal.append(group("one")).unwrap();
        let first = journal.length as usize;
        journal.append(group("two")).unwrap();
        let bytes = fs::read(path(&journal.folder, 1)).unwrap();
        for cut in first..bytes.len() {
            let home = home();
            let (journal, _) = open(&home);
            fs::write(path(&journal.folder, 1), &bytes[..cut]).unwrap();
            assert_eq!(open(&home).1, ["one"], "cut at {cut}");
            assert!(open(&home).1.is_empty(), "what was written once more is not there any longer");

            let mut damaged = bytes.clone();
            damaged[cut] ^= 1;
            fs::write(path(&journal.folder, 9), &damaged).unwrap();
            assert_eq!(open(&home).1, ["one"], "damaged at {cut}");
        }
        assert_eq!(open(&first_home).1, ["one", "two"]);
    }

    #[test]
    fn what_is_broken_is_cut_off_before_anything_is_begun_behind_it() {
        let home = home();
        let (mut journal, _) = open(&home);
        journal.append(group("one")).unwrap();
        let file = path(&journal.folder, 1);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, [whole.as_slice(), b"half a record"].concat()).unwrap();
        // Killed before it has replaced what was there.
        Remains::find(home.path()).unwrap().moves(drop).unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole);

        fs::write(path(&journal.folder, 2), "").unwrap();
        fs::write(&file, &whole[1..]).unwrap();
        let read = Remains::find(home.path()).unwrap().moves(drop);
        assert!(matches!(read, Err(GitError::Journal { at: 0, .. })));
    }

    #[test]
    fn a_journal_in_doubt_begins_no_file_behind_a_broken_record() {
        let home = home();
        let (mut journal, _) = open(&home);
        journal.append(of_a_whole_file()).unwrap();
        journal.doubt();
        journal.turn_over();
        assert_eq!(numbers(&journal.folder).unwrap(), [1]);
    }

    #[test]
    fn what_could_not_be_written_stays() {
        let home = home();
        let (mut journal, _) = open(&home);
        journal.append(group("one")).unwrap();
        let mut journal = Remains::find(home.path()).unwrap().replace(vec![planned("stays")]).unwrap();
        // Neither a clean end nor a full file takes it away.
        journal.append(group("written")).unwrap();
        journal.empty().unwrap();
        journal.append(of_a_whole_file()).unwrap();
        journal.turn_over();
        assert!(journal.is_in_doubt(), "it is opened again, which carries over what is unwritten");
        assert_eq!(open(&home).1, ["stays", "written", "big"]);
    }

    #[test]
    fn an_attempt_on_a_full_disk_leaves_no_file() {
        let home = home();
        let (mut journal, _) = open(&home);
        journal.append(group("one")).unwrap();
        for _attempt in 0..3 {
            let remains = Remains::find(home.path()).unwrap();
            std::os::unix::fs::symlink("/dev/full", path(&journal.folder, 2)).unwrap();
            assert!(remains.replace(vec![planned("one")]).is_err());
            assert_eq!(numbers(&journal.folder).unwrap(), [1]);
        }
        assert_eq!(open(&home).1, ["one"]);
    }

    #[test]
    fn files_give_way_once_the_repositories_are_on_the_disk() {
        let home = home();
        let (mut journal, _) = open(&home);
        for number in 1..=3 {
            assert_eq!(journal.epoch(), Epoch::of(number));
            journal.append(of_a_whole_file()).unwrap();
            journal.turn_over();
            journal.emptied().unwrap();
        }
        assert!(!journal.is_in_doubt());
        assert_eq!(numbers(&journal.folder).unwrap(), [4]);
        journal.append(group("last")).unwrap();
        journal.empty().unwrap();
        assert_eq!(journal.epoch(), Epoch { file: 4, emptied: 1 });
        journal.empty().unwrap();
        assert_eq!(journal.epoch(), Epoch { file: 4, emptied: 1 }, "nothing was there that has gone");
        assert!(open(&home).1.is_empty());
    }
}
