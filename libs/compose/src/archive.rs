//! The Compose Archive: a tar.gz with exactly one folder at its top, and a file `compose.yaml` in that folder.
//!
//! What the archive says about itself is not believed: what its entries are called, where links lead and how long it all
//! is when it is unpacked is checked entry by entry, once without writing anything and once more while it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder, read::GzDecoder};
use tar::{Builder, EntryType, Header};

/// The name that the file in the archive must have (APP-04).
pub const FILE_NAME: &str = "compose.yaml";

/// The longest archive when it is unpacked: 16 MiB. It carries configuration; data is in images and volumes.
pub const MAX_ARCHIVE: u64 = 16 << 20;

/// More files and folders than any configuration has.
const MAX_ENTRIES: usize = 1_000;

/// The longest path in the archive, in bytes.
const MAX_PATH: usize = 255;

/// The longest `compose.yaml`.
const MAX_COMPOSE_FILE: u64 = 256 << 10;

/// An archive is refused, or could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes are no tar in gzip, or end too early.
    #[error("reading the Compose Archive")]
    Read(#[source] io::Error),
    /// The archive is too long or holds too much.
    #[error("a Compose Archive holds at most {MAX_ENTRIES} entries and {MAX_ARCHIVE} bytes")]
    TooLarge,
    /// An entry breaks a rule.
    #[error("entry {path:?}: {rule}")]
    Entry {
        /// The path of the entry, its first 255 characters.
        path: String,
        /// The rule that the entry breaks.
        rule: &'static str,
    },
    /// The archive as a whole breaks a rule.
    #[error("{0}")]
    Rule(&'static str),
    /// The disk failed.
    #[error("{attempt} {}", path.display())]
    Disk {
        /// What was attempted, such as `writing`.
        attempt: &'static str,
        /// The path of the file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A Compose Archive whose every entry was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The text of `compose.yaml`.
    pub compose: String,
    /// The paths of all regular files, relative to the one folder.
    pub files: BTreeSet<String>,
}

/// What an entry is, below the one folder.
enum Node {
    Folder,
    File { mode: u32 },
    Link { target: PathBuf },
}

impl Archive {
    /// Reads an archive to its end and checks it. Nothing is written.
    pub fn read(archive: impl Read) -> Result<Self, ArchiveError> {
        let mut compose = None;
        let mut files = BTreeSet::new();
        walk(archive, |path, node, content| {
            if let Node::File { .. } = node {
                if path == FILE_NAME {
                    let mut text = String::new();
                    content.take(MAX_COMPOSE_FILE + 1).read_to_string(&mut text).map_err(ArchiveError::Read)?;
                    if text.len() as u64 > MAX_COMPOSE_FILE {
                        return Err(entry(path, "compose.yaml must have at most 256 KiB"));
                    }
                    compose = Some(text);
                }
                files.insert(path.to_owned());
            }
            Ok(())
        })?;
        let missing = ArchiveError::Rule("the one folder of a Compose Archive must hold a file compose.yaml");
        Ok(Self { compose: compose.ok_or(missing)?, files })
    }

    /// Checks an archive again and writes what the one folder holds into `folder`, which must be there and be empty. Files are
    /// readable by everybody, since containers read them with users of their own; who may come so far, the folders above decide.
    /// The next power cut may take what was written, unless the caller has the folder synced.
    pub fn extract(archive: impl Read, folder: &Path) -> Result<(), ArchiveError> {
        let mut links = Vec::new();
        walk(archive, |path, node, content| {
            let place = folder.join(path);
            match node {
                Node::Folder => make_folder(&place),
                Node::File { mode } => {
                    if let Some(parent) = place.parent() {
                        make_folder(parent)?;
                    }
                    write(&place, mode, content)
                }
                Node::Link { target } => {
                    links.push((place, target));
                    Ok(())
                }
            }
        })?;
        // Last, so that nothing was written through one of them.
        for (place, target) in links {
            if let Some(parent) = place.parent() {
                make_folder(parent)?;
            }
            symlink(target, &place).map_err(disk("linking", &place))?;
        }
        Ok(())
    }

    /// Makes the archive of a folder, which holds `compose.yaml`; `name` is what the one folder in it is called. The same
    /// folder gives the same bytes every time: entries are sorted and without times and owners, and nothing is compressed,
    /// so that no compressor's next release changes the digest.
    pub fn pack(folder: &Path, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let mut found = BTreeMap::new();
        list(folder, "", &mut found)?;
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::none());
        let mut archive = Builder::new(gzip);
        for (path, (kind, mode)) in &found {
            let place = folder.join(path);
            let content = if *kind == EntryType::Regular {
                fs::read(&place).map_err(disk("reading", &place))?
            } else {
                Vec::new()
            };
            let mut header = plain_header(*kind, *mode, content.len() as u64);
            if *kind == EntryType::Symlink {
                let target = fs::read_link(&place).map_err(disk("reading", &place))?;
                header.set_link_name(target).map_err(ArchiveError::Read)?;
            }
            let path = Path::new(name).join(path);
            archive.append_data(&mut header, path, content.as_slice()).map_err(ArchiveError::Read)?;
        }
        let packed = archive.into_inner().and_then(flate2::write::GzEncoder::finish).map_err(ArchiveError::Read)?;
        // What is packed is what would be accepted.
        Self::read(packed.as_slice())?;
        Ok(packed)
    }
}

/// Returns the header of an entry that belongs to nobody and has no time, so that the same content makes the same archive. The
/// path is set when it is appended.
pub fn plain_header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

/// Lists everything below a folder by its path.
fn list(folder: &Path, prefix: &str, found: &mut BTreeMap<String, (EntryType, u32)>) -> Result<(), ArchiveError> {
    let path = folder.join(prefix);
    for item in fs::read_dir(&path).map_err(disk("reading", &path))? {
        let item = item.map_err(disk("reading", &path))?;
        let name = item.file_name().into_string();
        let name = name.map_err(|_| ArchiveError::Rule("the names of files in a Compose Archive must be UTF-8"))?;
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if found.len() >= MAX_ENTRIES {
            return Err(ArchiveError::TooLarge);
        }
        let about = item.metadata().map_err(disk("reading", &item.path()))?;
        if about.is_dir() {
            list(folder, &path, found)?;
        } else if about.is_symlink() {
            found.insert(path, (EntryType::Symlink, 0o777));
        } else if about.is_file() && about.len() <= MAX_ARCHIVE {
            let mode = if about.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            found.insert(path, (EntryType::Regular, mode));
        } else {
            return Err(entry(&path, "must be a regular file of at most 16 MiB"));
        }
    }
    Ok(())
}

/// Goes through an archive, checks every entry, and hands each one on with its path below the one folder.
fn walk(
    archive: impl Read,
    mut visit: impl FnMut(&str, Node, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    // The limit holds for headers too: a long name in an extension header is read whole.
    let unpacked = Limited { inner: GzDecoder::new(BufReader::new(archive)), left: MAX_ARCHIVE };
    let mut archive = tar::Archive::new(unpacked);
    let mut top: Option<String> = None;
    let mut seen = BTreeMap::new();
    for (count, item) in archive.entries().map_err(read_error)?.enumerate() {
        let mut item = item.map_err(read_error)?;
        if count >= MAX_ENTRIES || item.size() > MAX_ARCHIVE {
            return Err(ArchiveError::TooLarge);
        }
        let kind = item.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let bytes = item.path_bytes().into_owned();
        let raw = String::from_utf8(bytes).map_err(|_| ArchiveError::Rule("paths must be UTF-8"))?;
        let segments = segments(&raw)?;
        let Some((first, below)) = segments.split_first() else { continue };
        if top.get_or_insert_with(|| (*first).to_owned()) != first {
            return Err(entry(&raw, "a Compose Archive has exactly one folder at its top"));
        }
        let path = below.join("/");
        let mode = item.header().mode().map_err(read_error)?;
        if mode & 0o7000 != 0 {
            return Err(entry(&raw, "set-user-id, set-group-id and sticky bits are not allowed"));
        }
        let node = match kind {
            EntryType::Directory => Node::Folder,
            EntryType::Regular | EntryType::Continuous => Node::File { mode },
            EntryType::Symlink => {
                let target = item.link_name().map_err(read_error)?.unwrap_or_default().into_owned();
                if !stays_inside(&target, below.len().saturating_sub(1)) {
                    return Err(entry(&raw, "a link must lead to a place inside the archive's folder"));
                }
                Node::Link { target }
            }
            _ => return Err(entry(&raw, "must be a regular file, a folder or a symbolic link")),
        };
        if below.is_empty() {
            if matches!(node, Node::Folder) {
                continue;
            }
            return Err(entry(&raw, "a Compose Archive has exactly one folder at its top"));
        }
        // An ancestor that is a link or a file would decide where this is written.
        for end in 1..below.len() {
            if *seen.entry(below[..end].join("/")).or_insert(true) {
                continue;
            }
            return Err(entry(&raw, "what stands above it must be folders"));
        }
        let is_folder = matches!(node, Node::Folder);
        match seen.insert(path.clone(), is_folder) {
            Some(true) if is_folder => continue,
            Some(_) => return Err(entry(&raw, "stands twice in the archive")),
            None => {}
        }
        visit(&path, node, &mut item)?;
    }
    if top.is_none() {
        return Err(ArchiveError::Rule("the Compose Archive is empty"));
    }
    Ok(())
}

/// Splits a path into its segments. No segment is `..`, and the path is relative.
fn segments(raw: &str) -> Result<Vec<&str>, ArchiveError> {
    if raw.len() > MAX_PATH || raw.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err(entry(raw, "a path has at most 255 bytes and no control characters"));
    }
    if raw.starts_with('/') {
        return Err(entry(raw, "an absolute path is not allowed"));
    }
    let segments: Vec<_> = raw.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
    if segments.contains(&"..") {
        return Err(entry(raw, "a path with .. is not allowed"));
    }
    Ok(segments)
}

/// Tells whether a link that stands below so many real folders leads to a place inside. `..` may only come first: behind a
/// name that is itself a link, nobody could say where it leads.
fn stays_inside(target: &Path, depth: usize) -> bool {
    let Some(text) = target.to_str() else { return false };
    if text.is_empty() || text.starts_with('/') || text.len() > MAX_PATH {
        return false;
    }
    let segments: Vec<_> = text.split('/').filter(|segment| !matches!(*segment, "" | ".")).collect();
    let up = segments.iter().take_while(|segment| **segment == "..").count();
    up <= depth && !segments[up..].contains(&"..")
}

/// Ends with an error of its own after so many bytes.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}

fn read_error(error: io::Error) -> ArchiveError {
    if error.kind() == io::ErrorKind::FileTooLarge { ArchiveError::TooLarge } else { ArchiveError::Read(error) }
}

fn entry(path: &str, rule: &'static str) -> ArchiveError {
    ArchiveError::Entry { path: path.chars().take(MAX_PATH).collect(), rule }
}

fn disk(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Disk { attempt, path, source }
}

/// Makes a folder and the missing ones above it, for everybody to read whatever the umask is.
fn make_folder(folder: &Path) -> Result<(), ArchiveError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent)?;
    }
    let made = fs::create_dir(folder).and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755)));
    made.map_err(disk("making", folder))
}

fn write(path: &Path, mode: u32, content: &mut dyn Read) -> Result<(), ArchiveError> {
    let mode = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(disk("writing", path))?;
    let mut buffer = [0; 16 << 10];
    loop {
        let count = content.read(&mut buffer).map_err(read_error)?;
        if count == 0 {
            break;
        }
        file.write_all(&buffer[..count]).map_err(disk("writing", path))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(disk("writing", path))
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
