//! The outbox of a source: what a transaction decided reaches Git, once and in order.
//!
//! A row is written in the transaction that decides it, and numbered per repository without gaps. The publisher sends
//! open rows to git-writer in that order, one batch at a time, until Git shows their numbers as handled; then they are
//! closed and deleted. git-writer ignores a number that is not the next one, so publishing again never harms.
//!
//! - `store`: the rows in SQL;
//! - `progress`: which rows are due, and when git-writer has been silent for too long; pure;
//! - `publisher`: the loop around them.

mod progress;
mod publisher;
mod store;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context;
use bus::{Bus, Repository, ServiceName, proto};
use prost::Message;
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::publisher::Publisher;

/// The largest write, before compression: git-writer decodes no larger one.
pub const MAX_WRITE: usize = bus::MAX_PLAIN;

/// Room for what [`Outbox::append`] adds to a write: source and number.
const ENVELOPE: usize = 256;

/// The outbox of one source. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    source: ServiceName,
    pool: SqlitePool,
    woken: Arc<Notify>,
}

impl Outbox {
    /// Opens the outbox in a service's database, and makes its tables when there are none.
    pub async fn open(source: ServiceName, pool: SqlitePool) -> anyhow::Result<Self> {
        store::migrate(&pool).await.context("preparing the outbox")?;
        Ok(Self { source, pool, woken: Arc::default() })
    }

    /// Whether a write is small enough for [`Outbox::append`], so that an order can be refused before it is taken.
    pub fn fits(write: &proto::GitWrite) -> bool {
        write.encoded_len() <= MAX_WRITE - ENVELOPE
    }

    /// Appends a write inside the caller's transaction and gives its number. Source and number of `write` are set here;
    /// the current trace is kept with it.
    pub async fn append(
        &self,
        tx: &mut SqliteConnection,
        repository: &Repository,
        mut write: proto::GitWrite,
    ) -> Result<u64, sqlx::Error> {
        if !Self::fits(&write) {
            return Err(sqlx::Error::Encode(format!("the write is larger than {MAX_WRITE} bytes").into()));
        }
        let number = store::next_number(tx, repository).await?;
        write.source = self.source.to_string();
        write.number = number;
        let payload = bus::encode(&write);
        store::insert(tx, repository, number, bus::trace::current_text(), &payload).await?;
        Ok(number)
    }

    /// After the commit of the transaction: publish now.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Whether this row stands in Git.
    pub async fn is_closed(&self, repository: &Repository, number: u64) -> Result<bool, sqlx::Error> {
        Ok(self.closed().await?.get(repository).is_some_and(|closed| *closed >= number))
    }

    /// The highest number of every repository that stands in Git.
    pub async fn closed(&self) -> Result<BTreeMap<Repository, u64>, sqlx::Error> {
        store::closed(&self.pool).await
    }

    /// Publishes and closes rows until shutdown. Run it once at a time: rows are published in order because there is
    /// one publisher.
    pub async fn run(self, bus: Bus, shutdown: CancellationToken) -> anyhow::Result<()> {
        Publisher::new(self, bus).run(shutdown).await
    }
}
