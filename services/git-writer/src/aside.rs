//! Rows that wait in memory: those of repositories that stand still, and of clients that are ahead of `fleet.git`. No git,
//! no bus.
//!
//! What waits here only saves its sources from sending it again, which they do from time to time, so there are bounds for
//! each repository and for all together, and beyond them rows are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bus::ServiceName;
use margo::RepositoryName;
use tokio::time::Instant;
use tracing::debug;

use crate::{domain::Handled, store::Queued};

/// The pause before a repository that stands still is tried again. It doubles with every failure, up to the last one: a
/// full disk is not asked every second, and what an operator puts right counts within a minute.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Rows and bytes that wait for one repository.
const MAX_ROWS: usize = 1_000;
const MAX_BYTES: usize = 4 << 20;

/// Bytes that wait for all repositories together.
const MAX_BYTES_OF_ALL: usize = 32 << 20;

/// What a row takes in memory beside its content, about.
const OVERHEAD: usize = 512;

/// Why the rows of a repository wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It stands still. It is tried again at this time, and after the next failure after twice this pause.
    StandsStill { retry: Instant, pause: Duration },
    /// `fleet.git` does not hold this row of this source yet.
    Fleet(ServiceName, u64),
}

struct Waiting {
    /// By source and number, so that a row that comes again is there once.
    rows: BTreeMap<(ServiceName, u64), Queued>,
    bytes: usize,
    reason: Reason,
}

/// The repositories whose rows wait.
#[derive(Default)]
pub struct Aside {
    waiting: BTreeMap<RepositoryName, Waiting>,
    /// Repositories that stand still and have rows, by the time at which they are tried again.
    retries: BTreeSet<(Instant, RepositoryName)>,
    /// Clients' repositories by the row of `fleet.git` that they wait for.
    behind: BTreeSet<(ServiceName, u64, RepositoryName)>,
    /// Rows that need not wait any longer.
    released: Vec<Queued>,
    /// How far `fleet.git` is, as far as was heard.
    fleet: Handled,
    bytes: usize,
}

impl Aside {
    /// When there is something to be tried without a message from the log.
    pub fn next_retry(&self, now: Instant) -> Option<Instant> {
        if self.released.is_empty() { self.retries.first().map(|(at, _)| *at) } else { Some(now) }
    }

    /// Returns the rows to be tried now: those that waited until now, and the new ones except those of repositories that
    /// wait on.
    pub fn admit(&mut self, rows: Vec<Queued>, now: Instant) -> Vec<Queued> {
        let mut admitted = std::mem::take(&mut self.released);
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            let (_, name) = self.retries.pop_first().expect("it was there");
            if let Some(waiting) = self.waiting.get_mut(&name) {
                self.bytes -= std::mem::take(&mut waiting.bytes);
                admitted.extend(std::mem::take(&mut waiting.rows).into_values());
            }
        }
        for queued in rows {
            let waits = self.waiting.get(&queued.repository).is_some_and(|waiting| match waiting.reason {
                Reason::StandsStill { retry, .. } => retry > now,
                Reason::Fleet(..) => true,
            });
            if waits { self.keep(queued) } else { admitted.push(queued) }
        }
        admitted
    }

    /// A repository has failed. Returns the pause before it is tried again.
    pub fn stands_still(&mut self, name: &RepositoryName, rows: Vec<Queued>, now: Instant) -> Duration {
        let before = self.remove(name);
        let pause = match before.as_ref().map(|waiting| waiting.reason) {
            Some(Reason::StandsStill { pause, .. }) => (pause * 2).min(LAST_RETRY),
            Some(Reason::Fleet(..)) | None => FIRST_RETRY,
        };
        self.wait(name, before, rows, Reason::StandsStill { retry: now + pause, pause });
        pause
    }

    /// The first of these rows of a client follows a row of `fleet.git` that is not there yet.
    pub fn waits_for_fleet(&mut self, name: &RepositoryName, rows: Vec<Queued>) {
        let Some(first) = rows.first() else { return };
        let (source, number) = (first.row.source, first.row.follows_fleet);
        if self.fleet.number(source) >= number {
            // It came meanwhile, in the same group.
            self.released.extend(rows);
            return;
        }
        let before = self.remove(name);
        self.wait(name, before, rows, Reason::Fleet(source, number));
    }

    /// `fleet.git` is so far now: whoever waited for it is tried.
    pub fn fleet_is_at(&mut self, handled: &Handled) {
        self.fleet = handled.clone();
        let mut reached = Vec::new();
        for (source, last) in handled.numbers() {
            let Ok(source) = source.parse::<ServiceName>() else { continue };
            let waiting = self.behind.range((source, 0, RepositoryName::Fleet)..);
            let waiting = waiting.take_while(|(of, number, _)| *of == source && number <= last);
            reached.extend(waiting.map(|(_, _, name)| name.clone()));
        }
        for name in reached {
            if let Some(waiting) = self.remove(&name) {
                self.released.extend(waiting.rows.into_values());
            }
        }
    }

    /// The repository was tried and did not fail: it stands still no longer.
    pub fn goes_on(&mut self, name: &RepositoryName) {
        if self.is_still(name)
            && let Some(waiting) = self.remove(name)
        {
            self.released.extend(waiting.rows.into_values());
        }
    }

    /// Whether a repository stands still. One that waits for `fleet.git` does not.
    pub fn is_still(&self, name: &RepositoryName) -> bool {
        self.waiting.get(name).is_some_and(|waiting| matches!(waiting.reason, Reason::StandsStill { .. }))
    }

    /// Bytes of memory that the rows take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn wait(&mut self, name: &RepositoryName, before: Option<Waiting>, rows: Vec<Queued>, reason: Reason) {
        if let Reason::Fleet(source, number) = reason {
            self.behind.insert((source, number, name.clone()));
        }
        self.waiting.insert(name.clone(), Waiting { rows: BTreeMap::new(), bytes: 0, reason });
        for queued in rows.into_iter().chain(before.into_iter().flat_map(|waiting| waiting.rows.into_values())) {
            self.keep(queued);
        }
    }

    /// Keeps a row of a repository that waits, if there is room. One that is nearer to being committed takes the place of the
    /// last one of its source.
    fn keep(&mut self, queued: Queued) {
        let name = queued.repository.clone();
        let Some(waiting) = self.waiting.get_mut(&name) else { return };
        let (key, bytes) = ((queued.row.source, queued.row.number), queued.bytes + OVERHEAD);
        if waiting.rows.contains_key(&key) {
            return;
        }
        let is_full = |waiting: &Waiting, all: usize| {
            let of_one = waiting.rows.len() >= MAX_ROWS || waiting.bytes + bytes > MAX_BYTES;
            all + bytes > MAX_BYTES_OF_ALL || (of_one && !waiting.rows.is_empty())
        };
        while is_full(waiting, self.bytes) {
            let last = waiting.rows.range(key..=(key.0, u64::MAX)).next_back().map(|(last, _)| *last);
            let Some(dropped) = last.and_then(|last| waiting.rows.remove(&last)) else {
                debug!(repository = %name, number = key.1, "row left out: too many wait");
                return;
            };
            waiting.bytes -= dropped.bytes + OVERHEAD;
            self.bytes -= dropped.bytes + OVERHEAD;
        }
        if let (true, Reason::StandsStill { retry, .. }) = (waiting.rows.is_empty(), waiting.reason) {
            self.retries.insert((retry, name));
        }
        waiting.rows.insert(key, queued);
        waiting.bytes += bytes;
        self.bytes += bytes;
    }

    fn remove(&mut self, name: &RepositoryName) -> Option<Waiting> {
        let waiting = self.waiting.remove(name)?;
        self.bytes -= waiting.bytes;
        match waiting.reason {
            Reason::StandsStill { retry, .. } => drop(self.retries.remove(&(retry, name.clone()))),
            Reason::Fleet(source, number) => drop(self.behind.remove(&(source, number, name.clone()))),
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
