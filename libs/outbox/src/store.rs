//! The rows in SQL.
//!
//! **Layout.** `outbox_repositories` has one row for each repository and counts what was ever written for it;
//! `outbox_rows` has one row for each write that does not stand in Git yet, with the bytes that travel. Both stand in the
//! service's database, so that one transaction decides an order and records what it writes.
//!
//! **Updates.** An append takes the next number of each repository. Numbers of one repository are given in the order of the
//! commits, for the transaction that gave the last one holds its row in `outbox_repositories` until it ends; transactions for
//! different repositories have nothing in common and may end in any order. So whoever reads rows keeps a cursor for each
//! repository, and skips nothing. Rows are read and deleted by their keys, which are known without looking, because numbers
//! have no gaps: what this costs follows the rows that are meant, and no others. Closing raises `closed` and deletes rows in
//! one transaction, for many repositories at once, because each transaction costs a sync of the disk.
//!
//! **After a crash.** Every number that was given has its row, or stands in Git and is at most `closed`: never a gap. What
//! was published and not yet closed is published again, and git-writer passes over it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use margo::RepositoryName;
use store::{Database, MAX_ROWS, Migrations, Row, StoreError, Table, Transaction};

static REPOSITORIES: Table = Table::new("outbox_repositories", &["repository"]);
static ROWS: Table = Table::new("outbox_rows", &["repository", "number"]);

/// The tables have their own list of migrations, for the service keeps its own in the same place.
const MIGRATIONS: Migrations =
    Migrations::new(&[(1, "outbox", include_str!("../migrations/1_outbox.sql"))]).remembered_in("_outbox_migrations");

/// A row that does not stand in Git yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenRow {
    /// The repository that the row is written for.
    pub repository: RepositoryName,
    /// The row's number within its repository, from one and without gaps.
    pub number: u64,
    /// The number of the row of `fleet.git` that has to stand in Git first; 0 when there is none.
    pub follows: u64,
    /// The [`GitWrite`](bus::proto::GitWrite), compressed as git-writer reads it. `None` when the reader wanted to know only
    /// that the row has to wait.
    pub payload: Option<Bytes>,
    /// The trace of the order, if there was one.
    pub traceparent: Option<String>,
}

/// What the database says of one repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// The number given last.
    pub last: u64,
    /// The highest number known to stand in Git.
    pub closed: u64,
    /// Whether Git holds numbers that this database never gave. What they would close might never have been published, so
    /// the repository stands still from then on.
    pub foreign: bool,
}

/// Brings the tables of the outbox to their newest form, and makes them when there are none.
pub(crate) async fn migrate(database: &Database) -> anyhow::Result<()> {
    database.migrate(&MIGRATIONS).await
}

/// The error for a write that git-writer could not decode.
pub(crate) fn too_large(bytes: usize, limit: usize) -> StoreError {
    ROWS.too_large(bytes, limit)
}

/// Takes the next number of each of these repositories, in their order.
///
/// # Panics
///
/// When one of them is named twice.
pub(crate) async fn next_numbers(
    tx: &mut Transaction,
    repositories: impl Iterator<Item = &RepositoryName>,
) -> Result<Vec<u64>, StoreError> {
    let repositories: Vec<_> = repositories.map(ToString::to_string).collect();
    let mut numbers = BTreeMap::new();
    for names in repositories.chunks(MAX_ROWS) {
        let next = REPOSITORIES
            .query("INSERT INTO outbox_repositories (repository, last) ")
            .push_rows(names, |row, name| row.bind(name).bind(1u64))
            .push(
                " ON CONFLICT (repository) DO UPDATE SET last = outbox_repositories.last + 1
                 RETURNING repository, last",
            );
        for row in next.fetch_all(&mut *tx).await? {
            numbers.insert(row.string("repository")?, row.number("last")?);
        }
    }
    Ok(repositories.iter().map(|name| numbers.remove(name).expect("each repository is named once")).collect())
}

/// Adds rows with their payloads, under numbers that [`next_numbers`] gave in the same transaction.
pub(crate) async fn insert(tx: &mut Transaction, rows: &[OpenRow]) -> Result<(), StoreError> {
    for rows in rows.chunks(MAX_ROWS) {
        let insert = ROWS
            .query("INSERT INTO outbox_rows (repository, number, follows, traceparent, payload) ")
            .push_rows(rows, |values, row| {
                values
                    .bind(row.repository.to_string())
                    .bind(row.number)
                    .bind(row.follows)
                    .bind(&row.traceparent)
                    .bind(row.payload.as_deref())
            });
        insert.execute(tx).await?;
    }
    Ok(())
}

/// The open rows with these keys, in this order, at most [`MAX_ROWS`]: as many from the first one on as have so many bytes
/// in all, unless the first one alone has more. Rows that follow a later row of `fleet.git` than this one come without their
/// payload. Rows that are not there are missing.
pub(crate) async fn open_rows(
    database: &Database,
    keys: &[(RepositoryName, u64)],
    fleet: u64,
    max_bytes: u64,
) -> Result<Vec<OpenRow>, StoreError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    // The sizes are added up before a payload is read.
    let query = ROWS
        .query(
            "SELECT outbox_rows.repository, outbox_rows.number, follows, traceparent,
                    CASE WHEN follows <= $1 THEN payload END AS payload
             FROM (SELECT nth, repository, number, bytes, sum(bytes) OVER (ORDER BY nth) AS total
                   FROM (SELECT column3 AS nth, outbox_rows.repository, outbox_rows.number,
                                CAST(CASE WHEN follows <= $1 THEN length(payload) ELSE 0 END AS BIGINT) AS bytes
                         FROM (",
        )
        .bind(fleet)
        .bind(max_bytes)
        .push_rows(keys.iter().zip(1u64..), |row, ((repository, number), nth)| {
            row.bind(repository.to_string()).bind(*number).bind(nth)
        })
        .push(
            ") AS asked
                         JOIN outbox_rows ON outbox_rows.repository = column1 AND outbox_rows.number = column2) AS found
                  ) AS sizes
             JOIN outbox_rows ON outbox_rows.repository = sizes.repository AND outbox_rows.number = sizes.number
             WHERE total <= $2 OR total = bytes
             ORDER BY nth",
        );
    let read = |row: &Row| {
        Ok(OpenRow {
            repository: row.parse("repository")?,
            number: row.number("number")?,
            follows: row.number("follows")?,
            payload: row.optional("payload", Row::bytes)?.map(Bytes::from),
            traceparent: row.optional("traceparent", Row::string)?,
        })
    };
    query.fetch_all(database).await?.iter().map(read).collect()
}

/// How far all repositories are.
pub(crate) async fn levels(database: &Database) -> Result<BTreeMap<RepositoryName, Level>, StoreError> {
    let query = REPOSITORIES.query("SELECT repository, last, closed, foreign_numbers FROM outbox_repositories");
    query.fetch_all(database).await?.iter().map(read_level).collect()
}

fn read_level(row: &Row) -> Result<(RepositoryName, Level), StoreError> {
    let level =
        Level { last: row.number("last")?, closed: row.number("closed")?, foreign: row.flag("foreign_numbers")? };
    Ok((row.parse("repository")?, level))
}

/// Closes rows up to the numbers that Git shows as handled, in one transaction. Returns how far each of these repositories
/// is then.
pub(crate) async fn close(
    database: &Database,
    handled: &BTreeMap<RepositoryName, u64>,
) -> Result<BTreeMap<RepositoryName, Level>, StoreError> {
    let mut tx = database.begin().await?;
    let mut levels = BTreeMap::new();
    let handled: Vec<_> = handled.iter().collect();
    for handled in handled.chunks(MAX_ROWS) {
        let query = REPOSITORIES
            .query("SELECT repository, last, closed, foreign_numbers FROM outbox_repositories WHERE repository IN ")
            .push_list(handled.iter().map(|(repository, _)| repository.to_string()));
        let held = query.fetch_all(&mut tx).await?;
        let mut held = held.iter().map(read_level).collect::<Result<BTreeMap<_, _>, _>>()?;
        let (mut raised, mut marked, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (repository, handled) in handled {
            let never_written = Level { last: 0, closed: 0, foreign: false };
            let mut level = held.remove(*repository).unwrap_or(never_written);
            if **handled > level.last && !level.foreign {
                level.foreign = true;
                marked.push(repository.to_string());
            } else if **handled > level.closed && !level.foreign {
                keys.extend((level.closed + 1..=**handled).map(|number| (*repository, number)));
                level.closed = **handled;
                raised.push((repository.to_string(), **handled));
            }
            levels.insert((*repository).clone(), level);
        }
        if !marked.is_empty() {
            let mark = "UPDATE outbox_repositories SET foreign_numbers = 1 WHERE repository IN ";
            REPOSITORIES.query(mark).push_list(marked).execute(&mut tx).await?;
        }
        if !raised.is_empty() {
            let raise = REPOSITORIES
                .query("UPDATE outbox_repositories SET closed = column2 FROM (")
                .push_rows(raised, |row, (repository, handled)| row.bind(repository).bind(handled))
                .push(") AS heard WHERE repository = column1");
            raise.execute(&mut tx).await?;
        }
        for keys in keys.chunks(MAX_ROWS) {
            let delete = ROWS
                .query("DELETE FROM outbox_rows WHERE (repository, number) IN (")
                .push_rows(keys, |row, (repository, number)| row.bind(repository.to_string()).bind(*number))
                .push(")");
            delete.execute(&mut tx).await?;
        }
    }
    tx.commit().await?;
    Ok(levels)
}

/// The highest closed number of each of these repositories that was ever written.
pub(crate) async fn closed(
    database: &Database,
    of: &BTreeSet<RepositoryName>,
) -> Result<BTreeMap<RepositoryName, u64>, StoreError> {
    let mut closed = BTreeMap::new();
    let of: Vec<_> = of.iter().map(ToString::to_string).collect();
    for names in of.chunks(MAX_ROWS) {
        let query = REPOSITORIES
            .query("SELECT repository, closed FROM outbox_repositories WHERE repository IN ")
            .push_list(names);
        for row in query.fetch_all(database).await? {
            closed.insert(row.parse("repository")?, row.number("closed")?);
        }
    }
    Ok(closed)
}

#[cfg(test)]
mod tests;
