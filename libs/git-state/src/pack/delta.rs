//! Deltas: an object as what it takes from another one, its base, and what is new.

use std::cell::RefCell;

/// The longest copy that one instruction takes here. Git's format allows 16 MiB, but readers differ beyond 64 KiB.
const LONGEST_COPY: usize = 0xffff;

/// The longest run of new bytes that one instruction holds.
const LONGEST_INSERT: usize = 127;

/// The bytes that have to be the same before a copy is worth an instruction.
const WORD: usize = 8;

/// The instructions that make an object out of its base, in Git's form.
pub(crate) struct Delta {
    bytes: Vec<u8>,
    /// A copy that the next one may prolong: where it begins in the base, and its length.
    copied: (usize, usize),
}

impl Delta {
    /// Begins a delta between objects of these lengths.
    pub(crate) fn new(base: usize, object: usize) -> Self {
        let mut bytes = Vec::with_capacity(64);
        for mut length in [base, object] {
            while length > 0x7f {
                bytes.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            bytes.push(length as u8);
        }
        Self { bytes, copied: (0, 0) }
    }

    /// Takes bytes from the base.
    pub(crate) fn copy(&mut self, from: usize, length: usize) {
        let (begin, before) = self.copied;
        if before > 0 && begin + before == from {
            self.copied.1 += length;
        } else {
            self.end_copy();
            self.copied = (from, length);
        }
    }

    /// Adds bytes that the base does not have.
    pub(crate) fn insert(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.end_copy();
        }
        for run in bytes.chunks(LONGEST_INSERT) {
            self.bytes.push(run.len() as u8);
            self.bytes.extend_from_slice(run);
        }
    }

    /// Returns the instructions.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end_copy();
        self.bytes
    }

    fn end_copy(&mut self) {
        let (mut from, mut left) = std::mem::take(&mut self.copied);
        while left > 0 {
            let length = left.min(LONGEST_COPY);
            let at = self.bytes.len();
            self.bytes.push(0x80);
            // Only the bytes that are not zero are there, and the first byte says which.
            let offset = (from as u32).to_le_bytes().into_iter().zip([1, 2, 4, 8]);
            let size = (length as u16).to_le_bytes().into_iter().zip([0x10, 0x20]);
            for (byte, flag) in offset.chain(size).filter(|(byte, _)| *byte != 0) {
                self.bytes.push(byte);
                self.bytes[at] |= flag;
            }
            from += length;
            left -= length;
        }
    }
}

const BITS: u32 = 10;

thread_local! {
    static WORDS: RefCell<Words> = RefCell::new(Words(vec![u32::MAX; 1 << BITS]));
}

/// Returns the instructions that make `object` from `base`, and `None` when they would not be much shorter than it. Finds
/// what two texts have in common, beginning at words: blobs and commits are much like the one before of their kind.
pub(crate) fn between(base: &[u8], object: &[u8]) -> Option<Vec<u8>> {
    WORDS.with_borrow_mut(|words| words.delta(base, object))
}

/// For each hash of the bytes at the begin of a word of the base, where that is; `u32::MAX` when there is none.
struct Words(Vec<u32>);

impl Words {
    fn delta(&mut self, base: &[u8], object: &[u8]) -> Option<Vec<u8>> {
        self.0.fill(u32::MAX);
        for at in (0..base.len().saturating_sub(WORD)).rev().filter(|at| begins_a_word(base, *at)) {
            self.0[slot(&base[at..])] = at as u32;
        }
        let mut delta = Delta::new(base.len(), object.len());
        // What is written of the object; where the base went on after the last copy.
        let (mut at, mut done, mut expected) = (0, 0, 0);
        while at + WORD <= object.len() {
            let found = begins_a_word(object, at).then(|| self.find(base, &object[at..at + WORD], expected)).flatten();
            let Some(found) = found else {
                at += 1;
                continue;
            };
            let before = base[..found].iter().rev().zip(object[done..at].iter().rev());
            let back = before.take_while(|(base, object)| base == object).count();
            let after = base[found..].iter().zip(&object[at..]);
            let forth = after.take_while(|(base, object)| base == object).count();
            delta.insert(&object[done..at - back]);
            delta.copy(found - back, back + forth);
            (at, done, expected) = (at + forth, at + forth, found + forth);
        }
        delta.insert(&object[done..]);
        let delta = delta.finish();
        (delta.len() * 4 < object.len() * 3).then_some(delta)
    }

    /// Returns where the base has this word. The place behind the last copy comes first: texts of one kind have one order.
    fn find(&self, base: &[u8], word: &[u8], expected: usize) -> Option<usize> {
        let other = self.0[slot(word)];
        let places = [Some(expected), (other != u32::MAX).then_some(other as usize)];
        places.into_iter().flatten().find(|at| base.get(*at..*at + WORD) == Some(word))
    }
}

fn begins_a_word(text: &[u8], at: usize) -> bool {
    at == 0 || matches!(text[at - 1], b'\n' | b' ' | b'"' | b':' | b'/')
}

/// The hash of the first word of these bytes, of which there are enough.
fn slot(bytes: &[u8]) -> usize {
    let word = bytes.first_chunk::<WORD>().map_or(0, |word| u64::from_le_bytes(*word));
    (word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BITS)) as usize
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Carries out the instructions, as a reader does.
    pub(crate) fn apply(base: &[u8], delta: &[u8]) -> Vec<u8> {
        let mut bytes = delta.iter().copied();
        let mut next = || bytes.next();
        let mut length = || {
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = next().unwrap();
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break length;
                }
            }
        };
        let (from, to) = (length(), length());
        assert_eq!(from, base.len());
        let mut object = Vec::new();
        while let Some(instruction) = next() {
            if instruction & 0x80 == 0 {
                object.extend((0..instruction).map(|_| next().unwrap()));
                continue;
            }
            let mut number = |flags: &[u8]| {
                let byte = |(at, flag): (usize, &u8)| {
                    if instruction & flag != 0 { usize::from(next().unwrap()) << (8 * at) } else { 0 }
                };
                flags.iter().enumerate().map(byte).sum::<usize>()
            };
            let (begin, size) = (number(&[1, 2, 4, 8]), number(&[0x10, 0x20, 0x40]));
            object.extend_from_slice(&base[begin..begin + size]);
        }
        assert_eq!(object.len(), to);
        object
    }

    #[test]
    fn what_is_long_takes_several_instructions() {
        let base: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let mut delta = Delta::new(base.len(), 199_990 + 300);
        delta.copy(10, 100);
        delta.copy(110, 199_890);
        delta.insert(&[7; 300]);
        let expected = [&base[10..], &[7; 300]].concat();
        assert_eq!(apply(&base, &delta.finish()), expected);
    }

    #[test]
    fn a_text_that_is_much_like_another_becomes_short() {
        let base: String = (0..100).map(|at| format!("line: {at} of /a/text\n")).collect();
        let object = base.replace("line: 50 of", "line: fifty of") + "and one more\n";
        let delta = between(base.as_bytes(), object.as_bytes()).unwrap();
        assert!(delta.len() < 50, "{}", delta.len());
        assert_eq!(apply(base.as_bytes(), &delta), object.as_bytes());
        assert!(between(base.as_bytes(), b"short").is_none());
    }

    proptest! {
        #[test]
        fn a_delta_makes_the_object(
            words in proptest::collection::vec("[ab]{0,9}[ /\n:]", 0..40),
            picks in proptest::collection::vec((any::<prop::sample::Index>(), "[abc ]{0,5}"), 0..60),
        ) {
            let base = words.concat();
            let part = |(pick, own): &(prop::sample::Index, String)| match words.is_empty() {
                true => own.clone(),
                false => format!("{}{own}", words[pick.index(words.len())]),
            };
            let object: String = picks.iter().map(part).collect();
            if let Some(delta) = between(base.as_bytes(), object.as_bytes()) {
                prop_assert_eq!(apply(base.as_bytes(), &delta), object.as_bytes());
            }
        }
    }
}
