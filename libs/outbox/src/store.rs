//! The rows in SQL.
//!
//! **Layout.** `outbox_repositories` has one row for each repository and counts what was ever written for it;
//! `outbox_rows` has one row for each write that does not stand in Git yet, with the bytes that travel. Both stand in the
//! service's database, so that one transaction decides an order and records what it writes.
//!
//! **Updates.** An append takes the next number of each repository and the next positions over all repositories in one
//! statement. A cursor over positions skips nothing: a position is one more than the greatest *committed* one, and it is
//! unique, so a transaction with a lower position has always committed before one with a higher position can. (Writers
//! take turns anyway; the unique column holds that even if two processes used one database.) Closing deletes rows and
//! raises `closed` in one transaction, for many repositories at once, because each transaction costs a sync of the disk.
//!
//! **After a crash.** Every number that was given has its row, or stands in Git and is at most `closed`: never a gap. What
//! was published and not yet closed is published again, and git-writer passes over it.

use std::collections::BTreeMap;

use margo::RepositoryName;
use store::{Database, MAX_ROWS, Migrations, Row, StoreError, Table, Transaction};

use crate::progress::OpenRow;

static REPOSITORIES: Table = Table::new("outbox_repositories", &["repository"]);
static ROWS: Table = Table::new("outbox_rows", &["repository", "number", "position"]);

/// The tables have their own list of migrations, for the service keeps its own in the same place.
const MIGRATIONS: Migrations =
    Migrations::new(&[(1, "outbox", include_str!("../migrations/1_outbox.sql"))]).remembered_in("_outbox_migrations");

/// A repository of which Git holds numbers that this database never gave. What they would close might never have been
/// published, so the repository stands still from now on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// The repository that stands still.
    pub repository: RepositoryName,
    /// What Git shows as handled.
    pub handled: u64,
    /// The highest number that this database has given.
    pub last: u64,
}

/// Brings the tables of the outbox to their newest form, and makes them when there are none.
pub(crate) async fn migrate(database: &Database) -> anyhow::Result<()> {
    database.migrate(&MIGRATIONS).await
}

/// The error for a write that git-writer could not decode.
pub(crate) fn too_large(bytes: usize, limit: usize) -> StoreError {
    ROWS.too_large(bytes, limit)
}

/// The numbers of a new row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Counts within the repository, from one, without gaps.
    pub number: u64,
    /// Counts over all repositories, rising in the order of the commits.
    pub position: u64,
}

/// Takes the next place of each of these repositories, in their order.
///
/// # Panics
///
/// When one of them is named twice.
pub(crate) async fn next_places(
    tx: &mut Transaction,
    repositories: impl Iterator<Item = &RepositoryName>,
) -> Result<Vec<Place>, StoreError> {
    let repositories: Vec<_> = repositories.map(ToString::to_string).collect();
    let mut places = BTreeMap::new();
    for names in repositories.chunks(MAX_ROWS) {
        let next = REPOSITORIES
            .query("INSERT INTO outbox_repositories (repository, last, position) SELECT column1, 1, before + column2 FROM (")
            .push_rows(names.iter().zip(1u64..), |row, (name, nth)| row.bind(name).bind(nth))
            .push(
                ") AS asked, (SELECT coalesce(max(position), 0) AS before FROM outbox_repositories) AS given WHERE true
                 ON CONFLICT (repository) DO UPDATE SET last = outbox_repositories.last + 1, position = excluded.position
                 RETURNING repository, last, position",
            );
        for row in next.fetch_all(&mut *tx).await? {
            let place = Place { number: row.number("last")?, position: row.number("position")? };
            places.insert(row.string("repository")?, place);
        }
    }
    Ok(repositories.iter().map(|name| places.remove(name).expect("each repository is named once")).collect())
}

/// Adds rows that do not stand in Git yet, at places that [`next_places`] gave in the same transaction.
pub(crate) async fn insert(tx: &mut Transaction, rows: &[OpenRow]) -> Result<(), StoreError> {
    for rows in rows.chunks(MAX_ROWS) {
        let insert = ROWS
            .query("INSERT INTO outbox_rows (position, repository, number, traceparent, payload) ")
            .push_rows(rows, |values, row| {
                values
                    .bind(row.position)
                    .bind(row.repository.to_string())
                    .bind(row.number)
                    .bind(&row.traceparent)
                    .bind(row.payload.as_ref())
            });
        insert.execute(tx).await?;
    }
    Ok(())
}

/// Open rows after a position, in the order in which they were committed: at most so many, and of so many bytes in all
/// unless the first one alone has more.
pub(crate) async fn open_rows(
    database: &Database,
    after: u64,
    max_rows: u64,
    max_bytes: u64,
) -> Result<Vec<OpenRow>, StoreError> {
    // The sizes are added up before a payload is read.
    let query = ROWS.query(
        "SELECT outbox_rows.position, repository, number, traceparent, payload
         FROM (SELECT position, bytes, sum(bytes) OVER (ORDER BY position) AS total
               FROM (SELECT position, CAST(length(payload) AS BIGINT) AS bytes FROM outbox_rows
                     WHERE position > $1
                       AND repository NOT IN (SELECT repository FROM outbox_repositories WHERE foreign_numbers = 1)
                     ORDER BY position LIMIT $2) AS page) AS sizes
         JOIN outbox_rows ON outbox_rows.position = sizes.position
         WHERE total <= $3 OR total = bytes
         ORDER BY outbox_rows.position",
    );
    let rows = query.bind(after).bind(max_rows).bind(max_bytes).fetch_all(database).await?;
    let read = |row: &Row| {
        Ok(OpenRow {
            position: row.number("position")?,
            repository: row.parse("repository")?,
            number: row.number("number")?,
            payload: row.bytes("payload")?.into(),
            traceparent: row.optional("traceparent", Row::string)?,
        })
    };
    rows.iter().map(read).collect()
}

/// How many rows are open. It counts repositories and not rows, of which there may be very many while Git is away.
pub(crate) async fn count_open(database: &Database) -> Result<u64, StoreError> {
    let sum = "SELECT CAST(coalesce(sum(last - closed), 0) AS BIGINT) AS open FROM outbox_repositories";
    REPOSITORIES.query(sum).fetch_one(database).await?.number("open")
}

/// Closes rows up to the numbers that Git shows as handled, in one transaction. Returns the repositories of which Git
/// holds numbers that were never given.
pub(crate) async fn close(
    database: &Database,
    handled: &BTreeMap<RepositoryName, u64>,
) -> Result<Vec<Foreign>, StoreError> {
    let mut tx = database.begin().await?;
    let mut foreign = Vec::new();
    for (repository, handled) in handled {
        let name = repository.to_string();
        let held = REPOSITORIES.query("SELECT last, foreign_numbers FROM outbox_repositories WHERE repository = $1");
        let (last, stands_still) = match held.bind(&name).fetch_optional(&mut tx).await? {
            None => (0, false),
            Some(row) => (row.number("last")?, row.flag("foreign_numbers")?),
        };
        if stands_still || *handled > last {
            let mark = REPOSITORIES.query("UPDATE outbox_repositories SET foreign_numbers = 1 WHERE repository = $1");
            mark.bind(&name).execute(&mut tx).await?;
            foreign.push(Foreign { repository: repository.clone(), handled: *handled, last });
            continue;
        }
        let raise = REPOSITORIES
            .query("UPDATE outbox_repositories SET closed = $2 WHERE repository = $1 AND closed < $2")
            .bind(&name)
            .bind(*handled);
        raise.execute(&mut tx).await?;
        let delete = ROWS.query("DELETE FROM outbox_rows WHERE repository = $1 AND number <= $2");
        delete.bind(&name).bind(*handled).execute(&mut tx).await?;
    }
    tx.commit().await?;
    Ok(foreign)
}

/// The highest closed number of every repository.
pub(crate) async fn closed(database: &Database) -> Result<BTreeMap<RepositoryName, u64>, StoreError> {
    let rows = REPOSITORIES.query("SELECT repository, closed FROM outbox_repositories").fetch_all(database).await?;
    rows.iter().map(|row| Ok((row.parse("repository")?, row.number("closed")?))).collect()
}

#[cfg(test)]
mod tests {
    use testkit::on_each_database;

    use super::*;

    #[tokio::test]
    async fn places_of_several_repositories_follow_the_order_in_which_they_are_asked_for() {
        on_each_database(async |location| {
            let database = Database::open(&location).await.unwrap();
            migrate(&database).await.unwrap();
            let client = |name: &str| RepositoryName::Client(name.parse().unwrap());
            let (press, fleet, oven) = (client("press"), RepositoryName::Fleet, client("oven"));
            let mut taken = Vec::new();
            for asked in [vec![&press, &fleet], vec![&fleet], vec![&oven, &fleet, &press]] {
                let mut tx = database.begin().await.unwrap();
                let places = next_places(&mut tx, asked.into_iter()).await.unwrap();
                taken.extend(places.iter().map(|place| (place.number, place.position)));
                tx.commit().await.unwrap();
            }
            assert_eq!(taken, [(1, 1), (1, 2), (2, 3), (1, 4), (3, 5), (2, 6)]);
        })
        .await;
    }

    #[tokio::test]
    async fn open_rows_are_bounded_in_number_and_bytes_and_a_large_one_comes_alone() {
        on_each_database(async |location| {
            let database = Database::open(&location).await.unwrap();
            migrate(&database).await.unwrap();
            let mut tx = database.begin().await.unwrap();
            for bytes in [40, 60, 1, 200, 50, 50] {
                let repository = RepositoryName::Fleet;
                let Place { number, position } = next_places(&mut tx, [&repository].into_iter()).await.unwrap()[0];
                let payload = vec![0; bytes].into();
                insert(&mut tx, &[OpenRow { position, repository, number, payload, traceparent: None }]).await.unwrap();
            }
            tx.commit().await.unwrap();
            for (after, rows, bytes, expected) in [
                (0, 500, 100, vec![40, 60]),
                (0, 500, 101, vec![40, 60, 1]),
                (0, 1, 100, vec![40]),
                (2, 500, 100, vec![1]),
                (3, 500, 100, vec![200]),
                (4, 500, 100, vec![50, 50]),
                (6, 500, 100, vec![]),
            ] {
                let found = open_rows(&database, after, rows, bytes).await.unwrap();
                let sizes: Vec<_> = found.iter().map(|row| row.payload.len()).collect();
                assert_eq!(sizes, expected, "after {after}, {rows} rows, {bytes} bytes");
            }
        })
        .await;
    }
}
