//! How far one repository is, and how far ahead of Git its rows may be published. No bus, no database.

use std::{collections::VecDeque, time::Duration};

use process::Backoff;
use tokio::time::Instant;

use crate::store::Level;

/// Rows of one repository that may be on their way. git-writer commits up to a few thousand at a time, and the next ones are
/// to be there when it has done so.
pub(crate) const WINDOW_ROWS: u64 = 4_000;

/// Bytes of one repository that may be on their way. The batch that reaches this limit may go beyond it.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;

/// How often git-writer is asked about a repository of which nothing is heard: announcements are signals and may get lost.
pub(crate) const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// The longest pause before git-writer is asked again that has not answered.
const LONGEST_ASK_INTERVAL: Duration = Duration::from_secs(30);

/// The longest wait between publishing again, in answers of git-writer; then every eighth answer, about twice a minute, so
/// that a repository that an operator has put right goes on soon, also when git-writer has started anew and lost what waited
/// there.
const MAX_SILENCE: u32 = 16;

/// What is known of the numbers of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// All numbers in Git were given here, as far as is known.
    Given,
    /// Git shows a number that may never have been given here. Only the database tells, and until then nothing is published.
    Surprised,
    /// Git holds numbers that were never given here. Nothing is published or closed any more.
    Foreign,
}

/// One repository, in this life of the process: a new one publishes every open row again.
#[derive(Debug)]
pub(crate) struct Flow {
    /// The last number that a transaction has committed, as far as is known.
    pub last: u64,
    /// The number of the last row that is on its way.
    pub published: u64,
    /// The last number that Git shows as handled.
    pub handled: u64,
    /// Sizes of the rows after `handled` up to `published`.
    sizes: VecDeque<u64>,
    bytes: u64,
    /// Rows that may be on their way. One while nothing is heard, then twice as many with each news.
    window: u64,
    /// Answers of git-writer without news, while rows wait.
    silence: u32,
    pub standing: Standing,
    /// The row of `fleet.git` that has to be on its way before the next row of this repository.
    pub held: Option<u64>,
    /// The place in the queue of repositories with rows that may go.
    pub turn: Option<u64>,
    /// When git-writer is to be asked.
    pub ask_at: Option<Instant>,
    /// Whether git-writer is being asked.
    pub asked: bool,
    /// Pauses while git-writer does not answer.
    pub patience: Backoff,
}

impl Flow {
    pub fn new(level: Level) -> Self {
        Self {
            last: level.last,
            published: level.closed,
            handled: level.closed,
            sizes: VecDeque::new(),
            bytes: 0,
            window: WINDOW_ROWS,
            silence: 0,
            standing: if level.foreign { Standing::Foreign } else { Standing::Given },
            held: None,
            turn: None,
            ask_at: None,
            asked: false,
            patience: Backoff::new(ASK_INTERVAL, LONGEST_ASK_INTERVAL),
        }
    }

    /// How many rows do not stand in Git.
    pub fn open(&self) -> u64 {
        self.last.saturating_sub(self.handled)
    }

    /// How many of the rows after `published` may be published now.
    pub fn room(&self) -> u64 {
        if self.standing != Standing::Given || self.held.is_some() || self.bytes >= WINDOW_BYTES {
            return 0;
        }
        let on_the_way = self.published - self.handled;
        self.last.saturating_sub(self.published).min(self.window.saturating_sub(on_the_way))
    }

    /// Whether rows are on their way of which git-writer may be asked.
    pub fn waits(&self) -> bool {
        self.standing == Standing::Given && self.published > self.handled
    }

    /// Takes note that the next row, of so many bytes, is on the server's disk.
    pub fn publish(&mut self, bytes: u64) {
        self.published += 1;
        self.sizes.push_back(bytes);
        self.bytes += bytes;
    }

    /// Takes note that Git shows this number, which is greater than the one known and at most `last`.
    pub fn handle(&mut self, number: u64) {
        for _ in self.handled..number.min(self.published) {
            self.bytes -= self.sizes.pop_front().unwrap_or(0);
        }
        self.handled = number;
        self.published = self.published.max(number);
        self.window = (self.window * 2).min(WINDOW_ROWS);
        self.silence = 0;
    }

    /// Takes note of an answer without news: the rows got lost, or git-writer is slow, or the repository stands still. Rows
    /// become due again after the second such answer (the first may have come too early), then each time after twice as many
    /// answers; but only one at a time, so that a repository that stands still for long costs nothing. Returns whether they
    /// did.
    pub fn no_news(&mut self) -> bool {
        self.silence += 1;
        let again = self.silence >= 2 && self.silence.is_power_of_two();
        if again {
            self.published = self.handled;
            self.sizes.clear();
            self.bytes = 0;
            self.window = 1;
            self.held = None;
            self.silence = if self.silence == MAX_SILENCE { MAX_SILENCE / 2 } else { self.silence };
        }
        again
    }
}
