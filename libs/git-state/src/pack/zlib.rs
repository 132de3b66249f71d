//! Compressing objects and deltas. One compressor, which takes 300 KiB, serves all repositories of a thread.

use std::cell::RefCell;

use gix::zlib::{
    Compression, Status,
    stream::deflate::{Compress, FlushCompress},
};

/// Up to this length bytes are stored as they are: a compressor's fixed cost is higher than what it saves of ids, signatures and the
/// like, which is a quarter of them at most. So a commit, as a delta, is stored too. The sums of the checksum must not pass 32
/// bits, which they do not up to 4,000 bytes.
const STORED: usize = 448;

thread_local! {
    static COMPRESSOR: RefCell<(Compress, Vec<u8>)> =
        RefCell::new((Compress::new(Compression::BEST_SPEED), vec![0; 16 << 10]));
}

/// Appends a zlib stream of this content, compressed.
pub(crate) fn deflate(content: &[u8], out: &mut Vec<u8>) {
    COMPRESSOR.with_borrow_mut(|(compressor, buffer)| {
        compressor.reset();
        loop {
            let (taken, given) = (compressor.total_in(), compressor.total_out());
            let status = compressor.compress(&content[taken as usize..], buffer, FlushCompress::Finish);
            let status = status.expect("compressing from memory to memory cannot fail");
            out.extend_from_slice(&buffer[..(compressor.total_out() - given) as usize]);
            if status == Status::StreamEnd {
                break;
            }
        }
    });
}

/// Appends a zlib stream of this content, which is compressed if that is worth it.
pub(crate) fn deflate_or_store(content: &[u8], out: &mut Vec<u8>) {
    if content.len() > STORED {
        return deflate(content, out);
    }
    let [low, high] = (content.len() as u16).to_le_bytes();
    // The head of a zlib stream, and that of one last stored block.
    out.extend_from_slice(&[0x78, 0x01, 0x01, low, high, !low, !high]);
    out.extend_from_slice(content);
    let (mut sum, mut sums) = (1_u32, 0_u32);
    for byte in content {
        sum += u32::from(*byte);
        sums += sum;
    }
    out.extend_from_slice(&(((sums % 65_521) << 16) | (sum % 65_521)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use gix::zlib::Inflate;

    use super::*;

    fn inflate(stream: &[u8], length: usize) -> Vec<u8> {
        let mut content = vec![0; length];
        let (status, read, written) = Inflate::default().once(stream, &mut content).unwrap();
        assert_eq!((status, read, written), (Status::StreamEnd, stream.len(), length));
        content
    }

    #[test]
    fn what_is_compressed_or_stored_is_read_again() {
        let noise = |length: usize| -> Vec<u8> {
            let next = |state: &mut u64| {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Some((*state >> 56) as u8)
            };
            std::iter::repeat_n((), length).scan(length as u64, |state, ()| next(state)).collect()
        };
        for length in [0, 1, 2, STORED - 1, STORED, STORED + 1, 16 << 10, 3 << 20] {
            for content in [vec![0xff; length], noise(length)] {
                for compress in [deflate, deflate_or_store] {
                    let mut stream = Vec::new();
                    compress(&content, &mut stream);
                    assert_eq!(inflate(&stream, length), content);
                }
            }
        }
    }
}
