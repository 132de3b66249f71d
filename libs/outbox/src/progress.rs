//! Which rows are due, and when they are due again. No bus, no database, no clock.

use std::collections::{BTreeMap, BTreeSet};

use margo::RepositoryName;

/// Rows and bytes of one batch. With messages of at least 512 KiB wherever a row is divided, these stay far below the
/// 1,000 messages that the server takes; a row that alone is larger goes alone.
const MAX_ROWS: usize = 500;
const MAX_BYTES: usize = 8 << 20;

/// The longest wait between publishing again, in answers of git-writer: about five minutes.
const MAX_SILENCE: u32 = 64;

/// An open row, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRow {
    /// Counts rows over all repositories, in the order in which they were committed.
    pub position: u64,
    /// The repository that the row is written for.
    pub repository: RepositoryName,
    /// The row's number within its repository.
    pub number: u64,
    /// The size of the row's payload as it travels.
    pub bytes: usize,
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

    /// Chooses the rows of a page that are due, as many as one batch takes. The page begins after the cursor.
    pub fn next_batch(&self, page: &[OpenRow]) -> Batch {
        let mut batch = Batch { rows: Vec::new(), reaches: self.cursor };
        let mut bytes = 0;
        for row in page {
            if row.number > self.of(&row.repository).published {
                let full = batch.rows.len() == MAX_ROWS || bytes + row.bytes > MAX_BYTES;
                if full && !batch.rows.is_empty() {
                    break;
                }
                bytes += row.bytes;
                batch.rows.push(row.clone());
            }
            batch.reaches = row.position;
        }
        batch
    }

    /// Takes note that a batch is on the server's disk.
    pub fn published(&mut self, batch: &Batch) {
        self.cursor = batch.reaches;
        for row in &batch.rows {
            self.repositories.entry(row.repository.clone()).or_default().published = row.number;
        }
    }

    /// Takes note that Git shows this number as handled. Returns whether that is news.
    pub fn handled(&mut self, repository: &RepositoryName, number: u64) -> bool {
        let progress = self.repositories.entry(repository.clone()).or_default();
        let news = number > progress.handled;
        if news {
            progress.handled = number;
            progress.published = progress.published.max(number);
            progress.silence = 0;
        }
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
