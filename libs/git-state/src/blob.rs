//! Files of commits, made ready before it is their turn in a pack: to hash and to compress them takes most of the time, and needs
//! nothing of the commits before but the file of that kind to which each becomes a delta.

use std::{collections::BTreeMap, sync::Arc};

use gix::{ObjectId, objs::Kind};
use rayon::prelude::*;

use crate::{
    FileChange,
    pack::{self, delta, zlib},
};

/// The longest object that is kept as the base of the next one of its kind. Longer ones are rare.
pub(crate) const LONGEST_BASE: usize = 64 << 10;

/// A file that is hashed and compressed.
pub struct Blob {
    pub(crate) content: Arc<[u8]>,
    pub(crate) id: ObjectId,
    /// The file that was the last of its kind, if there was one.
    pub(crate) base: Option<Arc<[u8]>>,
    pub(crate) form: Form,
}

/// What goes into the pack, as a zlib stream.
pub(crate) enum Form {
    /// The instructions that make the file of its base, and their length before they were compressed.
    Delta { length: usize, stream: Vec<u8> },
    /// The whole file.
    Whole(Vec<u8>),
}

/// The files that new ones become deltas to: of each kind the last one.
#[derive(Clone, Default)]
pub struct Bases(BTreeMap<String, Arc<[u8]>>);

impl Bases {
    pub(crate) fn of<'a>(last: impl Iterator<Item = (&'a String, &'a Arc<[u8]>)>) -> Self {
        Self(last.map(|(kind, content)| (kind.clone(), content.clone())).collect())
    }

    /// Makes the files ready that commits put, in their order. There is none for a file that Git could not hold.
    pub fn make_ready<'a>(&mut self, commits: impl IntoIterator<Item = &'a [FileChange]>) -> Vec<Vec<Option<Blob>>> {
        let (mut files, mut counts) = (Vec::new(), Vec::new());
        for changes in commits {
            let before = files.len();
            let put = changes.iter().filter_map(|change| Some((change.path.as_str(), change.content.as_deref()?)));
            files.extend(put.map(|(path, content)| self.next(kind_of(path), content)));
            counts.push(files.len() - before);
        }
        let ready: Vec<_> = files.into_par_iter().map(|(content, base)| Blob::of(content, base)).collect();
        let mut ready = ready.into_iter();
        counts.into_iter().map(|count| ready.by_ref().take(count).collect()).collect()
    }

    /// Takes the next file of a kind. Returns it with the one before.
    fn next(&mut self, kind: String, content: &[u8]) -> (Arc<[u8]>, Option<Arc<[u8]>>) {
        let before = self.0.get(&kind).cloned();
        if let Some(before) = &before
            && **before == *content
        {
            return (before.clone(), None);
        }
        let content: Arc<[u8]> = content.into();
        if content.len() <= LONGEST_BASE {
            self.0.insert(kind, content.clone());
        }
        (content, before)
    }
}

impl Blob {
    fn of(content: Arc<[u8]>, base: Option<Arc<[u8]>>) -> Option<Self> {
        let id = pack::id_of(Kind::Blob, &content).ok()?;
        let delta = base.as_ref().and_then(|base| delta::between(base, &content));
        let mut stream = Vec::with_capacity(256);
        let form = match delta {
            Some(delta) => {
                zlib::deflate_or_store(&delta, &mut stream);
                Form::Delta { length: delta.len(), stream }
            }
            None => {
                zlib::deflate(&content, &mut stream);
                Form::Whole(stream)
            }
        };
        Some(Self { content, id, base, form })
    }
}

/// The kind of a file, which it shares with files that are much like it: those of one folder at the top whose names end
/// alike.
pub(crate) fn kind_of(path: &str) -> String {
    let (top, _) = path.split_once('/').unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    let kind = name.rfind('.').map_or(name, |dot| &name[dot..]);
    format!("{top}/{kind}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_kind_are_told_by_folder_and_ending() {
        for (path, kind) in [
            ("assignments/4f/a/hello.yaml", "assignments/.yaml"),
            ("nodes/84/press/NODE", "nodes/NODE"),
            ("VERSION", "/VERSION"),
            ("head.sig", "/.sig"),
        ] {
            assert_eq!(kind_of(path), kind);
        }
    }
}
