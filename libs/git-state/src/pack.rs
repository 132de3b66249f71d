//! A Git pack (version 2) that grows in memory, with deltas between its objects, and its index.
//!
//! Git allows a delta only to an object of the same pack, so the newest pack of a repository *rolls*: the next group of commits
//! is appended, and the whole is written as a new pack in the place of the one before, until it is large enough. So most objects
//! find their base, and small groups leave few packs. Between two groups the bytes of a pack are in its file alone, and an
//! [`Outline`] stays in memory.

pub(crate) mod delta;
mod index;
pub(crate) mod zlib;

use aws_lc_rs::digest;
use gix::{ObjectId, hash, hashtable::HashMap, objs::Kind};

use crate::GitError;

/// The longest chain of deltas. Stock git makes none that are longer, and each costs a reader one object more.
const MAX_DEPTH: u8 = 50;

/// The first bytes of a pack: its version, and place for the number of its objects.
const HEAD: &[u8; 12] = b"PACK\0\0\0\x02\0\0\0\0";

/// The most bytes that an entry has beside its content, about: its head, and what the compressed form adds.
const ENTRY_HEAD: usize = 64;

/// Git's number for an object that is a delta to one that stands at a distance before it in the pack.
const OFS_DELTA: u8 = 6;

/// A pack is replaced by a longer one only up to this length in bytes, however large the groups are: each group writes it
/// anew.
const ROLL: usize = 2 << 20;

/// A pack of this length in bytes is replaced by a longer one, however small the groups are.
const ROLL_ALWAYS: usize = 64 << 10;

/// A pack is replaced by a longer one as long as it is not longer than so many groups.
const ROLL_GROUPS: usize = 4;

/// Where an object stands in a pack. It can be the base of a delta in that pack only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pack: u32,
    offset: u32,
    depth: u8,
}

/// An object of a pack, as the index wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: ObjectId,
    pub(crate) offset: u32,
    crc: u32,
    depth: u8,
}

/// A pack without its checksum, which grows.
pub(crate) struct Pack {
    /// Tells the packs of one repository apart. It rises with each that is begun.
    number: u32,
    body: Vec<u8>,
    /// In the order in which they were added.
    entries: Vec<Entry>,
    /// Where in `entries` an object is.
    known: HashMap<ObjectId, u32>,
}

/// What stays in memory of a pack whose bytes are read again to go on with it.
pub(crate) struct Outline {
    number: u32,
    length: usize,
    entries: Box<[Entry]>,
}

/// How far a pack was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    length: usize,
    entries: usize,
}

impl Mark {
    /// Where every pack begins.
    pub(crate) const BEGIN: Self = Self { length: 0, entries: 0 };
}

/// A pack that is whole, and its index.
pub(crate) struct Whole {
    /// The checksum of the pack, which gives it its name.
    pub(crate) name: ObjectId,
    pub(crate) index: Vec<u8>,
}

impl Pack {
    /// Begins a pack. Among the packs of a repository the number has to be new.
    pub(crate) fn new(number: u32) -> Self {
        Self { number, body: HEAD.to_vec(), entries: Vec::new(), known: HashMap::default() }
    }

    /// Takes up a pack of which bytes and objects were kept, such as in the journal. Returns `None` when they do not fit.
    pub(crate) fn of(body: Vec<u8>, objects: &[(ObjectId, u32)]) -> Option<Self> {
        let mut pack = Self { body, ..Self::new(0) };
        let ends = objects.iter().skip(1).map(|(_, offset)| *offset as usize).chain([pack.body.len()]);
        for ((id, offset), end) in objects.iter().zip(ends) {
            let crc = crc32fast::hash(pack.body.get(*offset as usize..end)?);
            pack.entries.push(Entry { id: *id, offset: *offset, crc, depth: 0 });
        }
        (pack.body.len() >= HEAD.len() && pack.body.starts_with(&HEAD[..8])).then_some(pack)
    }

    /// Returns how far the pack is. What follows the mark of an empty one begins with the head of the pack.
    pub(crate) fn mark(&self) -> Mark {
        let length = if self.entries.is_empty() { 0 } else { self.body.len() };
        Mark { length, entries: self.entries.len() }
    }

    /// Returns the bytes since a mark.
    pub(crate) fn bytes_since(&self, mark: Mark) -> &[u8] {
        &self.body[mark.length..]
    }

    /// Returns the objects since a mark.
    pub(crate) fn entries_since(&self, mark: Mark) -> &[Entry] {
        &self.entries[mark.entries..]
    }

    /// Takes out what was added since a mark. Nothing of it may be used as a base any more.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        for entry in self.entries.drain(mark.entries..) {
            self.known.remove(&entry.id);
        }
        self.body.truncate(mark.length.max(HEAD.len()));
    }

    /// Drops what can be read again.
    pub(crate) fn into_outline(self) -> Outline {
        Outline { number: self.number, length: self.body.len(), entries: self.entries.into_boxed_slice() }
    }

    /// Returns where the pack has this object, if it does: no object stands in a pack twice.
    pub(crate) fn place_of(&self, id: &ObjectId) -> Option<Place> {
        let entry = self.entries[*self.known.get(id)? as usize];
        Some(Place { pack: self.number, offset: entry.offset, depth: entry.depth })
    }

    /// Tells whether a delta may be made to the object at this place.
    pub(crate) fn can_be_base(&self, place: Place) -> bool {
        place.pack == self.number && place.depth < MAX_DEPTH
    }

    /// Adds an object as it is. The pack must not have it.
    pub(crate) fn add(&mut self, kind: Kind, id: ObjectId, content: &[u8]) -> Place {
        let offset = self.begin_entry(number_of(kind), content.len());
        zlib::deflate(content, &mut self.body);
        self.end_entry(id, offset, 0)
    }

    /// Adds an object of this length that is compressed already. The pack must not have it.
    pub(crate) fn add_stream(&mut self, kind: Kind, id: ObjectId, length: usize, stream: &[u8]) -> Place {
        let offset = self.begin_entry(number_of(kind), length);
        self.body.extend_from_slice(stream);
        self.end_entry(id, offset, 0)
    }

    /// Adds an object as a delta to one that [`Pack::can_be_base`]. The pack must not have it.
    pub(crate) fn add_delta(&mut self, id: ObjectId, base: Place, delta: &[u8]) -> Place {
        let offset = self.begin_delta(base, delta.len());
        zlib::deflate_or_store(delta, &mut self.body);
        self.end_entry(id, offset, base.depth + 1)
    }

    /// Adds a delta of this length that is compressed already.
    pub(crate) fn add_delta_stream(&mut self, id: ObjectId, base: Place, length: usize, stream: &[u8]) -> Place {
        let offset = self.begin_delta(base, length);
        self.body.extend_from_slice(stream);
        self.end_entry(id, offset, base.depth + 1)
    }

    /// Writes what precedes a delta of this length.
    fn begin_delta(&mut self, base: Place, length: usize) -> u32 {
        let offset = self.begin_entry(OFS_DELTA, length);
        // The distance to the base: seven bits in a byte, the highest first, and one less in each but the last.
        let mut distance = offset - base.offset;
        let (mut bytes, mut at) = ([0; 5], 4);
        bytes[at] = (distance & 0x7f) as u8;
        while distance > 0x7f {
            distance = (distance >> 7) - 1;
            at -= 1;
            bytes[at] = 0x80 | (distance & 0x7f) as u8;
        }
        self.body.extend_from_slice(&bytes[at..]);
        offset
    }

    /// Writes the head of an entry: its kind and the length of its content, the lowest bits first.
    fn begin_entry(&mut self, kind: u8, length: usize) -> u32 {
        let offset = self.body.len() as u32;
        self.make_room(length);
        let (mut byte, mut rest) = ((kind << 4) | (length & 0xf) as u8, length >> 4);
        while rest > 0 {
            self.body.push(byte | 0x80);
            (byte, rest) = ((rest & 0x7f) as u8, rest >> 7);
        }
        self.body.push(byte);
        offset
    }

    /// Grows by an eighth where there is no room for an entry of this length. A vector would double, and packs are most of what is
    /// in memory of many repositories.
    fn make_room(&mut self, length: usize) {
        let wanted = length + ENTRY_HEAD;
        if self.body.capacity() - self.body.len() < wanted {
            self.body.reserve_exact(wanted.max(self.body.len() / 8));
        }
    }

    fn end_entry(&mut self, id: ObjectId, offset: u32, depth: u8) -> Place {
        let crc = crc32fast::hash(&self.body[offset as usize..]);
        self.known.insert(id, self.entries.len() as u32);
        self.entries.push(Entry { id, offset, crc, depth });
        Place { pack: self.number, offset, depth }
    }

    /// Makes the pack whole with what it has now. It may grow further.
    pub(crate) fn finish(&mut self) -> Whole {
        self.body[8..HEAD.len()].copy_from_slice(&(self.entries.len() as u32).to_be_bytes());
        let name = checksum_of(&self.body);
        Whole { name, index: index::of(&self.entries, name) }
    }

    /// Returns the bytes of the pack that [`Pack::finish`] has made whole; its name has to follow them.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

impl Outline {
    /// Returns the length in bytes of the pack without its checksum.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Tells whether the next group goes into this pack rather than into a new one. The last one was `group` bytes long.
    pub(crate) fn rolls_on(&self, group: usize) -> bool {
        self.length <= ROLL.min(ROLL_ALWAYS.max(ROLL_GROUPS * group))
    }

    /// Returns about how many bytes of memory the outline takes.
    pub(crate) fn size(&self) -> usize {
        self.entries.len() * size_of::<Entry>()
    }

    /// Goes on with the pack that has these bytes, without its checksum. Returns `None` when an object has others than were written.
    pub(crate) fn resume(self, body: Vec<u8>) -> Option<Pack> {
        let ends = self.entries.iter().skip(1).map(|entry| entry.offset as usize).chain([self.length]);
        let as_written = |(entry, end): (&Entry, usize)| {
            let bytes = body.get(entry.offset as usize..end);
            bytes.is_some_and(|bytes| crc32fast::hash(bytes) == entry.crc)
        };
        if body.len() != self.length || !body.starts_with(&HEAD[..8]) || !self.entries.iter().zip(ends).all(as_written)
        {
            return None;
        }
        let known = self.entries.iter().zip(0..).map(|(entry, at)| (entry.id, at)).collect();
        Some(Pack { number: self.number, body, entries: self.entries.into_vec(), known })
    }
}

/// Git's number for a kind of objects.
fn number_of(kind: Kind) -> u8 {
    match kind {
        Kind::Commit => 1,
        Kind::Tree => 2,
        Kind::Blob => 3,
        Kind::Tag => 4,
    }
}

/// Returns the id of an object. Fails when the content was made to collide with another one.
pub(crate) fn id_of(kind: Kind, content: &[u8]) -> Result<ObjectId, GitError> {
    gix::objs::compute_hash(hash::Kind::Sha1, kind, content).map_err(|error| GitError::Hash(error.into()))
}

/// Returns the checksum that ends a pack or an index. It guards against a failing disk and not against people, so the plain
/// SHA-1 will do, which takes half the time of one that looks for collisions.
fn checksum_of(bytes: &[u8]) -> ObjectId {
    let sum = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    ObjectId::from_bytes_or_panic(sum.as_ref())
}

#[cfg(test)]
mod tests;
