//! What a program keeps is nobody's business but its owner's: parameters, keys and hashes stand in it.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use rustix::{fs::Mode, process::umask};

/// Permissions of the group and of all others.
const OTHERS: u32 = 0o077;
/// Set on folders in which everybody may make files, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// From now on, whatever this process or a child of it makes can be read and written by its owner only, also by a
/// library that gives no thought to permissions. Call it first of all: it holds for every thread.
pub fn keep_files_private() {
    umask(Mode::from_raw_mode(OTHERS as _));
}

/// Makes the folder in which a program keeps all that it has, or takes one that is there, and closes it to everybody but
/// its owner. What an earlier version left in it with other permissions is out of their reach, then. Fails on a folder in
/// which everybody may make files.
pub fn take_data_folder(folder: &Path) -> io::Result<()> {
    crate::make_private_folder(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & STICKY != 0 {
        let why = "the folder is for everybody; a data folder is one that nobody else uses";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if mode & OTHERS != 0 {
        fs::set_permissions(folder, Permissions::from_mode(mode & 0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_data_folder_is_closed_to_others_whoever_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new/data"), folder.path().join("old"));
        take_data_folder(&new).unwrap();
        fs::create_dir(&old).unwrap();
        fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        take_data_folder(&old).unwrap();
        assert_eq!((mode(&new), mode(&old)), (0o700, 0o700));
    }

    #[test]
    fn a_folder_that_is_for_everybody_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        assert_eq!(take_data_folder(folder.path()).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(mode(folder.path()), 0o1777);
    }
}
