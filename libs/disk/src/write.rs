//! Writing files so that a power cut leaves the old content or the new, never a part of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// From this many files on, one sync of the whole file system costs less than one sync of each file. For fewer
/// files it might cost far more, because it also writes what containers and downloads have left unwritten.
const MANY: usize = 64;

/// Syncs in flight together. More win nothing: the journal takes all that have come while its last entry was written.
const SYNCS_AT_ONCE: usize = 8;

/// The ending of the name of a file that is being written. Whoever lists a folder leaves such files out.
const UNFINISHED: &str = "~";

/// Makes a folder and the missing ones above it, each for its owner only. A folder that exists is left as it is.
pub fn make_private_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Replaces a file, whole or not at all, readable by its owner only. A missing folder is made. The content is on
/// the disk when this returns. Only one writer at a time may do this to a file; for more there is
/// [`write_private_shared`].
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, &unfinished(path), content)
}

/// Replaces a file as [`write_private`] does, also while other processes replace the same file. Each writes under a
/// name of its own, and the content of the last one to end stays. A process that dies half way leaves an unfinished
/// file, which nobody removes; so this is only for files that really have several writers.
pub fn write_private_shared(path: &Path, content: &[u8]) -> io::Result<()> {
    let own = path.with_added_extension(std::process::id().to_string());
    replace(path, &unfinished(&own), content)
}

fn replace(path: &Path, unfinished: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_private_folder(parent)?;
    write_new(unfinished, [content])?.sync_all()?;
    fs::rename(unfinished, path)?;
    sync(parent)
}

/// Puts files into a folder, each whole or not at all and readable by its owner only. All of them are on the disk when
/// this returns. Each file is given as its name and the pieces of its content.
pub fn write_all_private<'a>(
    folder: &Path,
    files: impl IntoIterator<Item = (String, Vec<&'a [u8]>)>,
) -> io::Result<()> {
    let mut written = Vec::new();
    for (name, pieces) in files {
        let path = folder.join(name);
        let unfinished = unfinished(&path);
        write_new(&unfinished, pieces)?;
        written.push((unfinished, path));
    }
    let parent = File::open(folder)?;
    if written.len() < MANY {
        let files: Vec<_> = written.iter().map(|(unfinished, _)| unfinished).collect();
        sync_together(&files)?;
    } else {
        rustix::fs::syncfs(&parent)?;
    }
    for (unfinished, path) in &written {
        fs::rename(unfinished, path)?;
    }
    parent.sync_all()
}

/// Waits until a file or the entries of a folder are on the disk.
pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Waits until files and entries of folders are on the disk, all of them at once: the file system then writes one journal
/// entry for many, which for twenty of them takes an eighth of the time of one after the other. The order in which they
/// get there is not defined. Returns the first failure, when all have ended; a path that does not exist is one.
pub fn sync_together<P: AsRef<Path> + Sync>(paths: &[P]) -> io::Result<()> {
    if let [path] = paths {
        return sync(path.as_ref());
    }
    let next = AtomicUsize::new(0);
    let sync_some = || -> io::Result<()> {
        let mut result = Ok(());
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            result = result.and(sync(path.as_ref()));
        }
        result
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..paths.len().min(SYNCS_AT_ONCE)).map(|_| scope.spawn(sync_some)).collect();
        let ended = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that waited for the disk has panicked")))
        });
        ended.reduce(Result::and).unwrap_or(Ok(()))
    })
}

/// Waits until a folder and everything in it is on the disk. No link in it is followed; links themselves are entries of their
/// folder. It is for a small folder that nobody else writes into meanwhile: all its paths are in memory.
pub fn sync_tree(folder: &Path) -> io::Result<()> {
    let mut paths = vec![folder.to_owned()];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
            if kind.is_dir() {
                folders.push(entry.path());
            }
            if kind.is_dir() || kind.is_file() {
                paths.push(entry.path());
            }
        }
    }
    sync_together(&paths)
}

/// Returns the names in a folder, sorted, without those of files that are being written.
pub fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Ok(name) = entry?.file_name().into_string()
            && !name.ends_with(UNFINISHED)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    path.with_file_name(name)
}

fn write_new<'a>(path: &Path, pieces: impl IntoIterator<Item = &'a [u8]>) -> io::Result<File> {
    // A file that an earlier attempt left may have other permissions.
    crate::remove_if_there(path)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    for piece in pieces {
        file.write_all(piece)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_and_its_new_folder_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys/root");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn a_tree_is_synced_whatever_its_links_lead_to() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "one").unwrap();
        std::os::unix::fs::symlink("../nowhere", folder.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("a/up")).unwrap();
        sync_tree(folder.path()).unwrap();
        assert_eq!(sync_tree(&folder.path().join("b")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_an_earlier_attempt_left_is_neither_listed_nor_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a~"), "half").unwrap();
        assert!(names(folder.path()).unwrap().is_empty());
        write_private(&folder.path().join("a"), b"whole").unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["a"]);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"whole");
    }

    #[test]
    fn a_writer_of_a_shared_file_leaves_alone_what_others_have_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.bin"), folder.path().join("a.bin.0~"));
        fs::write(&other, "half").unwrap();
        write_private_shared(&path, b"one").unwrap();
        write_private_shared(&path, b"two").unwrap();
        assert_eq!((fs::read(&path).unwrap(), fs::read(&other).unwrap()), (b"two".to_vec(), b"half".to_vec()));
        assert_eq!((names(folder.path()).unwrap(), mode(&path)), (vec!["a.bin".to_owned()], 0o600));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing of our own is left");
    }

    #[test]
    fn one_file_that_cannot_be_synced_is_told_though_the_others_can() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..40).map(|at| folder.path().join(at.to_string())).collect();
        for path in &paths {
            fs::write(path, "x").unwrap();
        }
        sync_together(&paths).unwrap();
        sync_together::<PathBuf>(&[]).unwrap();
        fs::remove_file(&paths[17]).unwrap();
        assert_eq!(sync_together(&paths).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn many_files_are_written_as_few_are() {
        for count in [1, MANY, MANY + 1] {
            let folder = tempfile::tempdir().unwrap();
            let files = (0..count).map(|at| (format!("{at:03}"), vec![b"a".as_slice(), b"b".as_slice()]));
            write_all_private(folder.path(), files).unwrap();
            assert_eq!(names(folder.path()).unwrap().len(), count);
            let first = folder.path().join("000");
            assert_eq!((fs::read(&first).unwrap(), mode(&first)), (b"ab".to_vec(), 0o600));
        }
    }
}
