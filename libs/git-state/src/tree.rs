//! The trees of a tip, in memory as the bytes that they are in Git.
//!
//! The edits of a commit are spliced into these bytes, and the splices *are* the delta to the tree before: nothing is parsed
//! into a structure and nothing is compared. Folders are read when an edit leads into them, and stay.

use std::{cmp::Ordering, collections::BTreeMap};

use gix::{ObjectId, bstr::ByteSlice, objs::Kind};

use crate::{
    GitError, TreePath,
    pack::{self, Pack, Place, delta::Delta},
};

const FILE: &[u8] = b"100644";
const FOLDER: &[u8] = b"40000";

/// So many splices are carried out one by one, each at the cost of moving what follows; more, all at once in other memory.
const IN_PLACE: usize = 4;

/// The length of an id in a tree.
const ID: usize = 20;

/// Reads the bytes of a tree that the repository has.
pub(crate) type ReadTree<'a> = &'a dyn Fn(ObjectId) -> Result<Vec<u8>, GitError>;

/// What a commit changes in one folder, by name.
#[derive(Debug, Default)]
pub(crate) struct Edits(BTreeMap<String, Edit>);

#[derive(Debug)]
enum Edit {
    /// A file with this content, in the place of whatever has the name.
    Put(ObjectId),
    /// The name has no file any more; a folder stays.
    Remove,
    /// Edits in a folder. One that becomes empty is no longer there.
    Folder {
        edits: Edits,
        /// An earlier edit of the commit has taken away whatever had the name.
        fresh: bool,
        /// If the folder is empty in the end, so that a file may have the name, then that is removed.
        remove_file: bool,
    },
}

impl Edits {
    /// Puts a file, after all edits until now.
    pub(crate) fn put(&mut self, path: &TreePath, id: ObjectId) {
        self.put_below(path.as_str(), id);
    }

    /// Removes a file, after all edits until now. It need not exist.
    pub(crate) fn remove(&mut self, path: &TreePath) {
        self.remove_below(path.as_str());
    }

    fn put_below(&mut self, path: &str, id: ObjectId) {
        let Some((folder, rest)) = path.split_once('/') else {
            self.0.insert(path.to_owned(), Edit::Put(id));
            return;
        };
        let edit = self.0.entry(folder.to_owned()).or_insert_with(Edit::folder);
        if let Edit::Put(_) = edit {
            *edit = Edit::Folder { edits: Self::default(), fresh: true, remove_file: false };
        }
        if let Some(edits) = edit.below() {
            edits.put_below(rest, id);
        }
        // The folder has taken the place of a file, also if it is empty in the end.
        if let Edit::Folder { remove_file, .. } = edit {
            *remove_file = true;
        }
    }

    fn remove_below(&mut self, path: &str) {
        let Some((folder, rest)) = path.split_once('/') else {
            match self.0.entry(path.to_owned()).or_insert(Edit::Remove) {
                // The file that was put may have taken the place of a folder.
                edit @ Edit::Put(_) => {
                    *edit = Edit::Folder { edits: Self::default(), fresh: true, remove_file: false };
                }
                Edit::Folder { remove_file, .. } => *remove_file = true,
                Edit::Remove => {}
            }
            return;
        };
        if let Some(edits) = self.0.entry(folder.to_owned()).or_insert_with(Edit::folder).below() {
            edits.remove_below(rest);
        }
    }
}

impl Edit {
    fn folder() -> Self {
        Self::Folder { edits: Edits::default(), fresh: false, remove_file: false }
    }

    /// The edits below this name; `None` when it is that of a file.
    fn below(&mut self) -> Option<&mut Edits> {
        if let Self::Remove = self {
            *self = Self::Folder { edits: Edits::default(), fresh: false, remove_file: true };
        }
        match self {
            Self::Folder { edits, .. } => Some(edits),
            Self::Put(_) | Self::Remove => None,
        }
    }
}

/// One folder of the tip.
#[derive(Default)]
pub(crate) struct Tree {
    bytes: Vec<u8>,
    /// Where the pack has it, if this tree was put there.
    place: Option<Place>,
    /// The folders in it that were read until now.
    folders: BTreeMap<Box<str>, Tree>,
    /// About how many bytes of memory those take.
    below: usize,
}

/// An entry of a tree: `<mode> <name>\0<id>`.
#[derive(Clone, Copy)]
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    mode: &'a [u8],
    name: &'a [u8],
}

impl Entry<'_> {
    fn id(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - ID..]
    }
}

/// An entry that has the name of an edit.
#[derive(Clone, Copy)]
struct Held {
    at: usize,
    length: usize,
    is_folder: bool,
    /// Whether it has one of the two modes that are written here.
    is_usual: bool,
}

/// What became of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edited {
    /// It is as it was.
    Same,
    /// It is another one now.
    Changed(ObjectId),
    /// Nothing is in it. Git has no such folders.
    Empty,
}

/// Bytes of a tree that others take the place of.
struct Splice {
    at: usize,
    remove: usize,
    insert: Vec<u8>,
}

impl Tree {
    /// Takes up a tree that the repository has.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Returns about how many bytes of memory the tree and the folders that were read take.
    pub(crate) fn size(&self) -> usize {
        self.bytes.capacity() + self.below
    }

    /// Keeps a folder that was read.
    fn keep(&mut self, name: &str, folder: Self) {
        self.below += size_in(name, &folder);
        drop(self.forget(name));
        self.folders.insert(name.into(), folder);
    }

    /// Takes out a folder that was read.
    fn forget(&mut self, name: &str) -> Option<Self> {
        let folder = self.folders.remove(name)?;
        self.below -= size_in(name, &folder);
        Some(folder)
    }

    /// Carries out edits and adds every tree that they change to the pack. After an error the tree must not be used any
    /// more.
    pub(crate) fn edit(&mut self, edits: Edits, pack: &mut Pack, read: ReadTree<'_>) -> Result<Edited, GitError> {
        let mut splices = Vec::with_capacity(edits.0.len());
        for (name, edit) in edits.0 {
            let held = self.find(name.as_bytes()).map(|entry| Held {
                at: entry.at,
                length: entry.bytes.len(),
                is_folder: entry.mode == FOLDER,
                is_usual: entry.mode == FOLDER || entry.mode == FILE,
            });
            let is_folder = held.is_some_and(|held| held.is_folder);
            let new = match edit {
                Edit::Put(id) => Some((FILE, id)),
                Edit::Remove if held.is_none() || is_folder => continue,
                Edit::Remove => None,
                Edit::Folder { edits, fresh, remove_file } => {
                    let mut below = if is_folder && !fresh { self.folder(&name, read)? } else { Self::default() };
                    let edited = below.edit(edits, pack, read)?;
                    if edited != Edited::Empty {
                        self.keep(&name, below);
                    }
                    match edited {
                        Edited::Same => continue,
                        Edited::Changed(id) => Some((FOLDER, id)),
                        // Nothing was put below it, so a file may keep the name.
                        Edited::Empty if held.is_none() || !(is_folder || fresh || remove_file) => continue,
                        Edited::Empty => None,
                    }
                }
            };
            if new.is_none_or(|(mode, _)| mode == FILE) {
                drop(self.forget(&name));
            }
            match (held, new) {
                // Only the id is another.
                (Some(held), Some((mode, id))) if held.is_usual && held.is_folder == (mode == FOLDER) => {
                    let at = held.at + held.length - ID;
                    splices.push(Splice { at, remove: ID, insert: id.as_slice().to_vec() });
                }
                (held, new) => {
                    if let Some(Held { at, length, .. }) = held {
                        splices.push(Splice { at, remove: length, insert: Vec::new() });
                    }
                    if let Some((mode, id)) = new {
                        let insert = [mode, b" ", name.as_bytes(), b"\0", id.as_slice()].concat();
                        splices.push(Splice { at: self.position(name.as_bytes(), mode == FOLDER), remove: 0, insert });
                    }
                }
            }
        }
        self.splice(splices, pack)
    }

    /// Takes out a folder that is in this one, to edit it.
    fn folder(&mut self, name: &str, read: ReadTree<'_>) -> Result<Self, GitError> {
        if let Some(folder) = self.forget(name) {
            return Ok(folder);
        }
        let id = self.find(name.as_bytes()).and_then(|entry| ObjectId::try_from(entry.id()).ok());
        Ok(Self::of(read(id.expect("a folder of the tree was found before"))?))
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = &self.bytes[at..];
            // A mode has five or six digits.
            let mode = if *rest.get(FOLDER.len())? == b' ' { FOLDER.len() } else { FILE.len() };
            let name = mode + 1 + rest.get(mode + 1..)?.find_byte(0)?;
            let bytes = rest.get(..name + 1 + ID)?;
            let entry = Entry { at, bytes, mode: &rest[..mode], name: &rest[mode + 1..name] };
            at += bytes.len();
            Some(entry)
        })
    }

    fn find(&self, name: &[u8]) -> Option<Entry<'_>> {
        self.entries().find(|entry| entry.name == name)
    }

    /// Returns where an entry of this name has to stand.
    fn position(&self, name: &[u8], is_folder: bool) -> usize {
        let mut later = self.entries().filter(|entry| order(entry.name, entry.mode == FOLDER, name, is_folder).is_gt());
        later.next().map_or(self.bytes.len(), |entry| entry.at)
    }

    /// Carries out splices and adds the tree to the pack.
    fn splice(&mut self, mut splices: Vec<Splice>, pack: &mut Pack) -> Result<Edited, GitError> {
        splices.retain(|splice| self.bytes[splice.at..splice.at + splice.remove] != splice.insert);
        if splices.is_empty() {
            return Ok(if self.bytes.is_empty() { Edited::Empty } else { Edited::Same });
        }
        // What is inserted at one place is sorted as Git does it, and stands before what is removed there.
        splices.sort_by(|a, b| a.at.cmp(&b.at).then(a.remove.cmp(&b.remove)).then_with(|| inserted_order(a, b)));
        let added: usize = splices.iter().map(|splice| splice.insert.len()).sum();
        let removed: usize = splices.iter().map(|splice| splice.remove).sum();
        let mut delta = Delta::new(self.bytes.len(), self.bytes.len() + added - removed);
        let mut done = 0;
        for splice in &splices {
            delta.copy(done, splice.at - done);
            delta.insert(&splice.insert);
            done = splice.at + splice.remove;
        }
        delta.copy(done, self.bytes.len() - done);
        self.carry_out(&splices, added);
        if self.bytes.is_empty() {
            self.place = None;
            return Ok(Edited::Empty);
        }
        let id = pack::id_of(Kind::Tree, &self.bytes)?;
        let base = self.place.filter(|place| pack.can_be_base(*place));
        let delta = delta.finish();
        self.place = Some(match (pack.place_of(&id), base) {
            (Some(place), _) => place,
            (None, Some(base)) if delta.len() < self.bytes.len() => pack.add_delta(id, base, &delta),
            (None, _) => pack.add(Kind::Tree, id, &self.bytes),
        });
        Ok(Edited::Changed(id))
    }

    /// Has room for so many bytes more. Thousands of trees grow by an entry at a time, and lengths of all kinds would leave holes in
    /// memory that fit none of them; so there are eight lengths for each power of two.
    fn make_room(&mut self, added: usize) {
        let wanted = self.bytes.len() + added;
        if self.bytes.capacity() < wanted {
            let step = (wanted.next_power_of_two() / 16).max(64);
            self.bytes.reserve_exact(wanted.next_multiple_of(step) - self.bytes.len());
        }
    }

    /// Puts what is inserted into the bytes, in the place of what is removed. `added` is the length of all that is inserted.
    fn carry_out(&mut self, splices: &[Splice], added: usize) {
        self.make_room(added);
        if splices.len() <= IN_PLACE {
            // From the end on, so that the places of the others stay.
            for Splice { at, remove, insert } in splices.iter().rev() {
                self.bytes.splice(*at..at + remove, insert.iter().copied());
            }
            return;
        }
        let mut bytes = Vec::with_capacity(self.bytes.capacity());
        let mut done = 0;
        for Splice { at, remove, insert } in splices {
            bytes.extend_from_slice(&self.bytes[done..*at]);
            bytes.extend_from_slice(insert);
            done = at + remove;
        }
        bytes.extend_from_slice(&self.bytes[done..]);
        self.bytes = bytes;
    }
}

/// About how many bytes of memory a folder takes in the one above it.
fn size_in(name: &str, folder: &Tree) -> usize {
    name.len() + folder.size() + 2 * size_of::<Tree>()
}

/// The order of two new entries that come to stand at one place.
fn inserted_order(a: &Splice, b: &Splice) -> Ordering {
    let key = |splice: &Splice| {
        let tree = Tree::of(splice.insert.clone());
        tree.entries().next().map(|entry| (entry.name.to_vec(), entry.mode == FOLDER))
    };
    match (key(a), key(b)) {
        (Some((a, a_folder)), Some((b, b_folder))) => order(&a, a_folder, &b, b_folder),
        _ => Ordering::Equal,
    }
}

/// Git's order of names in a tree: that of a folder is compared as if it ended in a slash.
fn order(a: &[u8], a_folder: bool, b: &[u8], b_folder: bool) -> Ordering {
    let common = a.len().min(b.len());
    let next = |name: &[u8], is_folder| name.get(common).copied().or(if is_folder { Some(b'/') } else { None });
    a[..common].cmp(&b[..common]).then_with(|| next(a, a_folder).cmp(&next(b, b_folder)))
}

#[cfg(test)]
mod tests;
