//! The rows in SQL.

use std::collections::BTreeMap;

use bus::Repository;
use bytes::Bytes;
use sqlx::{Row, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use crate::progress::OpenRow;

/// What became of rows that Git shows as handled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// Rows up to the number are closed.
    Done,
    /// Git holds numbers that this database never gave. What it would close might never have been published, so the
    /// repository stands still from now on.
    Foreign {
        /// The number given last.
        last: u64,
    },
}

/// Makes the tables. They have their own list of migrations, for the service keeps its own in the same file.
pub(crate) async fn migrate(pool: &SqlitePool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name("_outbox_migrations");
    migrator.run(pool).await
}

/// Takes the next number of a repository.
pub(crate) async fn next_number(tx: &mut SqliteConnection, repository: &Repository) -> Result<u64, sqlx::Error> {
    let next = sqlx::query(
        "INSERT INTO outbox_repositories (repository, last) VALUES ($1, 1)
         ON CONFLICT (repository) DO UPDATE SET last = last + 1 RETURNING last",
    );
    number(&next.bind(repository.to_string()).fetch_one(tx).await?, "last")
}

/// Adds an open row.
pub(crate) async fn insert(
    tx: &mut SqliteConnection,
    repository: &Repository,
    number: u64,
    traceparent: Option<String>,
    payload: &Bytes,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO outbox_rows (repository, number, traceparent, payload) VALUES ($1, $2, $3, $4)")
        .bind(repository.to_string())
        .bind(sql_number(number))
        .bind(traceparent)
        .bind(payload.as_ref())
        .execute(tx)
        .await?;
    Ok(())
}

/// Open rows after a position, in the order in which they were written, without their payload.
pub(crate) async fn open_rows(pool: &SqlitePool, after: i64, limit: usize) -> Result<Vec<OpenRow>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT position, repository, number, length(payload) AS bytes FROM outbox_rows
         WHERE position > $1
           AND repository NOT IN (SELECT repository FROM outbox_repositories WHERE foreign_numbers)
         ORDER BY position LIMIT $2",
    );
    let rows = rows.bind(after).bind(limit as i64).fetch_all(pool).await?;
    let read = |row: &SqliteRow| {
        Ok(OpenRow {
            position: row.try_get("position")?,
            repository: repository(row)?,
            number: number(row, "number")?,
            bytes: number(row, "bytes")? as usize,
        })
    };
    rows.iter().map(read).collect()
}

/// A row's payload and trace; nothing when it was closed meanwhile.
pub(crate) async fn payload(pool: &SqlitePool, position: i64) -> Result<Option<(Bytes, Option<String>)>, sqlx::Error> {
    let row = sqlx::query("SELECT payload, traceparent FROM outbox_rows WHERE position = $1");
    let Some(row) = row.bind(position).fetch_optional(pool).await? else { return Ok(None) };
    let payload: Vec<u8> = row.try_get("payload")?;
    Ok(Some((payload.into(), row.try_get("traceparent")?)))
}

/// How many rows are open.
pub(crate) async fn count_open(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM outbox_rows").fetch_one(pool).await
}

/// Closes rows up to a number that Git shows as handled.
pub(crate) async fn close(pool: &SqlitePool, repository: &Repository, handled: u64) -> Result<Close, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let held = sqlx::query("SELECT last, foreign_numbers FROM outbox_repositories WHERE repository = $1");
    let (last, foreign) = match held.bind(repository.to_string()).fetch_optional(&mut *tx).await? {
        None => (0, false),
        Some(row) => (number(&row, "last")?, row.try_get("foreign_numbers")?),
    };
    let statements: &[&'static str] = if foreign || handled > last {
        &["UPDATE outbox_repositories SET foreign_numbers = 1 WHERE repository = $1"]
    } else {
        &[
            "UPDATE outbox_repositories SET closed = max(closed, $2) WHERE repository = $1",
            "DELETE FROM outbox_rows WHERE repository = $1 AND number <= $2",
        ]
    };
    for &statement in statements {
        let statement = sqlx::query(statement).bind(repository.to_string()).bind(sql_number(handled));
        statement.execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(if foreign || handled > last { Close::Foreign { last } } else { Close::Done })
}

/// The highest closed number of every repository.
pub(crate) async fn closed(pool: &SqlitePool) -> Result<BTreeMap<Repository, u64>, sqlx::Error> {
    let rows = sqlx::query("SELECT repository, closed FROM outbox_repositories").fetch_all(pool).await?;
    rows.iter().map(|row| Ok((repository(row)?, number(row, "closed")?))).collect()
}

fn repository(row: &SqliteRow) -> Result<Repository, sqlx::Error> {
    let text: &str = row.try_get("repository")?;
    text.parse().map_err(|error: bus::InvalidSubject| sqlx::Error::Decode(error.into()))
}

fn number(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn sql_number(number: u64) -> i64 {
    i64::try_from(number).expect("numbers count orders from one; nobody gives 2^63 of them")
}
