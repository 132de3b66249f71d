//! Transitions that no site has stored yet, on disk: JSON lines, a header first. Everything here blocks.
//!
//! **Layout.** The header holds the number of the first line and how many transitions were dropped; each further line
//! is one transition.
//!
//! **Updates.** A transition is appended and synced; what a site has stored goes by writing the file anew.
//!
//! **After a crash.** A line counts when it ends with a line feed, reads, and its number follows; what comes after the
//! first line that does not was being written when the power went, and nothing was told of it.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::status::Transition;

/// A node that is cut off keeps this many: months of an ordinary node, and below 5 MB on disk and in memory.
pub const LIMIT: usize = 5_000;

/// How many of the oldest go when the limit is reached: each time the file is written anew.
const DROP: usize = LIMIT / 10;

/// A transition as it is kept and told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// Rises by one with every transition of one incarnation.
    pub number: u64,
    /// The node's wall clock in Unix nanoseconds; shown, never compared.
    pub time: u64,
    pub transition: Transition,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// The number of the next transition when nothing follows.
    next: u64,
    /// How many transitions were dropped and not told of.
    lost: u64,
}

/// The spool. What `append` returned `Ok` for survives a power cut.
pub struct Spool {
    path: PathBuf,
    file: File,
    length: u64,
    next: u64,
    lost: u64,
    transitions: VecDeque<Numbered>,
}

impl Spool {
    /// Opens or makes the spool. Fails with `InvalidData` when its header is damaged: then nobody knows which numbers
    /// were used.
    pub fn open(path: &Path) -> io::Result<Self> {
        let text = match disk::read_optional(path)? {
            None => replace(path, &Header { next: 1, lost: 0 }, &VecDeque::new())?,
            Some(text) => text,
        };
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let header = lines.next().unwrap_or_default();
        let Header { mut next, lost } = serde_json::from_slice(header)?;
        let mut length = header.len() as u64;
        let mut transitions = VecDeque::new();
        for line in lines.take_while(|line| line.ends_with(b"\n")) {
            match serde_json::from_slice::<Numbered>(line) {
                Ok(transition) if transition.number == next => {
                    next += 1;
                    length += line.len() as u64;
                    transitions.push_back(transition);
                }
                Ok(_) | Err(_) => break,
            }
        }
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, length, next, lost, transitions })
    }

    /// Adds transitions, durably. Those that cannot be written count as lost.
    pub fn append(&mut self, transitions: Vec<Transition>, time: u64) -> io::Result<()> {
        let numbered: Vec<_> = transitions
            .into_iter()
            .enumerate()
            .map(|(at, transition)| Numbered { number: self.next + at as u64, time, transition })
            .collect();
        let mut lines = Vec::new();
        for transition in &numbered {
            serde_json::to_writer(&mut lines, transition)?;
            lines.push(b'\n');
        }
        // An earlier attempt may have left bytes behind.
        let written = self
            .file
            .set_len(self.length)
            .and_then(|()| self.file.write_all_at(&lines, self.length))
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.lost += numbered.len() as u64;
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.next += numbered.len() as u64;
        self.transitions.extend(numbered);
        if self.transitions.len() > LIMIT {
            let dropped = self.transitions.len() - LIMIT + DROP;
            self.transitions.drain(..dropped);
            self.lost += dropped as u64;
            self.rewrite()?;
        }
        Ok(())
    }

    /// Returns the oldest transitions, at most this many.
    pub fn oldest(&self, count: usize) -> impl Iterator<Item = &Numbered> {
        self.transitions.iter().take(count)
    }

    /// Returns how many transitions wait.
    pub fn len(&self) -> usize {
        self.transitions.len()
    }

    /// Returns how many transitions were dropped and not told of.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.transitions.is_empty() && self.lost == 0
    }

    /// Forgets what the site has stored: all up to this number, and that so many were lost.
    pub fn free(&mut self, up_to: u64, lost: u64) -> io::Result<()> {
        while self.transitions.front().is_some_and(|transition| transition.number <= up_to) {
            self.transitions.pop_front();
        }
        self.lost -= lost.min(self.lost);
        self.rewrite()
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let next = self.transitions.front().map_or(self.next, |oldest| oldest.number);
        self.length = replace(&self.path, &Header { next, lost: self.lost }, &self.transitions)?.len() as u64;
        self.file = OpenOptions::new().write(true).open(&self.path)?;
        Ok(())
    }
}

fn replace(path: &Path, header: &Header, transitions: &VecDeque<Numbered>) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(header)?;
    text.push(b'\n');
    for transition in transitions {
        serde_json::to_writer(&mut text, transition)?;
        text.push(b'\n');
    }
    disk::write_private(path, &text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use margo::{Digest, ManifestVersion, State};
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn transition(state: State) -> Transition {
        Transition {
            deployment: "9db79949-86fb-5e45-910d-8a83dd7391cc".parse().unwrap(),
            digest: Digest::of(b"document"),
            component: None,
            state,
            failure: None,
            adopted: ManifestVersion::FIRST,
        }
    }

    fn numbers(spool: &Spool) -> Vec<u64> {
        spool.oldest(usize::MAX).map(|transition| transition.number).collect()
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_numbers_go_on_after_all_is_freed() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).unwrap();
        spool.append(vec![transition(State::Installing), transition(State::Installed)], 7).unwrap();
        let mut spool = Spool::open(&path).unwrap();
        assert_eq!(numbers(&spool), [1, 2]);
        spool.free(1, 0).unwrap();
        assert_eq!(numbers(&Spool::open(&path).unwrap()), [2]);
        spool.free(2, 0).unwrap();
        let mut spool = Spool::open(&path).unwrap();
        assert!(spool.is_empty());
        spool.append(vec![transition(State::Failed)], 8).unwrap();
        assert_eq!(numbers(&Spool::open(&path).unwrap()), [3]);
    }

    #[test]
    fn a_record_cut_at_any_byte_is_as_if_never_written() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).unwrap();
        spool.append(vec![transition(State::Installing)], 7).unwrap();
        let whole = fs::read(&path).unwrap();
        spool.append(vec![transition(State::Installed)], 8).unwrap();
        let longer = fs::read(&path).unwrap();
        for cut in whole.len()..longer.len() {
            fs::write(&path, &longer[..cut]).unwrap();
            let mut spool = Spool::open(&path).unwrap();
            assert_eq!(numbers(&spool), [1], "cut at {cut}");
            spool.append(vec![transition(State::Failed)], 9).unwrap();
            let again = Spool::open(&path).unwrap();
            assert_eq!(numbers(&again), [1, 2]);
            assert_eq!(again.transitions[1].transition.state, State::Failed);
        }
        // Blocks of zeros, as some file systems leave them after a power cut.
        fs::write(&path, [whole.as_slice(), &[0; 100]].concat()).unwrap();
        assert_eq!(numbers(&Spool::open(&path).unwrap()), [1]);
    }

    #[test]
    fn a_full_spool_drops_the_oldest_and_counts_them() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::open(&path).unwrap();
        spool.append(vec![transition(State::Failed); LIMIT + 1], 7).unwrap();
        let mut spool = Spool::open(&path).unwrap();
        let dropped = DROP as u64 + 1;
        assert_eq!((spool.len(), spool.lost()), (LIMIT - DROP, dropped));
        assert_eq!(spool.oldest(1).next().unwrap().number, dropped + 1);
        spool.free(u64::MAX, dropped).unwrap();
        assert!(Spool::open(&path).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_header_is_an_error() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("spool");
        fs::write(&path, b"{\"next\":").unwrap();
        assert_eq!(Spool::open(&path).err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }
}
