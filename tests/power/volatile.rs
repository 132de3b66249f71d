//! A disk that keeps in memory what was written until it is told to sync, as real ones do: after a power cut it has what
//! was synced, and of the rest some blocks and not others.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

use end_to_end::random::Random;

/// What a disk writes whole or not at all.
const BLOCK: u64 = 4096;

type Block = [u8; BLOCK as usize];

/// A disk over a file that has what was synced.
pub struct Volatile {
    synced: File,
    size: u64,
    pending: BTreeMap<u64, Box<Block>>,
    power: Power,
}

/// How long the disk has power.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    /// For so many writes and syncs more.
    For(u64),
    /// The next sync does not come about. Of what is written until then nobody knows what the disk still gets.
    Failing,
    Off,
}

impl Volatile {
    pub fn over(image: &Path) -> io::Result<Self> {
        let synced = File::options().read(true).write(true).open(image)?;
        let size = synced.metadata()?.len();
        assert_eq!(size % BLOCK, 0, "the size of a disk is a number of blocks");
        Ok(Self { synced, size, pending: BTreeMap::new(), power: Power::On })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads what was written last, up to the end of the disk.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = (offset + length as u64).min(self.size);
        let mut bytes = Vec::new();
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            bytes.extend_from_slice(&*self.block(number)?);
        }
        let begin = (offset % BLOCK) as usize;
        Ok(bytes.get(begin..begin + end.saturating_sub(offset) as usize).unwrap_or_default().to_vec())
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.use_power();
        if self.is_off() {
            return Err(off());
        }
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (number, inner) = (at / BLOCK, (at % BLOCK) as usize);
            let (now, later) = rest.split_at(rest.len().min(BLOCK as usize - inner));
            let mut block = if now.len() == BLOCK as usize { empty() } else { self.block(number)? };
            block[inner..inner + now.len()].copy_from_slice(now);
            self.pending.insert(number, block);
            (at, rest) = (at + now.len() as u64, later);
        }
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        self.use_power();
        if self.power == Power::Failing {
            self.power = Power::Off;
        }
        if self.is_off() {
            return Err(off());
        }
        for (number, block) in std::mem::take(&mut self.pending) {
            self.synced.write_all_at(&*block, number * BLOCK)?;
        }
        Ok(())
    }

    /// Cuts the power after so many writes and syncs more, at the next sync.
    pub fn cut_after(&mut self, operations: u64) {
        self.power = Power::For(operations);
    }

    pub fn is_off(&self) -> bool {
        self.power == Power::Off
    }

    /// Puts what a power cut has left into the file: what was synced, and each other block by chance. Returns how many blocks were
    /// lost and how many were not, of those that nobody has synced.
    pub fn leave(&mut self, random: &mut Random) -> io::Result<(usize, usize)> {
        let (mut lost, mut kept) = (0, 0);
        for (number, block) in std::mem::take(&mut self.pending) {
            if random.between(0, 1) == 0 {
                self.synced.write_all_at(&*block, number * BLOCK)?;
                kept += 1;
            } else {
                lost += 1;
            }
        }
        Ok((lost, kept))
    }

    fn use_power(&mut self) {
        self.power = match self.power {
            Power::For(0) => Power::Failing,
            Power::For(operations) => Power::For(operations - 1),
            same => same,
        };
    }

    fn block(&self, number: u64) -> io::Result<Box<Block>> {
        if let Some(block) = self.pending.get(&number) {
            return Ok(block.clone());
        }
        let mut block = empty();
        self.synced.read_exact_at(&mut *block, number * BLOCK)?;
        Ok(block)
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

fn empty() -> Box<Block> {
    Box::new([0; BLOCK as usize])
}
