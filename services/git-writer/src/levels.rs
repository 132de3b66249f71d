//! How far each repository is, for whoever asks: at once, whatever is being committed or hangs.
//!
//! What is committed is noted here after each group. A repository that was not used since the start is read from its tip,
//! beside the writer. That is only done while no group has rows for it: a branch that has just moved may name commits that
//! a power cut would still take away, and a source that heard of them would delete its rows.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use margo::RepositoryName;

use crate::{reader::Level, store::Committed};

/// What is known of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It outlasts a power cut.
    At(Level),
    /// Rows are being committed, and before them nothing was known.
    InWork,
    /// Somebody reads the tip.
    BeingRead,
}

/// What [`Levels::ask`] has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    At(Level),
    /// The answer comes with the end of what is in work.
    InWork,
    /// Nobody knows yet. Whoever got this reads the tip and says so with [`Levels::read`].
    Unknown,
}

/// What is known of the repositories. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Levels(Arc<Mutex<BTreeMap<RepositoryName, Known>>>);

impl Levels {
    /// Nothing that an earlier life of the loop had in work is in work any more.
    pub fn begin_anew(&self) {
        self.with(|known| known.retain(|_, known| *known != Known::InWork));
    }

    /// Rows of these repositories are being committed from now on. Of those that are known it is still said what was
    /// committed before.
    pub fn begin<'a>(&self, repositories: impl IntoIterator<Item = &'a RepositoryName>) {
        self.with(|known| {
            for name in repositories {
                let known = known.entry(name.clone()).or_insert(Known::InWork);
                if *known == Known::BeingRead {
                    *known = Known::InWork;
                }
            }
        });
    }

    /// These commits outlast a power cut.
    pub fn committed(&self, committed: &Committed) {
        let level = Level { handled: committed.handled.clone(), tip: Some(committed.tip) };
        self.with(|known| known.insert(committed.repository.clone(), Known::At(level)));
    }

    /// The repository stands still, so that its tip may be another one than it was: it is read when somebody asks.
    pub fn stands_still(&self, repository: &RepositoryName) {
        self.with(|known| known.remove(repository));
    }

    /// The rows of these repositories are no longer in work.
    pub fn end<'a>(&self, repositories: impl IntoIterator<Item = &'a RepositoryName>) {
        self.with(|known| {
            for name in repositories {
                if known.get(name) == Some(&Known::InWork) {
                    known.remove(name);
                }
            }
        });
    }

    /// What is known of a repository. When nothing is, the caller has to read it.
    pub fn ask(&self, repository: &RepositoryName) -> Found {
        self.with(|known| match known.get(repository) {
            Some(Known::At(level)) => Found::At(level.clone()),
            Some(Known::InWork | Known::BeingRead) => Found::InWork,
            None => {
                known.insert(repository.clone(), Known::BeingRead);
                Found::Unknown
            }
        })
    }

    /// Takes what the caller, who was told [`Found::Unknown`], has read; `None` when that failed. Returns what may be
    /// answered: nothing when rows are being committed meanwhile.
    pub fn read(&self, repository: &RepositoryName, level: Option<Level>) -> Option<Level> {
        self.with(|known| match known.get(repository) {
            Some(Known::At(level)) => Some(level.clone()),
            Some(Known::InWork) => None,
            Some(Known::BeingRead) | None => {
                known.remove(repository);
                if let Some(level) = level.clone().filter(|level| level.tip.is_some()) {
                    known.insert(repository.clone(), Known::At(level));
                }
                level
            }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<RepositoryName, Known>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plant() -> RepositoryName {
        RepositoryName::Client("plant".parse().unwrap())
    }

    fn at(number: u64) -> Level {
        let tip = format!("{number:040x}").parse().unwrap();
        Level { handled: format!("deployment-registry={number}").parse().unwrap(), tip: Some(tip) }
    }

    fn committed(number: u64) -> Committed {
        let Level { handled, tip } = at(number);
        Committed { repository: plant(), tip: tip.unwrap(), handled, version: None, spans: Vec::new() }
    }

    #[test]
    fn what_was_committed_is_answered_while_more_is_in_work() {
        let levels = Levels::default();
        levels.committed(&committed(1));
        levels.begin([&plant()]);
        assert_eq!(levels.ask(&plant()), Found::At(at(1)));
        levels.committed(&committed(2));
        levels.end([&plant()]);
        assert_eq!(levels.ask(&plant()), Found::At(at(2)));
    }

    #[test]
    fn a_tip_that_was_read_while_rows_were_committed_is_not_believed() {
        let levels = Levels::default();
        assert_eq!(levels.ask(&plant()), Found::Unknown);
        assert_eq!(levels.ask(&plant()), Found::InWork, "one reader is enough");
        levels.begin([&plant()]);
        assert_eq!(levels.read(&plant(), Some(at(2))), None);
        // Of the group nothing came about.
        levels.end([&plant()]);
        assert_eq!(levels.ask(&plant()), Found::Unknown);
        assert_eq!(levels.read(&plant(), Some(at(1))), Some(at(1)));
        assert_eq!(levels.ask(&plant()), Found::At(at(1)));
    }

    #[test]
    fn of_one_that_stands_still_or_could_not_be_read_nothing_is_remembered() {
        let levels = Levels::default();
        levels.committed(&committed(1));
        levels.begin([&plant()]);
        levels.stands_still(&plant());
        assert_eq!(levels.ask(&plant()), Found::Unknown);
        assert_eq!(levels.read(&plant(), None), None);
        assert_eq!(levels.ask(&plant()), Found::Unknown);
        levels.begin([&plant()]);
        levels.begin_anew();
        assert_eq!(levels.ask(&plant()), Found::Unknown);
    }
}
