//! Writing loose objects, each a compressed file of its own, many in one go.
//!
//! Stock gix takes the memory of a compressor, 300 KiB, from the kernel anew for each object: 1,100 page faults for the
//! twenty small objects of an order. Here all objects share one.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use gix::{
    ObjectId,
    objs::Kind,
    zlib::{
        Compression, Status,
        stream::deflate::{Compress, FlushCompress},
    },
};

/// The length in bytes that a compressed object has at most in most cases, and by which a longer one grows.
const USUAL: usize = 4 << 10;

/// Writes objects into the folder `objects` of one repository.
pub(crate) struct LooseObjects {
    folder: PathBuf,
    compress: Compress,
    /// The object written last, compressed.
    compressed: Vec<u8>,
}

impl LooseObjects {
    /// Begins to write into a repository. It is the only writer there.
    pub(crate) fn of(repository: &Path) -> Self {
        let compress = Compress::new(Compression::BEST_SPEED);
        Self { folder: repository.join("objects"), compress, compressed: Vec::new() }
    }

    /// Writes an object, also one that seems to be there: whole or not at all, and perhaps lost with the next power cut.
    pub(crate) fn write(&mut self, id: ObjectId, kind: Kind, content: &[u8]) -> io::Result<()> {
        self.compress(kind, content)?;
        let (first, rest) = (id.to_hex_with_len(2).to_string(), &id.to_hex().to_string()[2..]);
        let folder = self.folder.join(first);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        // Stock git removes such a file when it tidies up, should nobody come back to it.
        let new = self.folder.join(format!("tmp_obj_{id}"));
        disk::remove_if_there(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&new)?;
        file.write_all(&self.compressed)?;
        fs::rename(&new, folder.join(rest))
    }

    /// Compresses the head of an object and its content into one stream.
    fn compress(&mut self, kind: Kind, content: &[u8]) -> io::Result<()> {
        self.compress.reset();
        self.compressed.clear();
        let head = gix::objs::encode::loose_header(kind, content.len() as u64);
        self.feed(&head, FlushCompress::None)?;
        self.feed(content, FlushCompress::Finish)
    }

    /// Compresses a part of the stream. The stream is whole with the part that is fed with `Finish`.
    fn feed(&mut self, part: &[u8], flush: FlushCompress) -> io::Result<()> {
        let begin = self.compress.total_in();
        loop {
            let fed = usize::try_from(self.compress.total_in() - begin).map_err(io::Error::other)?;
            let written = self.compressed.len();
            self.compressed.resize(written + USUAL, 0);
            let before = self.compress.total_out();
            let status = self.compress.compress(&part[fed..], &mut self.compressed[written..], flush);
            let status = status.map_err(|error| io::Error::other(error.to_string()))?;
            let added = usize::try_from(self.compress.total_out() - before).map_err(io::Error::other)?;
            self.compressed.truncate(written + added);
            let is_fed = self.compress.total_in() - begin == part.len() as u64;
            match flush {
                FlushCompress::Finish if status == Status::StreamEnd => return Ok(()),
                FlushCompress::None if is_fed => return Ok(()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gix::objs::Write as _;

    use super::*;

    #[test]
    fn every_object_is_read_as_it_was_written() {
        let repository = tempfile::tempdir().unwrap();
        fs::create_dir(repository.path().join("objects")).unwrap();
        let stock = gix::odb::loose::Store::at(repository.path().join("objects"), gix::hash::Kind::Sha1);
        let mut objects = LooseObjects::of(repository.path());
        // Does not compress: a small generator of numbers instead of a fixed text.
        let noise = |length: usize| -> Vec<u8> {
            let next = |state: &mut u64| {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Some((*state >> 56) as u8)
            };
            std::iter::repeat_n((), length).scan(length as u64, |state, ()| next(state)).collect()
        };
        for content in
            [vec![], b"one line\n".to_vec(), vec![7; 1 << 20], noise(USUAL - 64), noise(USUAL), noise(3 << 20)]
        {
            let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, Kind::Blob, &content).unwrap();
            for _again in 0..2 {
                objects.write(id, Kind::Blob, &content).unwrap();
                let mut buffer = Vec::new();
                let found = stock.try_find(&id, &mut buffer).unwrap().unwrap();
                assert_eq!((found.kind, found.data), (Kind::Blob, content.as_slice()));
            }
            assert_eq!(stock.write_buf(Kind::Blob, &content).unwrap(), id, "stock gix gives it the same name");
        }
        let left = fs::read_dir(repository.path().join("objects")).unwrap();
        assert!(left.flatten().all(|entry| entry.file_name().len() == 2), "nothing is left beside the objects");
    }
}
