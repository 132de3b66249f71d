//! Digests of bytes that are written or read piece by piece.

use margo::Digest;
use sha2::{Digest as _, Sha256};

/// Counts and digests bytes as they are written or read.
#[derive(Clone, Default)]
pub(crate) struct Digester {
    sum: Sha256,
    size: u64,
}

impl Digester {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// Returns how many bytes have passed so far.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn finish(self) -> Digest {
        Digest::from_sha256(self.sum.finalize().into())
    }
}
