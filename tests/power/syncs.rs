//! The syncs of the writer, which can be left out one by one to see whether anybody notices.

use std::{ffi::OsStr, path::Path};

use nix::libc;

/// A sync of the writer.
///
/// One is missing here, that of the journal's folder with a new file: on ext4 and on btrfs, the sync of a group in a new file also
/// puts its name on the disk, which POSIX does not ask for. No power cut can tell whether it was left out there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Of a group in the journal.
    Group,
    /// Of the repositories, before older files of the journal go.
    TurnOver,
    /// Of the repositories, before the journal is emptied at rest.
    Rest,
    /// Of the repositories, before what was written into them once more goes from the journal.
    Replay,
    /// Of what a new repository is made of.
    NewRepository,
    /// Of the folder of a new repository's name.
    NewName,
}

impl Sync {
    pub const ALL: [Self; 6] =
        [Self::Group, Self::TurnOver, Self::Rest, Self::Replay, Self::NewRepository, Self::NewName];

    pub fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::TurnOver => "turn-over",
            Self::Rest => "rest",
            Self::Replay => "replay",
            Self::NewRepository => "new-repository",
            Self::NewName => "new-name",
        }
    }

    /// Finds out which sync a system call is. The main thread is the one that opens and rests, and it is ready when it has
    /// said so.
    pub fn of(call: i64, path: &Path, by_main: bool, is_ready: bool) -> Option<Self> {
        let folder = path.parent().and_then(Path::file_name);
        let is_of_new = || path.iter().any(|part| part.as_encoded_bytes().ends_with(b".git.new"));
        match call {
            libc::SYS_fdatasync if folder == Some(OsStr::new("journal")) => Some(Self::Group),
            libc::SYS_syncfs if !by_main => Some(Self::TurnOver),
            libc::SYS_syncfs if is_ready => Some(Self::Rest),
            libc::SYS_syncfs => Some(Self::Replay),
            libc::SYS_fsync if is_of_new() => Some(Self::NewRepository),
            libc::SYS_fsync
                if is_ready && (path.ends_with("clients") || folder == Some(OsStr::new("repositories"))) =>
            {
                Some(Self::NewName)
            }
            _ => None,
        }
    }
}
