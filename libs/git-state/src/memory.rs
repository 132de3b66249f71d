//! What the writer keeps in memory of a repository between two groups of commits: the trees of the tip, the pack that
//! rolls, and the last object of each kind, to which the next one is a delta.
//!
//! All of it can be dropped at any time. Then trees are read from the repository again, and a new pack is begun: no object is
//! trusted because it seems to be there, so whatever a commit adds is written again.

use std::{collections::BTreeMap, sync::Arc};

use gix::{ObjectId, objs::Kind};

use crate::{
    Bases, Blob, CommitId, FileChange, GitError,
    blob::{Form, LONGEST_BASE, kind_of},
    journal::Epoch,
    pack::{self, Mark, Pack, Place, delta},
    tree::{Edited, Edits, ReadTree, Tree},
};

/// The bytes that all repositories may take in memory together, about.
pub(crate) const BUDGET: usize = 36 << 20;

/// The bytes that the trees of others may take beside them, about.
pub(crate) const TREES: usize = 12 << 20;

/// How many kinds of objects a repository has at most here. The layout has fewer; beyond that all are forgotten.
const KINDS: usize = 32;

/// A repository in memory.
pub(crate) struct Memory {
    /// The commit that all of it follows.
    tip: Option<CommitId>,
    /// The id of `root`.
    root_id: ObjectId,
    root: Tree,
    pack: Pack,
    /// The name under which the pack stands in the repository, without what was added since.
    written: Option<ObjectId>,
    /// When the pack was begun: a pack is never longer than what the journal holds of it.
    epoch: Epoch,
    /// How many bytes the last group had.
    group: usize,
    /// The last object of each kind.
    last: BTreeMap<String, (Arc<[u8]>, Place)>,
}

impl Memory {
    /// Begins with what the repository has at this commit, whose tree has this id and content.
    pub(crate) fn of(tip: Option<CommitId>, root_id: ObjectId, root: Vec<u8>, epoch: Epoch) -> Self {
        let (root, pack) = (Tree::of(root), Pack::new(0));
        Self { tip, root_id, root, pack, written: None, epoch, group: 0, last: BTreeMap::new() }
    }

    /// Drops all but the trees. The next commit begins another pack.
    pub(crate) fn without_pack(self) -> Self {
        let pack = Pack::new(self.pack.number().wrapping_add(1));
        Self { pack, written: None, group: 0, last: BTreeMap::new(), ..self }
    }

    /// Begins a series of commits, and a new pack for it where that is due. Returns how far the pack is.
    pub(crate) fn begin(&mut self, epoch: Epoch) -> Mark {
        if self.epoch != epoch || !self.pack.rolls_on(self.group) {
            self.pack = Pack::new(self.pack.number().wrapping_add(1));
            (self.written, self.epoch) = (None, epoch);
        }
        self.pack.mark()
    }

    pub(crate) fn tip(&self) -> Option<CommitId> {
        self.tip
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn pack(&mut self) -> &mut Pack {
        &mut self.pack
    }

    pub(crate) fn pack_so_far(&self) -> &Pack {
        &self.pack
    }

    /// Says that the pack stands in the repository under this name, with so many bytes more than before, and the branch at
    /// this commit. Returns the pack that it replaces.
    pub(crate) fn is_written(&mut self, name: ObjectId, group: usize, tip: Option<CommitId>) -> Option<ObjectId> {
        (self.group, self.tip) = (group, tip);
        self.written.replace(name).filter(|before| *before != name)
    }

    /// Returns what files become deltas to that are added next.
    pub(crate) fn bases(&self) -> Bases {
        Bases::of(self.last.iter().map(|(kind, (content, _))| (kind, content)))
    }

    /// Adds changed files and the trees above them to the pack. `ready` are those that were made ready, in the order of the
    /// changes. Returns the id of the tree.
    pub(crate) fn edit(
        &mut self,
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
                Some(Some(blob)) => self.add_ready(&kind, blob),
                Some(None) | None => self.add(Kind::Blob, &kind, content)?,
            };
            edits.put(path, id);
        }
        match self.root.edit(edits, &mut self.pack, read)? {
            Edited::Same => {}
            Edited::Changed(id) => self.root_id = id,
            Edited::Empty => {
                self.root_id = pack::id_of(Kind::Tree, b"")?;
                if self.pack.place_of(&self.root_id).is_none() {
                    self.pack.add(Kind::Tree, self.root_id, b"");
                }
            }
        }
        Ok(self.root_id)
    }

    /// Adds an object, as a delta to the last one that is like it where that is shorter.
    pub(crate) fn add(&mut self, kind: Kind, like: &str, content: &[u8]) -> Result<ObjectId, GitError> {
        let id = pack::id_of(kind, content)?;
        if self.pack.place_of(&id).is_some() {
            return Ok(id);
        }
        let place = self.compress(kind, like, id, content);
        if content.len() <= LONGEST_BASE {
            self.is_last(like, content.into(), place);
        }
        Ok(id)
    }

    /// Puts an object that the pack does not have into it, as a delta to the last one that is like it where that is shorter.
    fn compress(&mut self, kind: Kind, like: &str, id: ObjectId, content: &[u8]) -> Place {
        let base = self.last.get(like).filter(|(_, place)| self.pack.can_be_base(*place));
        let delta = base.and_then(|(base, place)| Some((*place, delta::between(base, content)?)));
        match delta {
            Some((base, delta)) => self.pack.add_delta(id, base, &delta),
            None => self.pack.add(kind, id, content),
        }
    }

    /// Adds a file that was made ready, as [`Memory::add`] would.
    fn add_ready(&mut self, like: &str, blob: &Blob) -> ObjectId {
        let Blob { content, id, base, form } = blob;
        if self.pack.place_of(id).is_some() {
            return *id;
        }
        let last = self.last.get(like).filter(|(_, place)| self.pack.can_be_base(*place));
        let fits = match (last, base) {
            (Some((last, _)), Some(base)) => Arc::ptr_eq(last, base),
            (None, _) => matches!(form, Form::Whole(_)),
            (Some(_), None) => false,
        };
        let place = match (last, form) {
            (_, Form::Whole(stream)) if fits => self.pack.add_stream(Kind::Blob, *id, content.len(), stream),
            (Some((_, place)), Form::Delta { length, stream }) if fits => {
                self.pack.add_delta_stream(*id, *place, *length, stream)
            }
            // It stands on another file than was thought.
            _ => self.compress(Kind::Blob, like, *id, content),
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
        self.root.size() + self.pack.size() + last + size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_alone_begin_another_pack_which_replaces_none() {
        let mut memory = Memory::of(None, ObjectId::null(gix::hash::Kind::Sha1), Vec::new(), Epoch::default());
        memory.begin(Epoch::default());
        let file = |content: &str| FileChange {
            path: "a/b".to_owned().try_into().unwrap(),
            content: Some(content.to_owned().into_bytes()),
        };
        let nothing_is_read = |_| panic!("all folders are in memory");
        let first = memory.edit(&[file("one")], &[], &nothing_is_read).unwrap();
        let name = memory.pack().finish().name;
        assert_eq!(memory.is_written(name, 10, None), None);
        let mut memory = memory.without_pack();
        assert_eq!(memory.begin(Epoch::default()), Mark::BEGIN);
        let second = memory.edit(&[file("two")], &[], &nothing_is_read).unwrap();
        assert_ne!(first, second);
        let name = memory.pack().finish().name;
        assert_eq!(memory.is_written(name, 10, None), None);
    }

    #[test]
    fn a_pack_rolls_on_within_one_epoch() {
        let mut memory = Memory::of(None, ObjectId::null(gix::hash::Kind::Sha1), Vec::new(), Epoch::default());
        let empty = memory.begin(Epoch::default());
        assert_eq!(empty, Mark::BEGIN);
        memory.add(Kind::Blob, "x", b"one").unwrap();
        let name = memory.pack().finish().name;
        assert_eq!(memory.is_written(name, 10, None), None);
        assert_ne!(memory.begin(Epoch::default()), empty);
        memory.add(Kind::Blob, "x", b"two").unwrap();
        let next = memory.pack().finish().name;
        assert_eq!(memory.is_written(next, 10, None), Some(name));
        assert_eq!(memory.begin(Epoch { file: 1, emptied: 0 }), empty);
        assert_eq!(memory.is_written(name, 10, None), None, "what stands in the journal's next life is no part of it");
    }
}
