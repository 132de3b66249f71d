//! The id of a commit as a type of this crate, so that no user of it needs `gix`.

use std::fmt;

/// The id of a commit, which is the hash of all that the commit contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(pub(crate) gix::ObjectId);

impl CommitId {
    /// Returns the 20 bytes of the hash.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        self.0.as_slice().to_vec()
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
