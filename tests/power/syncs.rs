//! The syncs of the writer, which can be left out one by one to see whether anybody notices.

use std::path::Path;

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
    /// Of the journal's last file, of which half a record was cut off, before the next file is begun.
    CutOff,
    /// Of all that a new repository is made of.
    NewRepository,
    /// The same, but for the content of files that take the place of others.
    NewTree,
    /// Of the folder in which a new repository has got its name.
    NewName,
}

impl Sync {
    pub const ALL: [Self; 8] = [
        Self::Group,
        Self::TurnOver,
        Self::Rest,
        Self::Replay,
        Self::CutOff,
        Self::NewRepository,
        Self::NewTree,
        Self::NewName,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::TurnOver => "turn-over",
            Self::Rest => "rest",
            Self::Replay => "replay",
            Self::NewRepository => "new-repository",
            Self::CutOff => "cut-off",
            Self::NewTree => "new-tree",
            Self::NewName => "new-name",
        }
    }

    /// Tells whether a system call is this sync. The main thread is the one that opens and rests, and it is ready when it has
    /// said so.
    pub fn is(self, call: i64, path: &Path, by_main: bool, is_ready: bool) -> bool {
        let is_in_journal = || path.parent().is_some_and(|folder| folder.ends_with("journal"));
        let is_of_new = || path.iter().any(|part| part.as_encoded_bytes().ends_with(b".git.new"));
        match self {
            Self::Group => call == libc::SYS_fdatasync && is_in_journal(),
            Self::TurnOver => call == libc::SYS_syncfs && !by_main,
            Self::Rest => call == libc::SYS_syncfs && by_main && is_ready,
            Self::Replay => call == libc::SYS_syncfs && by_main && !is_ready,
            Self::CutOff => call == libc::SYS_fsync && is_in_journal(),
            Self::NewRepository => call == libc::SYS_fsync && is_of_new(),
            Self::NewTree => {
                call == libc::SYS_fsync && is_of_new() && !path.as_os_str().as_encoded_bytes().ends_with(b"~")
            }
            Self::NewName => {
                call == libc::SYS_fsync
                    && is_ready
                    && (path.ends_with("clients")
                        || path.parent().is_some_and(|folder| folder.ends_with("repositories")))
            }
        }
    }
}
