//! A disk that keeps in memory what was written until it is told to sync, as real ones do: after a power cut it has what
//! was synced, and of the rest some blocks and not others.

use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path, process::Command};

use end_to_end::{output, random::Random};

/// What a disk writes whole or not at all.
const BLOCK: u64 = 4096;

type Block = [u8; BLOCK as usize];

/// A disk over a file that has what was synced.
pub struct Volatile {
    synced: File,
    size: u64,
    pending: BTreeMap<u64, Box<Block>>,
}

impl Volatile {
    pub fn over(image: &Path) -> io::Result<Self> {
        let synced = File::options().read(true).write(true).open(image)?;
        let size = synced.metadata()?.len();
        assert_eq!(size % BLOCK, 0, "the size of a disk is a number of blocks");
        Ok(Self { synced, size, pending: BTreeMap::new() })
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
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (number, inner) = (at / BLOCK, (at % BLOCK) as usize);
            let (now, later) = rest.split_at(rest.len().min(BLOCK as usize - inner));
            let mut block = self.block(number)?;
            block[inner..inner + now.len()].copy_from_slice(now);
            self.pending.insert(number, block);
            (at, rest) = (at + now.len() as u64, later);
        }
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        for (number, block) in std::mem::take(&mut self.pending) {
            self.synced.write_all_at(&*block, number * BLOCK)?;
        }
        Ok(())
    }

    /// Writes what a power cut would leave now: what was synced, and each other block by chance. Returns how many blocks
    /// were lost and how many were not, of those that nobody has synced.
    pub fn cut(&self, image: &Path, left: &Path, random: &mut Random) -> io::Result<(usize, usize)> {
        let copied = output(Command::new("cp").arg("--sparse=always").arg(image).arg(left));
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let left = File::options().write(true).open(left)?;
        let mut kept = 0;
        for (number, block) in &self.pending {
            if random.between(0, 1) == 0 {
                left.write_all_at(&**block, number * BLOCK)?;
                kept += 1;
            }
        }
        Ok((self.pending.len() - kept, kept))
    }

    fn block(&self, number: u64) -> io::Result<Box<Block>> {
        if let Some(block) = self.pending.get(&number) {
            return Ok(block.clone());
        }
        let mut block = Box::new([0; BLOCK as usize]);
        self.synced.read_exact_at(&mut *block, number * BLOCK)?;
        Ok(block)
    }
}
