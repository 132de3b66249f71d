//! The outbox of a source: what a transaction decided reaches Git, once and in order.
//!
//! A row is written in the transaction that decides it, and numbered per repository without gaps. The publisher sends
//! open rows to git-writer in that order, one batch at a time, until Git shows their numbers as handled; then they are
//! closed and deleted. git-writer ignores a number that is not the next one, so publishing again never harms.
//!
//! Each repository goes on by itself: rows are published only so far ahead of what Git shows (`flow::WINDOW_ROWS`), so that
//! one that stands still has few rows on their way, and the others their full share. A client's row goes after the row of
//! `fleet.git` that it follows from.
//!
//! - `order`: the header of an order and its commit, in one form for all sources;
//! - `store`: the rows in SQL;
//! - `flow`: how far one repository is; pure;
//! - `progress`: which rows are due over all repositories, and about which git-writer is to be asked; pure;
//! - `asking`: the questions in work; `woken`: what transactions have appended;
//! - `publisher`: the loop around them.
//!
//! # Example
//!
//! What a site that somebody adds looks like in `git log`:
//!
//! ```
//! use bus::proto::{FleetChange, git_write::Change};
//! use outbox::{AuditSubject, Object, OrderHeader, Verb};
//!
//! let order = OrderHeader::new("ada".parse()?, Some("the new plant".to_owned()));
//! let subject = AuditSubject { verb: Verb::Add, object: Object::Site("plant".parse()?), detail: None };
//! let write = order.write(&subject, Change::Fleet(FleetChange::default()));
//! assert_eq!((write.author.as_str(), write.subject.as_str()), ("ada", "add site plant"));
//! assert!(outbox::Outbox::fits(&write));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod asking;
mod flow;
mod order;
mod progress;
mod publisher;
mod store;
mod woken;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ::store::{Database, StoreError, Transaction};
use anyhow::Context;
use bus::{Bus, ServiceName, proto};
use margo::RepositoryName;
use prost::Message;
use tokio_util::sync::CancellationToken;

pub use crate::order::{AuditSubject, Object, OrderHeader, Verb, trailer};
use crate::{publisher::Publisher, store::OpenRow, woken::Woken};

/// The largest write, before compression: git-writer decodes no larger one.
pub const MAX_WRITE: usize = bus::MAX_PLAIN;

/// Room for what [`Outbox::append_all`] adds to a write: its number, and that of the order that it follows.
const ENVELOPE: usize = 256;

/// The outbox of one source. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    source: ServiceName,
    database: Database,
    woken: Arc<Woken>,
}

/// The rows that a transaction appends: for each repository the number of its row. [`Outbox::wake`] takes them when the
/// transaction is committed.
pub type Appended = Vec<(RepositoryName, u64)>;

impl Outbox {
    /// Opens the outbox in a service's database, and makes its tables when there are none.
    pub async fn open(source: ServiceName, database: Database) -> anyhow::Result<Self> {
        store::migrate(&database).await.context("preparing the outbox")?;
        Ok(Self { source, database, woken: Arc::default() })
    }

    /// Whether a write is small enough for [`Outbox::append_all`], so that an order can be refused before it is taken.
    pub fn fits(write: &proto::GitWrite) -> bool {
        write.encoded_len() <= MAX_WRITE - ENVELOPE
    }

    /// Appends the writes of one order inside the caller's transaction, in this order, and returns their numbers. Number
    /// and dependency of a write are set here: what is written for a client stands in Git only after what the same order
    /// writes into `fleet.git`. The current trace is kept with each. Fails with [`StoreError::TooLarge`] where
    /// [`Outbox::fits`] says no.
    ///
    /// # Panics
    ///
    /// When two of them are for one repository.
    pub async fn append_all(
        &self,
        tx: &mut Transaction,
        writes: Vec<(RepositoryName, proto::GitWrite)>,
    ) -> Result<Appended, StoreError> {
        if let Some((_, large)) = writes.iter().find(|(_, write)| !Self::fits(write)) {
            return Err(store::too_large(large.encoded_len(), MAX_WRITE - ENVELOPE));
        }
        let numbers = store::next_numbers(tx, writes.iter().map(|(repository, _)| repository)).await?;
        let fleet = writes.iter().zip(&numbers).find(|((repository, _), _)| *repository == RepositoryName::Fleet);
        let fleet = fleet.map_or(0, |(_, number)| *number);
        let traceparent = bus::trace::current_text();
        let mut rows = Vec::with_capacity(writes.len());
        for ((repository, mut write), number) in writes.into_iter().zip(numbers) {
            let follows = if repository == RepositoryName::Fleet { 0 } else { fleet };
            (write.number, write.follows_fleet) = (number, follows);
            let (payload, traceparent) = (Some(bus::encode(&write)), traceparent.clone());
            rows.push(OpenRow { repository, number, follows, payload, traceparent });
        }
        store::insert(tx, &rows).await?;
        Ok(rows.into_iter().map(|row| (row.repository, row.number)).collect())
    }

    /// Tells the publisher, after the commit of the transaction, what there is to publish. What nobody tells, because the
    /// caller was dropped in between, it finds by itself within half a minute.
    pub fn wake(&self, appended: &[(RepositoryName, u64)]) {
        self.woken.tell(appended);
    }

    /// The highest number that stands in Git, for each of these repositories that was ever written.
    pub async fn closed(&self, of: &BTreeSet<RepositoryName>) -> Result<BTreeMap<RepositoryName, u64>, StoreError> {
        store::closed(&self.database, of).await
    }

    /// Publishes and closes rows until shutdown. Run it once at a time: rows are published in order because there is
    /// one publisher. A database or a bus that cannot be used now makes it wait and try again; it ends with an error only
    /// when the connection to the bus was closed for good.
    pub async fn run(self, bus: Bus, shutdown: CancellationToken) -> anyhow::Result<()> {
        Publisher::new(self, bus).run(shutdown).await
    }
}
