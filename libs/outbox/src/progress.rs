//! Which rows are due, and when they are due again. No bus, no database, no clock.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use margo::RepositoryName;

/// The longest wait between publishing again, in answers of git-writer: about five minutes.
const MAX_SILENCE: u32 = 64;

/// An open row, as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRow {
    /// Counts rows over all repositories, in the order in which they were committed.
    pub position: u64,
    /// The repository that the row is written for.
    pub repository: RepositoryName,
    /// The row's number within its repository.
    pub number: u64,
    /// The [`GitWrite`](bus::proto::GitWrite), compressed as git-writer reads it.
    pub payload: Bytes,
    /// The trace of the order, if there was one.
    pub traceparent: Option<String>,
}

/// What somebody says of how far Git is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Git is where it was known to be, or this is older than what is known.
    None,
    /// Git holds more than was known, of what this process has published.
    Progress,
    /// Git holds numbers that this process has not published: those of an earlier life, or numbers that were never given.
    Surprise,
}

/// The rows that are published in one go, and how far that brings the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The rows in the order of their positions.
    pub rows: Vec<OpenRow>,
    /// The last position that was looked at: when the rows are published, nothing up to here is due.
    reaches: u64,
}

/// How far publishing is, in this life of the process: a new one publishes every open row again.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// No row up to this position is due.
    cursor: u64,
    repositories: BTreeMap<RepositoryName, RepositoryProgress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct RepositoryProgress {
    /// The number of the last row that this process has published.
    published: u64,
    /// The last number that Git shows as handled.
    handled: u64,
    /// Answers of git-writer without news, while rows wait.
    silence: u32,
}

impl Progress {
    /// The position after which rows may be due.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Chooses the rows of a page that are due. The page begins after the cursor.
    pub fn next_batch(&self, mut page: Vec<OpenRow>) -> Batch {
        let reaches = page.last().map_or(self.cursor, |row| row.position);
        page.retain(|row| row.number > self.of(&row.repository).published);
        Batch { rows: page, reaches }
    }

    /// Takes note that a batch is on the server's disk.
    pub fn published(&mut self, batch: &Batch) {
        self.cursor = batch.reaches;
        for row in &batch.rows {
            self.repositories.entry(row.repository.clone()).or_default().published = row.number;
        }
    }

    /// Takes note that Git shows this number as handled.
    pub fn handled(&mut self, repository: &RepositoryName, number: u64) -> News {
        let progress = self.repositories.entry(repository.clone()).or_default();
        if number <= progress.handled {
            return News::None;
        }
        let news = if number > progress.published { News::Surprise } else { News::Progress };
        progress.handled = number;
        progress.published = progress.published.max(number);
        progress.silence = 0;
        news
    }

    /// Repositories with rows that were published and do not stand in Git yet.
    pub fn waiting(&self) -> BTreeSet<RepositoryName> {
        let waiting = self.repositories.iter().filter(|(_, progress)| progress.published > progress.handled);
        waiting.map(|(repository, _)| repository.clone()).collect()
    }

    /// Takes note that git-writer was asked about a repository that waits, and had no news: the rows got lost, or
    /// git-writer is slow. The rows become due again after the second such answer (the first may have come too early),
    /// then each time after twice as many answers. Returns whether they did.
    pub fn no_news(&mut self, repository: &RepositoryName) -> bool {
        let progress = self.repositories.entry(repository.clone()).or_default();
        progress.silence += 1;
        let again = progress.silence >= 2 && progress.silence.is_power_of_two();
        if again {
            progress.published = progress.handled;
            progress.silence = if progress.silence == MAX_SILENCE { MAX_SILENCE / 2 } else { progress.silence };
            self.cursor = 0;
        }
        again
    }

    fn of(&self, repository: &RepositoryName) -> RepositoryProgress {
        self.repositories.get(repository).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
