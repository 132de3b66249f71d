//! Commits that are ready to go into their repositories: their packs lie there under names that no reader looks at, and their
//! branches are locked. Nothing of it counts yet, and what is left of it by a killed process is removed.

use std::{path::PathBuf, sync::Arc};

use gix::ObjectId;
use margo::RepositoryName;
use rayon::prelude::*;

use crate::{
    GitError, Series,
    branch::{Branch, Lock},
    drafter::Drafter,
    journal::{Epoch, Move},
    pack_files::Hidden,
};

/// From how many repositories on they are worked on side by side. For fewer, handing them out costs more than it saves.
const SIDE_BY_SIDE: usize = 32;

/// The commits of many repositories, which [`Disk::carry_out`](crate::Disk::carry_out) takes into them.
#[must_use]
pub struct Prepared {
    pub(crate) all: Vec<Result<Ready, GitError>>,
    /// The life of the journal for which they were made.
    pub(crate) epoch: Epoch,
    /// As long as this lives, the journal must not be read again: that would move the branches and remove their locks.
    pub(crate) _alive: Arc<()>,
}

impl Prepared {
    /// Tells of each series, in their order, whether its commits can go into their repository.
    pub fn are_ready(&self) -> impl Iterator<Item = bool> {
        self.all.iter().map(Result::is_ok)
    }

    /// Does the next step with all for which no earlier step has failed.
    pub(crate) fn go_on(&mut self, step: impl Fn(&mut Ready) -> Result<(), GitError> + Sync) {
        let go_on = |ready: &mut Result<Ready, GitError>| {
            if let Ok(so_far) = ready
                && let Err(error) = step(so_far)
            {
                *ready = Err(error);
            }
        };
        if self.all.len() < SIDE_BY_SIDE {
            self.all.iter_mut().for_each(go_on);
        } else {
            self.all.par_iter_mut().for_each(go_on);
        }
    }
}

/// The commits of one repository.
pub(crate) struct Ready {
    pub(crate) name: RepositoryName,
    pub(crate) path: PathBuf,
    pub(crate) follows_fleet: bool,
    /// What the journal is to hold of them.
    pub(crate) planned: Option<Move>,
    pack: Hidden,
    /// The pack that this one takes the place of.
    pub(crate) replaced: Option<ObjectId>,
    lock: Lock,
}

impl Ready {
    /// Makes the pack of a series whole, puts it into the repository and locks the branch. Fails unless the branch is where the
    /// series began.
    pub(crate) fn prepare(mut series: Series, epoch: Epoch, drafter: &Drafter) -> Result<Self, GitError> {
        let sealed = series.seal(epoch)?;
        let (name, path) = (series.name().clone(), series.path().to_owned());
        let lock = Branch::of(&name, &path).lock(&name, series.from(), sealed.to)?;
        let (pack, follows_fleet) = (series.write_pack(&sealed.whole)?, series.follows_fleet());
        let planned = series.planned(&sealed);
        let (memory, replaced) = series.into_memory(&sealed);
        if let Some(memory) = memory {
            drafter.keep(name.clone(), memory);
        }
        Ok(Self { name, path, follows_fleet, planned, pack, replaced, lock })
    }

    pub(crate) fn is_fleet(&self) -> bool {
        self.name == RepositoryName::Fleet
    }

    /// Gives the pack the name under which readers find it.
    pub(crate) fn show_pack(&mut self) -> Result<(), GitError> {
        self.pack.show()
    }

    pub(crate) fn move_branch(&mut self) -> Result<(), GitError> {
        self.lock.commit()
    }
}
