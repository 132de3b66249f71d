//! A service's database: a SQLite file of its own, or a schema of its own in a PostgreSQL database.
//!
//! Every service keeps its SQL in its `store.rs` and writes each statement once, in the words that both databases know;
//! its Rust code does not see which one it has. What a transaction committed is on the disk before the commit returns.
//!
//! - [`Location`] says where the tables are, [`Database`] opens them and hands out transactions;
//! - [`Table`] names a table and begins a [`Query`] on it; [`Query`] takes values and runs;
//! - [`Row`] reads columns as the types that were written, and says which row and column is broken when one is not;
//! - [`Migrations`] are the tables as text, written once for both databases;
//! - [`StoreError`] is all that can go wrong.
//!
//! # Writing and reading
//!
//! Transactions that write take turns on one connection, in the order in which they came: none is ever refused because of
//! another one, also not one that reads before it writes, and what one reads is still so when it commits. Reads outside
//! of a transaction have connections of their own, so they neither wait for a sync of the disk nor hold up a writer; they
//! see what was committed before they began.
//!
//! A task must not ask the database for more while it holds a transaction: it would wait for itself.
//!
//! ```
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use store::{Database, Location, Migrations, Table};
//!
//! static WORDS: Table = Table::new("words", &["word"]);
//! const MIGRATIONS: Migrations =
//!     Migrations::new(&[(1, "words", "CREATE TABLE words (word TEXT PRIMARY KEY, uses INTEGER NOT NULL) STRICT;")]);
//!
//! # let folder = tempfile::tempdir()?;
//! let database = Database::open(&Location::File(folder.path().join("words.sqlite"))).await?;
//! database.migrate(&MIGRATIONS).await?;
//!
//! let mut tx = database.begin().await?;
//! WORDS.query("INSERT INTO words (word, uses) VALUES ($1, $2)").bind("node").bind(3u64).execute(&mut tx).await?;
//! tx.commit().await?;
//!
//! let row = WORDS.query("SELECT uses FROM words WHERE word = $1").bind("node").fetch_one(&database).await?;
//! assert_eq!(row.number("uses")?, 3);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

mod database;
mod error;
mod location;
mod migrations;
mod query;
mod row;
mod table;

pub use database::{Access, Database, Transaction};
pub use error::StoreError;
pub use location::{InvalidLocation, Location, PostgresUrl};
pub use migrations::Migrations;
pub use query::{MAX_ROWS, Query, RowValues, Value, json};
pub use row::Row;
pub use table::Table;
