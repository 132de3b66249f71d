//! Removing a folder that somebody else filled, however deep it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Removes a folder with everything in it, also one that is deeper than a path may be long and than files may be open at once:
/// [`std::fs::remove_dir_all`] goes down level by level and keeps each one open. No link in it is followed. `aside` is a
/// folder on the same file system that nobody else uses; what an earlier attempt left in it goes too. A folder that does not
/// exist counts as removed.
pub fn remove_deep_folder_if_there(folder: &Path, aside: &Path) -> io::Result<()> {
    crate::make_private_folder(aside)?;
    let mut moved = 0;
    match fs::rename(folder, free_name(aside, &mut moved)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        renamed => renamed?,
    }
    // Each round takes every folder one level apart: its files go, its folders come up to where they are reached by a short
    // path.
    loop {
        let folders = fs::read_dir(aside)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        if folders.is_empty() {
            return fs::remove_dir(aside);
        }
        for folder in folders {
            if !fs::symlink_metadata(&folder)?.is_dir() {
                // The folder to be removed was a link itself.
                fs::remove_file(folder)?;
                continue;
            }
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::rename(entry.path(), free_name(aside, &mut moved))?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            fs::remove_dir(folder)?;
        }
    }
}

fn free_name(aside: &Path, moved: &mut u64) -> PathBuf {
    loop {
        let name = aside.join(moved.to_string());
        *moved += 1;
        if fs::symlink_metadata(&name).is_err() {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes a folder with so many below each other, which no path reaches any more.
    fn make_deep(top: &Path, levels: usize) {
        fs::create_dir(top).unwrap();
        let beside = top.with_extension("next");
        for _ in 0..levels {
            fs::create_dir(&beside).unwrap();
            fs::rename(top, beside.join("a folder")).unwrap();
            fs::rename(&beside, top).unwrap();
        }
    }

    #[test]
    fn a_folder_that_no_path_reaches_down_to_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (deep, aside) = (folder.path().join("deep"), folder.path().join("aside"));
        make_deep(&deep, 5_000);
        remove_deep_folder_if_there(&deep, &aside).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        remove_deep_folder_if_there(&deep, &aside).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_attempt_left_goes_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("aside/0/x")).unwrap();
        fs::create_dir_all(path("data/a/b")).unwrap();
        fs::create_dir(path("other")).unwrap();
        fs::write(path("other/file"), "stays").unwrap();
        symlink(path("other"), path("data/a/link")).unwrap();
        fs::write(path("data/a/file"), "goes").unwrap();
        remove_deep_folder_if_there(&path("data"), &path("aside")).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["other"]);
        symlink(path("other"), path("data")).unwrap();
        remove_deep_folder_if_there(&path("data"), &path("aside")).unwrap();
        assert!(!path("data").is_symlink());
        assert_eq!(fs::read(path("other/file")).unwrap(), b"stays");
    }
}
