//! Connections: one that writes, a few that read.
//!
//! Either database gets one connection that writes, so transactions take turns, none is refused because of another, and
//! a service behaves alike on both. A transaction that was not committed when the process died leaves nothing; what a
//! commit promises of the disk says [`Transaction::commit`].

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use sqlx::{
    AssertSqlSafe, PgConnection, PgPool, Postgres, Sqlite, SqlitePool,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Location, Migrations, StoreError};

/// How long to wait for a connection, for another process that holds a SQLite file (one that is just ending), and for a
/// lock in PostgreSQL. As long as a request on the bus waits for its answer: later nobody listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest that PostgreSQL works on one statement, so that a wrong plan does not hold the one writer for ever.
const LONGEST_STATEMENT: Duration = Duration::from_secs(60);

/// Connections that read. A service answers few requests at once and each reads within milliseconds; each connection to
/// SQLite costs a thread and a cache of up to 2 MB.
const READERS: u32 = 4;

/// An unused reader is closed after this time: whole-table reads come in bursts.
const READER_IDLE: Duration = Duration::from_secs(60);

/// A service's database. Cheap to clone; every clone uses the same connections.
#[derive(Clone, Debug)]
pub struct Database(Pools);

#[derive(Clone, Debug)]
enum Pools {
    Sqlite { writer: SqlitePool, readers: SqlitePool },
    Postgres { writer: PgPool, readers: PgPool },
}

impl Database {
    /// Opens the database at its location, and makes the file or the schema when there is none.
    pub async fn open(location: &Location) -> anyhow::Result<Self> {
        let opened = match location {
            Location::File(path) => open_file(path).await,
            Location::Schema { url, schema } => open_schema(&url.0, schema).await,
        };
        opened.map(Self).with_context(|| format!("opening the database {location}"))
    }

    /// Brings a service's tables to their newest form.
    pub async fn migrate(&self, migrations: &Migrations) -> anyhow::Result<()> {
        let migrated = match &self.0 {
            Pools::Sqlite { writer, .. } => migrations.for_sqlite().run(writer).await,
            Pools::Postgres { writer, .. } => migrations.for_postgres().run(writer).await,
        };
        migrated.context("bringing the tables of the database to their newest form")
    }

    /// Begins a transaction that may write. It waits until all earlier ones have ended; nothing of it stays unless it is
    /// committed.
    pub async fn begin(&self) -> Result<Transaction, StoreError> {
        let begun = match &self.0 {
            // At once a writer: also a second process that uses the file by mistake waits instead of failing half way.
            Pools::Sqlite { writer, .. } => writer.begin_with("BEGIN IMMEDIATE").await.map(Writing::Sqlite),
            Pools::Postgres { writer, .. } => writer.begin().await.map(Writing::Postgres),
        };
        begun.map(Transaction).map_err(|source| StoreError::of("the transaction", source))
    }

    /// Begins a transaction that only reads: all its statements see the same state of the database.
    pub async fn snapshot(&self) -> Result<Transaction, StoreError> {
        let begun = match &self.0 {
            Pools::Sqlite { readers, .. } => readers.begin().await.map(Writing::Sqlite),
            Pools::Postgres { readers, .. } => {
                readers.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map(Writing::Postgres)
            }
        };
        begun.map(Transaction).map_err(|source| StoreError::of("the transaction", source))
    }

    /// Ends all connections, after the transactions in work. What is asked afterwards fails.
    pub async fn close(&self) {
        match &self.0 {
            // The writer last: it empties the write-ahead log.
            Pools::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
        }
    }

    pub(crate) fn readers(&self) -> Readers<'_> {
        match &self.0 {
            Pools::Sqlite { readers, .. } => Readers::Sqlite(readers),
            Pools::Postgres { readers, .. } => Readers::Postgres(readers),
        }
    }
}

pub(crate) enum Readers<'a> {
    Sqlite(&'a SqlitePool),
    Postgres(&'a PgPool),
}

/// Statements that take effect together or not at all. Dropped without [`Transaction::commit`], it is rolled back.
#[derive(Debug)]
pub struct Transaction(pub(crate) Writing);

#[derive(Debug)]
pub(crate) enum Writing {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Transaction {
    /// Makes all statements take effect. On SQLite they are on the disk when this returns; on PostgreSQL they are as safe
    /// as the server's `synchronous_commit` says, which by its default means the same.
    ///
    /// After an error it is open whether they took effect, for the connection may have broken while the answer was on its
    /// way: read again, or repeat what may be repeated.
    pub async fn commit(self) -> Result<(), StoreError> {
        let committed = match self.0 {
            Writing::Sqlite(transaction) => transaction.commit().await,
            Writing::Postgres(transaction) => transaction.commit().await,
        };
        committed.map_err(|source| StoreError::of("the transaction", source))
    }
}

/// What a query reads from: a database, or a transaction in work.
pub enum Access<'a> {
    /// A connection for reading, with what was committed until now.
    Database(&'a Database),
    /// A transaction, with what it has written itself.
    Transaction(&'a mut Transaction),
}

impl<'a> From<&'a Database> for Access<'a> {
    fn from(database: &'a Database) -> Self {
        Self::Database(database)
    }
}

impl<'a> From<&'a mut Transaction> for Access<'a> {
    fn from(transaction: &'a mut Transaction) -> Self {
        Self::Transaction(transaction)
    }
}

async fn open_file(path: &Path) -> anyhow::Result<Pools> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    }
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(true).busy_timeout(PATIENCE);
    let writer = options
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        // A file does not go away like a server does.
        .test_before_acquire(false)
        .connect_with(writer)
        .await?;
    let readers = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(PATIENCE)
        .idle_timeout(READER_IDLE)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_lazy_with(options.read_only(true));
    Ok(Pools::Sqlite { writer, readers })
}

async fn open_schema(options: &PgConnectOptions, schema: &str) -> anyhow::Result<Pools> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    ensure!(
        (1..=63).contains(&schema.len()) && schema.bytes().all(allowed) && !schema.as_bytes()[0].is_ascii_digit(),
        "the name of a schema is 1 to 63 of a-z, 0-9 and _, not beginning with a digit: {schema:?} is none"
    );
    let milliseconds = |time: Duration| time.as_millis().to_string();
    let options = options.clone().application_name(&format!("edgewright {schema}")).options([
        ("search_path", schema.to_owned()),
        ("lock_timeout", milliseconds(PATIENCE)),
        ("statement_timeout", milliseconds(LONGEST_STATEMENT)),
        // A transaction awaits nothing but the database, so one that rests has lost its client.
        ("idle_in_transaction_session_timeout", milliseconds(LONGEST_STATEMENT)),
    ]);
    let pool = || PgPoolOptions::new().acquire_timeout(PATIENCE);
    let writer = pool().max_connections(1).connect_with(options.clone()).await?;
    make_schema(&mut *writer.acquire().await?, schema).await?;
    let readers = pool()
        .max_connections(READERS)
        .idle_timeout(READER_IDLE)
        .connect_lazy_with(options.options([("default_transaction_read_only", "on")]));
    Ok(Pools::Postgres { writer, readers })
}

async fn make_schema(connection: &mut PgConnection, schema: &str) -> anyhow::Result<()> {
    let encoding: String = sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut *connection).await?;
    ensure!(encoding == "UTF8", "the encoding of the database is {encoding}: make one with ENCODING 'UTF8'");
    // Asked first: where an administrator has made the schema, the service's user need not have the right to.
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        let statement = AssertSqlSafe(format!("CREATE SCHEMA IF NOT EXISTS {schema}"));
        sqlx::query(statement).execute(&mut *connection).await.context("making the schema")?;
    }
    Ok(())
}
