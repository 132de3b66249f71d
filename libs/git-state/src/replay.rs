//! Commits of the journal that go into their repositories once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    path::{Path, PathBuf},
};

use gix::ObjectId;
use margo::{RepositoryName, TenantName};
use tracing::warn;

use crate::{
    CommitId, GitError,
    branch::Branch,
    journal::{Journal, Move, Remains},
    layout,
    pack::Pack,
    pack_files,
};

/// Repositories into which the journal could not be written, with the reasons. Their commits stay in the journal.
pub(crate) type Unwritten = BTreeMap<String, GitError>;

/// The journal of a tenant, of which everything is in the repositories.
pub(crate) struct Opened {
    pub(crate) journal: Journal,
    pub(crate) unwritten: Unwritten,
    /// Packs that others have replaced: the repository, and the name. A power cut may have left anything of them.
    pub(crate) replaced: Vec<(PathBuf, ObjectId)>,
}

/// Opens the journal of a tenant and writes what it holds into the repositories once more. A repository that cannot be
/// written does not keep the others from it.
pub(crate) fn open_journal(folder: &Path, tenant: &TenantName) -> Result<Opened, GitError> {
    let mut remains = Remains::find(&folder.join(tenant.as_str()))?;
    let mut replays = BTreeMap::<String, Replay>::new();
    remains.moves(|planned| {
        let name = planned.repository.clone();
        replays.entry(name).or_insert_with_key(|name| Replay::of(folder, tenant, name)).take(planned);
    })?;
    let (mut kept, mut unwritten, mut replaced) = (Vec::new(), Unwritten::new(), Vec::new());
    for (name, mut replay) in replays {
        let finished = replay.finish();
        replaced.append(&mut replay.replaced);
        if let Err(error) = finished {
            let reason = &error as &dyn Error;
            warn!(repository = name, error = reason, "commits stay in the journal: the repository stands still");
            kept.append(&mut replay.moves);
            unwritten.insert(name, error);
        }
    }
    Ok(Opened { journal: remains.replace(kept)?, unwritten, replaced })
}

/// What the journal holds of one repository.
struct Replay {
    /// The repository with its path, or why nothing more can be written into it.
    repository: Result<(RepositoryName, PathBuf), GitError>,
    /// The moves until now. Those whose pack was written have no bytes any more.
    moves: Vec<Move>,
    /// Where in `moves` the pack begins that is not written yet.
    begin: usize,
    replaced: Vec<(PathBuf, ObjectId)>,
}

impl Replay {
    fn of(folder: &Path, tenant: &TenantName, name: &str) -> Self {
        let find = |name: RepositoryName| {
            let path = layout::repository(folder, tenant, &name);
            match path.try_exists() {
                Ok(true) => Ok((name, path)),
                Ok(false) => Err(GitError::file("opening", &path, io::ErrorKind::NotFound.into())),
                Err(error) => Err(GitError::file("looking for", &path, error)),
            }
        };
        let repository = name.parse().map_err(GitError::Name).and_then(find);
        Self { repository, moves: Vec::new(), begin: 0, replaced: Vec::new() }
    }

    /// Takes the next move. A pack is written when the next one begins, so that few of them are in memory.
    fn take(&mut self, planned: Move) {
        if planned.begins {
            self.write_pack();
        }
        self.moves.push(planned);
    }

    fn write_pack(&mut self) {
        let Ok((_, path)) = &self.repository else { return };
        let pieces = &mut self.moves[self.begin..];
        match write(path, pieces) {
            Ok(mut replaced) => {
                self.replaced.append(&mut replaced);
                for piece in pieces {
                    (piece.bytes, piece.objects) = (Vec::new(), Vec::new());
                }
                self.begin = self.moves.len();
            }
            Err(error) => self.repository = Err(error),
        }
    }

    /// Writes the last pack and moves the branch to the last commit. After a power cut the branch is where it was before or
    /// after one of the moves, or cannot be read. One that is elsewhere was moved by somebody else, and stays.
    fn finish(&mut self) -> Result<(), GitError> {
        self.write_pack();
        let (name, path) = match &self.repository {
            Ok(repository) => repository,
            Err(_) => return std::mem::replace(&mut self.repository, Err(GitError::Series)).map(|_| ()),
        };
        let Some(Move { to, .. }) = self.moves.last() else { return Ok(()) };
        let places: BTreeSet<_> = self.moves.iter().flat_map(|planned| [&planned.from, &planned.to]).collect();
        let branch = Branch::of(name, path);
        let elsewhere = match branch.tip(name) {
            Ok(tip) => !places.contains(&tip.map(CommitId::to_bytes).unwrap_or_default()),
            Err(_) => false,
        };
        // Also where it is already: the disk may have failed to take it.
        if elsewhere { Ok(()) } else { branch.set(CommitId(id(path, to)?)) }
    }
}

/// Writes the pack of which these are the pieces. Returns the shorter packs that it has replaced.
fn write(repository: &Path, pieces: &[Move]) -> Result<Vec<(PathBuf, ObjectId)>, GitError> {
    let Some(last) = pieces.last().filter(|_| pieces.iter().any(|piece| !piece.bytes.is_empty())) else {
        return Ok(Vec::new());
    };
    let damaged = || GitError::Pack {
        repository: repository.display().to_string(),
        pack: last.pack.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let mut objects = Vec::new();
    for entry in pieces.iter().flat_map(|piece| piece.objects.chunks(24)) {
        let (object, offset) = entry.split_at_checked(20).ok_or_else(damaged)?;
        let offset = offset.try_into().map_err(|_| damaged())?;
        objects.push((id(repository, object)?, u32::from_be_bytes(offset)));
    }
    let body = pieces.iter().map(|piece| piece.bytes.as_slice()).collect::<Vec<_>>().concat();
    let mut pack = Pack::of(body, &objects).ok_or_else(damaged)?;
    let whole = pack.finish();
    if whole.name.as_slice() != last.pack {
        return Err(damaged());
    }
    pack_files::write(repository, &pack, &whole)?;
    let replaced = pieces.iter().map(|piece| &piece.pack).filter(|name| **name != last.pack);
    replaced.map(|name| Ok((repository.to_owned(), id(repository, name)?))).collect()
}

fn id(repository: &Path, bytes: &[u8]) -> Result<ObjectId, GitError> {
    ObjectId::try_from(bytes).map_err(|error| GitError::git("reading the journal", repository, error))
}
