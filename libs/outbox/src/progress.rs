//! Which rows are due, of which repositories git-writer is to be asked, and how many rows are open. No bus, no database.
//!
//! Nothing here looks at all repositories: those with rows that may go stand in a queue, those that wait for a row of
//! `fleet.git` stand by its number, those about which git-writer is to be asked by time, and open rows are counted as they
//! come and go.

use std::collections::{BTreeMap, BTreeSet};

use margo::RepositoryName;
use process::jittered;
use tokio::time::Instant;

use crate::{
    flow::{ASK_INTERVAL, Flow, Standing},
    store::{Level, OpenRow},
};

/// Rows of one batch. With messages of at least 512 KiB wherever a row is divided, and the bound on the bytes of a page, these
/// stay far below the 1,000 messages that the server takes.
pub(crate) const MAX_ROWS: u64 = 500;

/// Rows of a batch that are left to clients when both they and `fleet.git` have some: an order has one row for the fleet and
/// often one for a client.
const FOR_CLIENTS: u64 = MAX_ROWS / 2;

/// What somebody says of how far Git is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Git is where it was known to be, or this is older than what is known.
    None,
    /// Git holds more than was known.
    Progress,
    /// Git holds numbers that may never have been given here. The database has to be asked.
    Surprise,
}

/// The rows that are looked up next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Repository and number of each, those of `fleet.git` first.
    pub keys: Vec<(RepositoryName, u64)>,
    /// The last row of `fleet.git` that is on its way or among them.
    pub fleet: u64,
}

/// What was found of the rows that were wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The rows that are published, in this order.
    pub rows: Vec<OpenRow>,
    /// Repositories whose next row waits for this row of `fleet.git`.
    pub held: Vec<(RepositoryName, u64)>,
    /// Rows that should be there and are not. Nothing is published of their repositories.
    pub missing: Vec<(RepositoryName, u64)>,
}

/// How far publishing is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    flows: BTreeMap<RepositoryName, Flow>,
    /// Clients' repositories with rows that may go, each where it came to stand last.
    queue: BTreeMap<u64, RepositoryName>,
    /// The place behind the last one in the queue.
    next_turn: u64,
    /// Clients' repositories by the row of `fleet.git` that their next row waits for.
    held: BTreeMap<u64, Vec<RepositoryName>>,
    /// Repositories by the time at which git-writer is to be asked about them.
    asks: BTreeSet<(Instant, RepositoryName)>,
    /// How many rows do not stand in Git.
    open: u64,
}

impl Progress {
    /// Takes note of what the database says of a repository.
    pub fn learn(&mut self, repository: &RepositoryName, level: Level) {
        if !self.flows.contains_key(repository) {
            let flow = Flow::new(level);
            self.open += flow.open();
            self.flows.insert(repository.clone(), flow);
        }
        self.change(repository, |flow| {
            flow.last = flow.last.max(level.last);
            if level.foreign {
                flow.standing = Standing::Foreign;
            }
            if level.closed > flow.handled && !level.foreign {
                flow.handle(level.closed);
            }
        });
        self.settle_ask(repository, None);
    }

    /// Takes note of what the database says after Git has shown a number that was not known.
    pub fn checked(&mut self, repository: &RepositoryName, level: Level) {
        self.change(repository, |flow| {
            if flow.standing == Standing::Surprised {
                flow.standing = Standing::Given;
            }
        });
        self.learn(repository, level);
        self.release();
    }

    /// Takes note that rows up to this number were committed.
    pub fn appended(&mut self, repository: &RepositoryName, last: u64) {
        self.change(repository, |flow| flow.last = flow.last.max(last));
    }

    /// How many rows do not stand in Git.
    pub fn open(&self) -> u64 {
        self.open
    }

    /// The rows to be looked up next; none when nothing is due. Each repository has a share, and those that were passed over
    /// stand first the next time.
    pub fn wanted(&self) -> Wanted {
        let clients: Vec<_> = self.queue.values().take(FOR_CLIENTS as usize).collect();
        let fleet = self.flows.get(&RepositoryName::Fleet);
        let (published, room) = fleet.map_or((0, 0), |fleet| (fleet.published, fleet.room()));
        let of_fleet = room.min(if clients.is_empty() { MAX_ROWS } else { MAX_ROWS - FOR_CLIENTS });
        let mut wanted = Wanted { keys: Vec::new(), fleet: published + of_fleet };
        let keys = |name: &RepositoryName, after: u64, rows: u64| {
            let name = name.clone();
            (after + 1..=after + rows).map(move |number| (name.clone(), number))
        };
        wanted.keys.extend(keys(&RepositoryName::Fleet, published, of_fleet));
        let share = (MAX_ROWS - of_fleet) / (clients.len() as u64).max(1);
        for name in clients {
            let flow = &self.flows[name];
            wanted.keys.extend(keys(name, flow.published, flow.room().min(share)));
        }
        wanted
    }

    /// Chooses from the rows that were found those that are published. Rows behind one that has to wait, or that is missing,
    /// are left out; so are those that did not fit into the page.
    pub fn choose(&self, wanted: &Wanted, found: Vec<OpenRow>) -> Batch {
        let mut batch = Batch::default();
        let mut fleet = self.flows.get(&RepositoryName::Fleet).map_or(0, |fleet| fleet.published);
        let mut stopped: Option<&RepositoryName> = None;
        let mut found = found.into_iter().peekable();
        for (name, number) in &wanted.keys {
            if found.peek().is_none() && !batch.is_empty() {
                // The page ended here.
                break;
            }
            let row = found.next_if(|row| row.repository == *name && row.number == *number);
            if stopped == Some(name) {
                continue;
            }
            match row {
                Some(OpenRow { follows, .. }) if follows > fleet => {
                    batch.held.push((name.clone(), follows));
                    stopped = Some(name);
                }
                Some(row) => {
                    if *name == RepositoryName::Fleet {
                        fleet = *number;
                    }
                    batch.rows.push(row);
                }
                None => {
                    batch.missing.push((name.clone(), *number));
                    stopped = Some(name);
                }
            }
        }
        batch
    }

    /// Takes note that a batch is on the server's disk.
    pub fn published(&mut self, batch: &Batch, now: Instant) {
        for row in &batch.rows {
            let bytes = row.payload.as_ref().map_or(0, |payload| payload.len() as u64);
            self.change(&row.repository, |flow| flow.publish(bytes));
        }
        for (name, follows) in &batch.held {
            self.change(name, |flow| flow.held = Some(*follows));
            self.held.entry(*follows).or_default().push(name.clone());
        }
        for (name, number) in &batch.missing {
            self.change(name, |flow| flow.last = number - 1);
        }
        let touched: BTreeSet<_> = batch.rows.iter().map(|row| &row.repository).collect();
        for name in touched {
            let asks_already = self.flows.get(name).is_some_and(|flow| flow.ask_at.is_some());
            if !asks_already {
                self.settle_ask(name, Some(now + jittered(ASK_INTERVAL)));
            }
            self.stand_last(name);
        }
        self.release();
    }

    /// Takes note that Git shows this number as handled.
    pub fn handled(&mut self, repository: &RepositoryName, number: u64, now: Instant) -> News {
        if number == 0 {
            // Announcements come also of repositories for which this source has nothing.
            return News::None;
        }
        let news = self.change(repository, |flow| match flow.standing {
            Standing::Foreign => News::None,
            _ if number <= flow.handled => News::None,
            _ if number > flow.last => {
                flow.standing = Standing::Surprised;
                News::Surprise
            }
            _ => {
                flow.handle(number);
                News::Progress
            }
        });
        if news != News::None {
            self.settle_ask(repository, Some(now + jittered(ASK_INTERVAL)));
            self.release();
        }
        news
    }

    /// Returns when git-writer is to be asked next.
    pub fn ask_at(&self) -> Option<Instant> {
        self.asks.first().map(|(at, _)| *at)
    }

    /// Returns a repository about which git-writer is to be asked now. It comes again when [`Progress::answered`] or
    /// [`Progress::unanswered`] has said what became of that.
    pub fn ask(&mut self, now: Instant) -> Option<RepositoryName> {
        let (_, name) = self.asks.first().is_some_and(|(at, _)| *at <= now).then(|| self.asks.pop_first())??;
        let flow = self.flows.get_mut(&name)?;
        (flow.ask_at, flow.asked) = (None, true);
        Some(name)
    }

    /// Takes note of git-writer's answer. Returns what is new, and whether rows are published again because nothing is.
    pub fn answered(&mut self, repository: &RepositoryName, number: u64, now: Instant) -> (News, bool) {
        self.change(repository, |flow| {
            flow.asked = false;
            flow.patience.reset();
        });
        let news = self.handled(repository, number, now);
        let again =
            news == News::None && self.change(repository, |flow| if flow.waits() { flow.no_news() } else { false });
        self.settle_ask(repository, Some(now + jittered(ASK_INTERVAL)));
        (news, again)
    }

    /// Takes note that git-writer did not answer about this repository, which says nothing about another one.
    pub fn unanswered(&mut self, repository: &RepositoryName, now: Instant) {
        let pause = self.change(repository, |flow| {
            flow.asked = false;
            flow.patience.pause()
        });
        self.settle_ask(repository, Some(now + pause));
    }

    /// Changes one repository, and with it what is counted and where it stands in the queue.
    fn change<T>(&mut self, name: &RepositoryName, change: impl FnOnce(&mut Flow) -> T) -> T {
        let never_written = Level { last: 0, closed: 0, foreign: false };
        let flow = self.flows.entry(name.clone()).or_insert_with(|| Flow::new(never_written));
        self.open -= flow.open();
        let result = change(flow);
        self.open += flow.open();
        let queued = flow.room() > 0 && *name != RepositoryName::Fleet;
        match flow.turn {
            Some(turn) if !queued => {
                self.queue.remove(&turn);
                flow.turn = None;
            }
            None if queued => {
                self.queue.insert(self.next_turn, name.clone());
                flow.turn = Some(self.next_turn);
                self.next_turn += 1;
            }
            Some(_) | None => {}
        }
        result
    }

    fn stand_last(&mut self, name: &RepositoryName) {
        if let Some(turn) = self.flows.get_mut(name).and_then(|flow| flow.turn.take()) {
            self.queue.remove(&turn);
        }
        self.change(name, |_| ());
    }

    /// Lets clients' repositories go on whose row of `fleet.git` is on its way.
    fn release(&mut self) {
        let fleet = self.flows.get(&RepositoryName::Fleet).map_or(0, |fleet| fleet.published);
        while let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= fleet) {
            for name in entry.remove() {
                self.change(&name, |flow| {
                    if flow.held.is_some_and(|follows| follows <= fleet) {
                        flow.held = None;
                    }
                });
            }
        }
    }

    /// Has git-writer asked at this time about a repository whose rows are on their way, and about no other.
    fn settle_ask(&mut self, name: &RepositoryName, at: Option<Instant>) {
        let Some(flow) = self.flows.get_mut(name) else { return };
        if let Some(before) = flow.ask_at.filter(|_| at.is_some() || !flow.waits()) {
            self.asks.remove(&(before, name.clone()));
            flow.ask_at = None;
        }
        if let Some(at) = at.filter(|_| flow.waits() && !flow.asked) {
            flow.ask_at = Some(at);
            self.asks.insert((at, name.clone()));
        }
    }
}

impl Batch {
    /// Whether nothing was found at all.
    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.held.is_empty() && self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests;
