//! Commits of the journal that go into their repositories once more.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    path::Path,
};

use margo::{RepositoryName, TenantName};
use tracing::warn;

use crate::{
    CommitId, GitError, Repository,
    journal::{Journal, Move, Remains},
    layout,
};

/// Repositories into which the journal could not be written, with the reasons. Their commits stay in the journal.
pub(crate) type Unwritten = BTreeMap<String, GitError>;

/// Opens the journal of a tenant and writes what it holds into the repositories once more. A repository that cannot be
/// written does not keep the others from it.
pub(crate) fn open_journal(folder: &Path, tenant: &TenantName) -> Result<(Journal, Unwritten), GitError> {
    let mut remains = Remains::find(&folder.join(tenant.as_str()))?;
    let mut replays = BTreeMap::<String, Replay>::new();
    remains.groups(|group| {
        for planned in group.moves {
            let name = planned.repository.clone();
            replays.entry(name).or_insert_with_key(|name| Replay::of(folder, tenant, name)).write(planned);
        }
    })?;
    let (mut kept, mut unwritten) = (Vec::new(), Unwritten::new());
    for (name, replay) in replays {
        if let Err((error, moves)) = replay.finish() {
            let reason = &error as &dyn Error;
            warn!(repository = name, error = reason, "commits stay in the journal: the repository stands still");
            kept.extend(moves);
            unwritten.insert(name, error);
        }
    }
    Ok((remains.replace(kept)?, unwritten))
}

/// What the journal holds of one repository.
struct Replay {
    /// The repository, or why nothing more can be written into it.
    repository: Result<Repository, GitError>,
    /// The moves until now, without the objects that were written.
    moves: Vec<Move>,
}

impl Replay {
    fn of(folder: &Path, tenant: &TenantName, name: &str) -> Self {
        let open = |name: RepositoryName| {
            let missing = || {
                let path = layout::repository(folder, tenant, &name);
                GitError::file("opening", &path, io::ErrorKind::NotFound.into())
            };
            Repository::open(folder, tenant, &name)?.ok_or_else(missing)
        };
        Self { repository: name.parse().map_err(GitError::Name).and_then(open), moves: Vec::new() }
    }

    fn write(&mut self, mut planned: Move) {
        if let Ok(repository) = &self.repository {
            match repository.write(&planned.objects) {
                Ok(()) => planned.objects.clear(),
                Err(error) => self.repository = Err(error),
            }
        }
        self.moves.push(planned);
    }

    /// Moves the branch to the last commit. After a power cut it is where it was before or after one of the moves, or
    /// cannot be read. One that is elsewhere was moved by somebody else, and stays. Fails with the moves that are to be
    /// kept.
    fn finish(self) -> Result<(), (GitError, Vec<Move>)> {
        let Self { repository, moves } = self;
        let Some(Move { to, .. }) = moves.last() else { return Ok(()) };
        let moved = repository.and_then(|repository| {
            let places: BTreeSet<_> = moves.iter().flat_map(|planned| [&planned.from, &planned.to]).collect();
            let elsewhere = match repository.tip() {
                Ok(tip) => !places.contains(&tip.map(CommitId::to_bytes).unwrap_or_default()),
                Err(_) => false,
            };
            // Also where it is already: the disk may have failed to take it.
            if elsewhere { Ok(()) } else { repository.set_tip(to) }
        });
        moved.map_err(|error| (error, moves))
    }
}
