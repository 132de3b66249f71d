//! The outbox of a source: what a transaction decided reaches Git, once and in order.
//!
//! A row is written in the transaction that decides it, and numbered per repository without gaps. The publisher sends
//! open rows to git-writer in that order, one batch at a time, until Git shows their numbers as handled; then they are
//! closed and deleted. git-writer ignores a number that is not the next one, so publishing again never harms.
//!
//! - `order`: the header of an order and its commit, in one form for all sources;
//! - `store`: the rows in SQL;
//! - `progress`: which rows are due, and when git-writer has been silent for too long; pure;
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

mod order;
mod progress;
mod publisher;
mod store;

use std::{collections::BTreeMap, sync::Arc};

use ::store::{Database, StoreError, Transaction};
use anyhow::Context;
use bus::{Bus, ServiceName, proto};
use margo::RepositoryName;
use prost::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use crate::order::{AuditSubject, Object, OrderHeader, Verb, trailer};
use crate::{progress::OpenRow, publisher::Publisher};

/// The largest write, before compression: git-writer decodes no larger one.
pub const MAX_WRITE: usize = bus::MAX_PLAIN;

/// Room for what [`Outbox::append`] adds to a write: its number.
const ENVELOPE: usize = 256;

/// The outbox of one source. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    source: ServiceName,
    database: Database,
    woken: Arc<Notify>,
}

impl Outbox {
    /// Opens the outbox in a service's database, and makes its tables when there are none.
    pub async fn open(source: ServiceName, database: Database) -> anyhow::Result<Self> {
        store::migrate(&database).await.context("preparing the outbox")?;
        Ok(Self { source, database, woken: Arc::default() })
    }

    /// Whether a write is small enough for [`Outbox::append`], so that an order can be refused before it is taken.
    pub fn fits(write: &proto::GitWrite) -> bool {
        write.encoded_len() <= MAX_WRITE - ENVELOPE
    }

    /// Appends a write inside the caller's transaction and returns its number: see [`Outbox::append_all`].
    pub async fn append(
        &self,
        tx: &mut Transaction,
        repository: &RepositoryName,
        write: proto::GitWrite,
    ) -> Result<u64, StoreError> {
        let mut numbers = self.append_all(tx, vec![(repository.clone(), write)]).await?;
        let (_, number) = numbers.pop().expect("one write has one number");
        Ok(number)
    }

    /// Appends writes inside the caller's transaction, in this order, and returns their numbers. Source and number of a
    /// write are set here; the current trace is kept with it. Fails with [`StoreError::TooLarge`] where [`Outbox::fits`]
    /// says no.
    ///
    /// # Panics
    ///
    /// When two of them are for one repository.
    pub async fn append_all(
        &self,
        tx: &mut Transaction,
        writes: Vec<(RepositoryName, proto::GitWrite)>,
    ) -> Result<Vec<(RepositoryName, u64)>, StoreError> {
        if let Some((_, large)) = writes.iter().find(|(_, write)| !Self::fits(write)) {
            return Err(store::too_large(large.encoded_len(), MAX_WRITE - ENVELOPE));
        }
        let places = store::next_places(tx, writes.iter().map(|(repository, _)| repository)).await?;
        let traceparent = bus::trace::current_text();
        let mut rows = Vec::with_capacity(writes.len());
        for ((repository, mut write), place) in writes.into_iter().zip(places) {
            write.number = place.number;
            let (payload, traceparent) = (bus::encode(&write), traceparent.clone());
            rows.push(OpenRow { position: place.position, repository, number: place.number, payload, traceparent });
        }
        store::insert(tx, &rows).await?;
        Ok(rows.into_iter().map(|row| (row.repository, row.number)).collect())
    }

    /// Tells the publisher, after the commit of the transaction, that there is something to publish.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Whether the row with this number stands in Git.
    pub async fn is_closed(&self, repository: &RepositoryName, number: u64) -> Result<bool, StoreError> {
        Ok(self.closed().await?.get(repository).is_some_and(|closed| *closed >= number))
    }

    /// The highest number of every repository that stands in Git.
    pub async fn closed(&self) -> Result<BTreeMap<RepositoryName, u64>, StoreError> {
        store::closed(&self.database).await
    }

    /// Publishes and closes rows until shutdown. Run it once at a time: rows are published in order because there is
    /// one publisher. A database or a bus that cannot be used now makes it wait and try again; it ends with an error only
    /// when the connection to the bus was closed for good.
    pub async fn run(self, bus: Bus, shutdown: CancellationToken) -> anyhow::Result<()> {
        Publisher::new(self, bus).run(shutdown).await
    }
}
