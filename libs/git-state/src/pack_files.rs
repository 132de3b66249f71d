//! Packs in a repository: how they get there, and how those go that another one has replaced.

use std::{
    collections::VecDeque,
    error::Error,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use gix::ObjectId;
use tracing::warn;

use crate::{
    GitError,
    pack::{Pack, Whole},
};

/// How long a pack stays that was replaced: whoever has listed it may still open it. Shorter than the time after which Linux
/// writes what nobody has synced, so that most of them never cost the disk anything.
const GRACE: Duration = Duration::from_secs(5);

/// How the names of files begin that are not whole. Stock git removes such files when it tidies up.
const UNFINISHED: &str = "tmp_edgewright_";

/// The length in bytes of the checksum that ends a pack.
const CHECKSUM: usize = 20;

/// The room in bytes for what is added to a pack that was read.
const AHEAD: usize = 16 << 10;

fn folder(repository: &Path) -> PathBuf {
    repository.join("objects/pack")
}

/// Puts a whole pack into a repository, also if it seems to be there. It may be lost with the next power cut.
pub(crate) fn write(repository: &Path, pack: &Pack, whole: &Whole) -> Result<(), GitError> {
    Hidden::write(repository, pack, whole)?.show()
}

/// A whole pack that stands in its repository where no reader finds it. It goes when this is dropped before it was shown.
pub(crate) struct Hidden {
    folder: PathBuf,
    name: ObjectId,
    is_shown: bool,
}

impl Hidden {
    /// Writes the pack.
    pub(crate) fn write(repository: &Path, pack: &Pack, whole: &Whole) -> Result<Self, GitError> {
        let hidden = Self { folder: folder(repository), name: whole.name, is_shown: false };
        let written = write_new(&hidden.path("pack"), &[pack.body(), whole.name.as_slice()])
            .and_then(|()| write_new(&hidden.path("idx"), &[&whole.index]));
        written.map_err(|error| GitError::file("writing a pack into", &hidden.folder, error))?;
        Ok(hidden)
    }

    /// Gives the pack the name under which readers find it.
    pub(crate) fn show(&mut self) -> Result<(), GitError> {
        // Readers look for the index, so it comes last.
        let mut ends = ["pack", "idx"].into_iter();
        let shown = ends.try_for_each(|end| fs::rename(self.path(end), path(&self.folder, self.name, end)));
        shown.map_err(|error| GitError::file("writing a pack into", &self.folder, error))?;
        self.is_shown = true;
        Ok(())
    }

    fn path(&self, end: &str) -> PathBuf {
        hidden_path(&self.folder, self.name, end)
    }
}

/// Reads the bytes of a pack without its checksum, whether readers find it by now or not. Returns `None` when it has gone or has
/// another length: a program that repacks may have taken what is in it.
pub(crate) fn read(repository: &Path, name: ObjectId, length: usize) -> Result<Option<Vec<u8>>, GitError> {
    let folder = folder(repository);
    // It gets its name at any time, so the other one comes first.
    let file = match File::open(hidden_path(&folder, name, "pack")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(path(&folder, name, "pack")),
        opened => opened,
    };
    let whole = match file {
        Ok(mut file) => read_body(&mut file, length),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    whole.map_err(|error| GitError::file("reading a pack of", &folder, error))
}

fn read_body(file: &mut File, length: usize) -> io::Result<Option<Vec<u8>>> {
    if file.metadata()?.len() != (length + CHECKSUM) as u64 {
        return Ok(None);
    }
    // More will be added to it, which need not move it then.
    let mut body = Vec::with_capacity(length + length / 8 + AHEAD);
    file.take(length as u64).read_to_end(&mut body)?;
    Ok(Some(body))
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.is_shown {
            for end in ["pack", "idx"] {
                // One that stays is removed when the repository is opened again.
                let _stays = disk::remove_if_there(&self.path(end));
            }
        }
    }
}

/// Removes what a writer that was killed has left half done.
pub(crate) fn remove_unfinished(repository: &Path) -> Result<(), GitError> {
    let folder = folder(repository);
    let removed = disk::names(&folder).and_then(|names| {
        let unfinished = names.iter().filter(|name| name.starts_with(UNFINISHED));
        unfinished.into_iter().try_for_each(|name| disk::remove_if_there(&folder.join(name)))
    });
    removed.map_err(|error| GitError::file("tidying up", &folder, error))
}

/// The path of a pack's file before readers find it. Git and gix take every file that ends in `.idx` for the index of a pack.
fn hidden_path(folder: &Path, name: ObjectId, end: &str) -> PathBuf {
    folder.join(format!("{UNFINISHED}{end}_{name}"))
}

fn path(folder: &Path, name: ObjectId, end: &str) -> PathBuf {
    folder.join(format!("pack-{name}.{end}"))
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o444).open(path);
    let mut file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(path).and_then(|()| create())?,
        created => created?,
    };
    parts.iter().try_for_each(|part| file.write_all(part))
}

/// Keeps the packs of a repository that are there now, as long as it lives: for a program that has listed them and cannot
/// go on without one, such as `git repack`.
#[must_use]
pub struct PacksHeld(#[expect(dead_code, reason = "that it is alive is what counts")] Arc<()>);

/// Packs that others have replaced and that go after a while.
#[derive(Default)]
pub(crate) struct Replaced {
    /// In the order in which they were replaced: when, the repository and the name.
    packs: VecDeque<(Instant, Arc<Path>, ObjectId)>,
    holds: Vec<(PathBuf, Weak<()>)>,
}

impl Replaced {
    /// Has a pack go that another one in the repository has taken the place of.
    pub(crate) fn add(&mut self, repository: &Path, name: ObjectId) {
        self.packs.push_back((Instant::now(), repository.into(), name));
    }

    /// Keeps all packs of a repository.
    pub(crate) fn hold(&mut self, repository: &Path) -> PacksHeld {
        let held = Arc::new(());
        self.holds.push((repository.to_owned(), Arc::downgrade(&held)));
        PacksHeld(held)
    }

    /// Removes the packs that were replaced long enough ago.
    pub(crate) fn remove_old(&mut self) {
        self.remove(|since| since.elapsed() >= GRACE);
    }

    /// Removes all packs that were replaced and that nobody holds.
    pub(crate) fn remove_all(&mut self) {
        self.remove(|_| true);
    }

    fn remove(&mut self, is_old: impl Fn(&Instant) -> bool) {
        self.holds.retain(|(_, held)| held.strong_count() > 0);
        let mut kept = VecDeque::new();
        while let Some((since, repository, name)) = self.packs.pop_front_if(|(since, ..)| is_old(since)) {
            if self.holds.iter().any(|(held, _)| **held == *repository) {
                kept.push_back((since, repository, name));
            } else if let Err(error) = remove(&repository, name) {
                // It takes room, and nothing else: another pack has all that is in it.
                warn!(error = &error as &dyn Error, "a pack that was replaced stays");
            }
        }
        kept.append(&mut self.packs);
        self.packs = kept;
    }
}

/// Removes a pack. It need not be there: a program that repacks may have been first.
fn remove(repository: &Path, name: ObjectId) -> Result<(), GitError> {
    let folder = folder(repository);
    // Without the index it is no pack any more.
    let ends = ["idx", "pack"].into_iter();
    let removed = ends.map(|end| path(&folder, name, end)).try_for_each(|path| disk::remove_if_there(&path));
    removed.map_err(|error| GitError::file("removing a pack from", &folder, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack;

    /// Writes a pack with this blob into a repository.
    fn written(repository: &Path, content: &[u8]) -> ObjectId {
        let mut pack = Pack::new(0);
        let id = pack::id_of(gix::objs::Kind::Blob, content).unwrap();
        pack.add(gix::objs::Kind::Blob, id, content);
        let whole = pack.finish();
        write(repository, &pack, &whole).unwrap();
        whole.name
    }

    #[test]
    fn a_pack_is_written_again_over_whatever_is_left_of_it() {
        let repository = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder(repository.path())).unwrap();
        let name = written(repository.path(), b"one");
        let paths = ["pack", "idx"].map(|end| path(&folder(repository.path()), name, end));
        let whole = paths.each_ref().map(|path| fs::read(path).unwrap());
        for path in &paths {
            fs::remove_file(path).unwrap();
            fs::write(path, "").unwrap();
            fs::write(folder(repository.path()).join(format!("{UNFINISHED}pack_{name}")), "").unwrap();
            assert_eq!(written(repository.path(), b"one"), name);
        }
        assert_eq!(paths.map(|path| fs::read(path).unwrap()), whole);
        fs::write(folder(repository.path()).join(format!("{UNFINISHED}idx_{name}")), "").unwrap();
        remove_unfinished(repository.path()).unwrap();
        assert_eq!(fs::read_dir(folder(repository.path())).unwrap().count(), 2);
    }

    #[test]
    fn a_pack_that_was_replaced_goes_when_it_is_old_and_nobody_holds_it() {
        let repositories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut replaced = Replaced::default();
        for repository in &repositories {
            fs::create_dir_all(folder(repository.path())).unwrap();
            let name = written(repository.path(), b"one");
            replaced.add(repository.path(), name);
        }
        let left = || repositories.each_ref().map(|it| fs::read_dir(folder(it.path())).unwrap().count());
        replaced.remove_old();
        assert_eq!(left(), [2, 2], "whoever has listed it may open it");
        let held = replaced.hold(repositories[0].path());
        replaced.remove_all();
        assert_eq!(left(), [2, 0]);
        drop(held);
        // Somebody else may have removed it.
        fs::remove_file(path(&folder(repositories[0].path()), written(repositories[0].path(), b"one"), "idx")).unwrap();
        replaced.remove_all();
        assert_eq!(left(), [0, 0]);
    }
}
