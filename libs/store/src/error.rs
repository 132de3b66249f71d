//! What can go wrong with a database, told apart by what follows for the caller: to try again later, to decide anew, or
//! to report a mistake.

use std::error::Error;

use sqlx::error::DatabaseError;

/// Why the database did not do what it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or cannot work now: no connection in time, a disk that is full, a server that shuts
    /// down. The same request may succeed later.
    #[error("the database cannot be used now")]
    Unreachable {
        /// What the database or its driver said.
        source: sqlx::Error,
    },
    /// The database refused a statement, for example because a key exists already. The same statement would be refused
    /// again; the code that wrote the statement has a mistake.
    #[error("the database refused a statement on {table}")]
    Refused {
        /// Which table the statement is about.
        table: &'static str,
        /// What the database said of the statement.
        source: sqlx::Error,
    },
    /// A row holds what no service writes.
    #[error("column {column} of {table} {place} in the database is not valid")]
    Corrupt {
        /// The table of the row.
        table: &'static str,
        /// The key of the row, as far as the statement has read it.
        place: String,
        /// The column that is not valid.
        column: &'static str,
        /// What is wrong with the column's value.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The row is no longer what the change was decided on. Nothing was written; a new decision may come out differently.
    #[error("{place} of {table} has changed meanwhile")]
    Conflict {
        /// The table of the row.
        table: &'static str,
        /// The key of the row.
        place: String,
    },
    /// A value is larger than this table may hold. Nothing was written.
    #[error("{bytes} bytes are more than the {limit} that a row of {table} may hold")]
    TooLarge {
        /// The table that the value was to be written into.
        table: &'static str,
        /// The size of the value in bytes.
        bytes: usize,
        /// The largest size that the table takes, in bytes.
        limit: usize,
    },
}

impl StoreError {
    /// What an error of the driver means. `table` names the table that the statement was about.
    pub(crate) fn of(table: &'static str, source: sqlx::Error) -> Self {
        let passes = match &source {
            sqlx::Error::Database(error) => passes(&**error),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => true,
            _ => false,
        };
        if passes { Self::Unreachable { source } } else { Self::Refused { table, source } }
    }
}

/// Whether what the database says is about its own state and not about the statement.
fn passes(error: &dyn DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    match code.parse::<u32>() {
        // SQLite: the low byte is the kind. BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN, PROTOCOL. PostgreSQL's
        // codes have five places, and SQLite's such as 5386 for an IOERR stay below 10,000.
        Ok(code) if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() => {
            matches!(code & 0xff, 5 | 6 | 7 | 8 | 10 | 13 | 14 | 15)
        }
        // PostgreSQL, by class: connection, read-only or idle transaction, invalid authorization, roll-back (deadlock),
        // insufficient resources, lock not available, operator intervention (also a statement's time-out), system error.
        _ => ["08", "25", "28", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class)),
    }
}
