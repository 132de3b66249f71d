//! The index of a pack, version 2: where its objects are, by their ids.

use gix::ObjectId;

use super::{Entry, checksum_of};

/// Returns the index of a pack that has these objects and this checksum.
pub(crate) fn of(entries: &[Entry], checksum: ObjectId) -> Vec<u8> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_unstable_by_key(|entry| entry.id);
    let mut index = Vec::with_capacity(8 + 1024 + sorted.len() * 28 + 40);
    index.extend_from_slice(b"\xfftOc\0\0\0\x02");
    // For each first byte of an id, how many ids begin with it or a lower one.
    let mut end = 0;
    for first in 0..=u8::MAX {
        end += sorted[end..].partition_point(|entry| entry.id.as_slice()[0] <= first);
        index.extend_from_slice(&(end as u32).to_be_bytes());
    }
    sorted.iter().for_each(|entry| index.extend_from_slice(entry.id.as_slice()));
    sorted.iter().for_each(|entry| index.extend_from_slice(&entry.crc.to_be_bytes()));
    sorted.iter().for_each(|entry| index.extend_from_slice(&entry.offset.to_be_bytes()));
    index.extend_from_slice(checksum.as_slice());
    let sum = checksum_of(&index);
    index.extend_from_slice(sum.as_slice());
    index
}
