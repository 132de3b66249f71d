//! What the writer keeps in memory of a repository between two groups of commits: the trees of the tip, where the objects of the
//! pack are that rolls, and the last object of each kind, to which the next one is a delta. The bytes of the pack are read again
//! from its file, and compared with what was written there; they would take more than all else.
//!
//! All of it can be dropped at any time. Then trees are read from the repository again, and a new pack is begun: no object is
//! trusted because it seems to be there, so whatever a commit adds is written again.

use std::{collections::BTreeMap, error::Error, path::Path, sync::Arc};

use gix::{ObjectId, objs::Kind};
use tracing::warn;

use crate::{
    Bases, Blob, CommitId, FileChange, GitError,
    blob::{Form, LONGEST_BASE, kind_of},
    journal::Epoch,
    pack::{Mark, Outline, Pack, Place, delta, id_of},
    pack_files,
    tree::{Edited, Edits, ReadTree, Tree},
};

/// The bytes that all repositories may take in memory together, about.
pub(crate) const BUDGET: usize = 36 << 20;

/// The bytes that the trees of others may take beside them, about.
pub(crate) const TREES: usize = 12 << 20;

/// How many kinds of objects a repository has at most here. The layout has fewer; beyond that all are forgotten.
const KINDS: usize = 32;

/// A repository in memory, between two series of commits.
pub(crate) struct Memory {
    /// The commit that all of it follows.
    tip: Option<CommitId>,
    /// The id of `root`.
    root_id: ObjectId,
    root: Tree,
    /// The pack of the last series.
    pack: Option<Written>,
    /// How many packs were begun.
    packs: u32,
    /// The last object of each kind.
    last: BTreeMap<String, (Arc<[u8]>, Place)>,
}

/// A pack that lies in the repository.
struct Written {
    outline: Outline,
    name: ObjectId,
    /// The life of the journal that has all of it: a pack is never longer than what the journal holds of it.
    epoch: Epoch,
    /// How many bytes the last group had.
    group: usize,
}

/// The pack of a series of commits, which are added to it.
pub(crate) struct Growing {
    pub(crate) pack: Pack,
    /// How far it was before the series.
    pub(crate) begin: Mark,
    /// The life of the journal that has all before.
    pub(crate) epoch: Epoch,
    /// The name under which the pack lies in the repository, without what is added.
    before: Option<ObjectId>,
}

impl Memory {
    /// Begins with what the repository has at this commit, whose tree has this id and content.
    pub(crate) fn of(tip: Option<CommitId>, root_id: ObjectId, root: Vec<u8>) -> Self {
        Self { tip, root_id, root: Tree::of(root), pack: None, packs: 0, last: BTreeMap::new() }
    }

    /// Drops all but the trees. The next series begins another pack.
    pub(crate) fn without_pack(self) -> Self {
        Self { pack: None, last: BTreeMap::new(), ..self }
    }

    /// Begins a series of commits in the repository at this path: with the pack of the one before, where that rolls on and still
    /// lies there.
    pub(crate) fn begin(&mut self, repository: &Path, epoch: Epoch) -> Growing {
        let rolls_on = |pack: &Written| pack.epoch == epoch && pack.outline.rolls_on(pack.group);
        let resumed = self.pack.take().filter(rolls_on).and_then(|pack| resume(repository, pack));
        let (pack, before) = match resumed {
            Some((pack, name)) => (pack, Some(name)),
            None => {
                self.packs = self.packs.wrapping_add(1);
                (Pack::new(self.packs), None)
            }
        };
        Growing { begin: pack.mark(), pack, epoch, before }
    }

    /// Keeps what a series has come to that lies in the repository under this name, with so many bytes more than before, and in
    /// this life of the journal; the branch is at this commit. Returns the pack that it replaces.
    pub(crate) fn ends(
        &mut self,
        growing: Growing,
        name: ObjectId,
        group: usize,
        epoch: Epoch,
        tip: CommitId,
    ) -> Option<ObjectId> {
        let Growing { pack, before, .. } = growing;
        self.tip = Some(tip);
        self.pack = Some(Written { outline: pack.into_outline(), name, epoch, group });
        before.filter(|before| *before != name)
    }

    pub(crate) fn tip(&self) -> Option<CommitId> {
        self.tip
    }

    /// Returns what files become deltas to that are added next.
    pub(crate) fn bases(&self) -> Bases {
        Bases::of(self.last.iter().map(|(kind, (content, _))| (kind, content)))
    }

    /// Adds changed files and the trees above them to the pack. `ready` are those that were made ready, in the order of the
    /// changes. Returns the id of the tree.
    pub(crate) fn edit(
        &mut self,
        pack: &mut Pack,
        changes: &[FileChange],
        ready: &[Option<Blob>],
        read: ReadTree<'_>,
    ) -> Result<ObjectId, GitError> {
        let (mut edits, mut ready) = (Edits::default(), ready.iter());
        for FileChange { path, content } in changes {
            let Some(content) = content else {
                edits.remove(path);
                continue;
            };
            let kind = kind_of(path.as_str());
            let id = match ready.next() {
                Some(Some(blob)) => self.add_ready(pack, &kind, blob),
                Some(None) | None => self.add(pack, Kind::Blob, &kind, content)?,
            };
            edits.put(path, id);
        }
        match self.root.edit(edits, pack, read)? {
            Edited::Same => {}
            Edited::Changed(id) => self.root_id = id,
            Edited::Empty => {
                self.root_id = id_of(Kind::Tree, b"")?;
                if pack.place_of(&self.root_id).is_none() {
                    pack.add(Kind::Tree, self.root_id, b"");
                }
            }
        }
        Ok(self.root_id)
    }

    /// Adds an object, as a delta to the last one that is like it where that is shorter.
    pub(crate) fn add(
        &mut self,
        pack: &mut Pack,
        kind: Kind,
        like: &str,
        content: &[u8],
    ) -> Result<ObjectId, GitError> {
        let id = id_of(kind, content)?;
        if pack.place_of(&id).is_some() {
            return Ok(id);
        }
        let place = self.compress(pack, kind, like, id, content);
        if content.len() <= LONGEST_BASE {
            self.is_last(like, content.into(), place);
        }
        Ok(id)
    }

    /// Puts an object that the pack does not have into it, as a delta to the last one that is like it where that is shorter.
    fn compress(&self, pack: &mut Pack, kind: Kind, like: &str, id: ObjectId, content: &[u8]) -> Place {
        let base = self.last.get(like).filter(|(_, place)| pack.can_be_base(*place));
        let delta = base.and_then(|(base, place)| Some((*place, delta::between(base, content)?)));
        match delta {
            Some((base, delta)) => pack.add_delta(id, base, &delta),
            None => pack.add(kind, id, content),
        }
    }

    /// Adds a file that was made ready, as [`Memory::add`] would.
    fn add_ready(&mut self, pack: &mut Pack, like: &str, blob: &Blob) -> ObjectId {
        let Blob { content, id, base, form } = blob;
        if pack.place_of(id).is_some() {
            return *id;
        }
        let last = self.last.get(like).filter(|(_, place)| pack.can_be_base(*place));
        let fits = match (last, base) {
            (Some((last, _)), Some(base)) => Arc::ptr_eq(last, base),
            (None, _) => matches!(form, Form::Whole(_)),
            (Some(_), None) => false,
        };
        let place = match (last, form) {
            (_, Form::Whole(stream)) if fits => pack.add_stream(Kind::Blob, *id, content.len(), stream),
            (Some((_, place)), Form::Delta { length, stream }) if fits => {
                pack.add_delta_stream(*id, *place, *length, stream)
            }
            // It stands on another file than was thought.
            _ => self.compress(pack, Kind::Blob, like, *id, content),
        };
        if content.len() <= LONGEST_BASE {
            self.is_last(like, content.clone(), place);
        }
        *id
    }

    /// Keeps what the next object of its kind becomes a delta to.
    fn is_last(&mut self, like: &str, content: Arc<[u8]>, place: Place) {
        if let Some(last) = self.last.get_mut(like) {
            *last = (content, place);
            return;
        }
        if self.last.len() >= KINDS {
            self.last.clear();
        }
        self.last.insert(like.to_owned(), (content, place));
    }

    /// Returns about how many bytes of memory all of it takes.
    pub(crate) fn size(&self) -> usize {
        let last: usize = self.last.values().map(|(base, _)| base.len() + 100).sum();
        let pack = self.pack.as_ref().map_or(0, |pack| pack.outline.size());
        self.root.size() + pack + last + size_of::<Self>()
    }
}

/// Reads a pack that lies in the repository, to go on with it.
fn resume(repository: &Path, pack: Written) -> Option<(Pack, ObjectId)> {
    let Written { outline, name, .. } = pack;
    let body = pack_files::read(repository, name, outline.length()).unwrap_or_else(|error| {
        warn!(error = &error as &dyn Error, "another pack is begun: the last one cannot be read");
        None
    });
    let resumed = outline.resume(body?);
    if resumed.is_none() {
        let repository = repository.display();
        warn!(%repository, pack = %name, "another pack is begun: the last one has other bytes than were written");
    }
    resumed.map(|pack| (pack, name))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::pack_files::Hidden;

    /// A repository that has nothing but a place for packs, and what is in memory of it.
    struct World {
        repository: TempDir,
        memory: Memory,
    }

    impl World {
        fn begin() -> Self {
            let repository = tempfile::tempdir().unwrap();
            fs::create_dir_all(repository.path().join("objects/pack")).unwrap();
            Self { repository, memory: Memory::of(None, ObjectId::null(gix::hash::Kind::Sha1), Vec::new()) }
        }

        /// Writes a series with one file. Returns how far its pack was before, the pack, and the one that this replaces.
        fn write(&mut self, content: &str, epoch: Epoch) -> (Mark, Hidden, Option<ObjectId>) {
            let mut growing = self.memory.begin(self.repository.path(), epoch);
            let file = FileChange {
                path: "a/b".to_owned().try_into().unwrap(),
                content: Some(content.to_owned().into_bytes()),
            };
            let nothing_is_read = |_| panic!("all folders are in memory");
            let tip = self.memory.edit(&mut growing.pack, &[file], &[], &nothing_is_read).unwrap();
            let (begin, whole) = (growing.begin, growing.pack.finish());
            let hidden = Hidden::write(self.repository.path(), &growing.pack, &whole).unwrap();
            let replaced = self.memory.ends(growing, whole.name, 10, epoch, CommitId(tip));
            (begin, hidden, replaced)
        }

        /// The names of the packs' files, and what is in them.
        fn packs(&self) -> BTreeMap<String, Vec<u8>> {
            let entries = fs::read_dir(self.repository.path().join("objects/pack")).unwrap();
            let files = entries.map(|entry| entry.unwrap());
            files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
        }
    }

    #[test]
    fn trees_alone_begin_another_pack_which_replaces_none() {
        let mut world = World::begin();
        let (_, _first, replaced) = world.write("one", Epoch::default());
        assert_eq!(replaced, None);
        world.memory = world.memory.without_pack();
        let (begin, _second, replaced) = world.write("two", Epoch::default());
        assert_eq!((begin, replaced), (Mark::BEGIN, None));
    }

    #[test]
    fn a_pack_rolls_on_within_one_epoch() {
        let mut world = World::begin();
        let (begin, mut first, _) = world.write("one", Epoch::default());
        assert_eq!(begin, Mark::BEGIN);
        // Its bytes are found before readers find it, and afterwards.
        let (begin, mut second, replaced) = world.write("two", Epoch::default());
        assert_ne!(begin, Mark::BEGIN);
        assert!(replaced.is_some());
        first.show().unwrap();
        second.show().unwrap();
        let (_, mut third, _) = world.write("three", Epoch::default());
        third.show().unwrap();
        let packs: Vec<_> = world.packs().into_iter().filter(|(name, _)| name.ends_with(".pack")).collect();
        let lengths = BTreeMap::from_iter(packs.iter().map(|(_, bytes)| (bytes[11], bytes)));
        assert_eq!(lengths.keys().copied().collect::<Vec<_>>(), [3, 6, 9], "each has the objects of the one before");
        assert!(lengths[&9][12..].starts_with(&lengths[&6][12..lengths[&6].len() - 20]));
        let (begin, _fourth, replaced) = world.write("four", Epoch { file: 1, emptied: 0 });
        assert_eq!((begin, replaced), (Mark::BEGIN, None), "what the journal has no more of is not replaced");
    }

    #[test]
    fn a_pack_that_has_gone_or_is_another_one_is_not_gone_on_with() {
        let mut world = World::begin();
        let (_, first, _) = world.write("one", Epoch::default());
        // As when a program that repacks has taken it.
        drop(first);
        assert!(world.packs().is_empty());
        let (begin, _second, replaced) = world.write("two", Epoch::default());
        assert_eq!((begin, replaced), (Mark::BEGIN, None));
        let damages: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes[20] ^= 1, |bytes| bytes.truncate(30), |bytes| bytes[0] = b'Q'];
        for damage in damages {
            let (_, mut hidden, _) = world.write("before", Epoch::default());
            hidden.show().unwrap();
            let written = world.memory.pack.as_ref().unwrap().name;
            let path = world.repository.path().join(format!("objects/pack/pack-{written}.pack"));
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            let (begin, _hidden, replaced) = world.write("after", Epoch::default());
            assert_eq!((begin, replaced), (Mark::BEGIN, None));
        }
    }
}
