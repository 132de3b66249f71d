//! The id of a commit as a type of this crate, so that no user of it needs `gix`.

use std::{fmt, str::FromStr};

/// The id of a commit, which is the hash of all that the commit contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub(crate) gix::ObjectId);

impl CommitId {
    /// Returns the 20 bytes of the hash.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        self.0.as_slice().to_vec()
    }
}

/// The text is no id of a commit: 40 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a commit: 40 lower-case hex digits")]
pub struct InvalidCommitId;

impl FromStr for CommitId {
    type Err = InvalidCommitId;

    fn from_str(raw: &str) -> Result<Self, InvalidCommitId> {
        let id = gix::ObjectId::from_hex(raw.as_bytes()).map(Self).map_err(|_| InvalidCommitId)?;
        // Git takes capitals, too.
        if id.to_string() == raw { Ok(id) } else { Err(InvalidCommitId) }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
