//! A service's database: one SQLite file, of which the service is the only user.
//!
//! What is committed is on the disk. Each service embeds its own migrations (`sqlx::migrate!().run(&pool)`) and keeps all
//! its SQL in its `store.rs`.

use std::{path::Path, time::Duration};

use anyhow::Context;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

/// How long to wait for the one connection, and for another process that holds the file (one that is just ending).
/// As long as a request on the bus waits for its answer: later nobody listens.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens the database, and makes it and its folder when there is none.
///
/// The pool has one connection, so transactions take turns in the order in which they came: none is ever refused with
/// "database is locked", also not one that reads before it writes. A second connection could only read beside a writer,
/// which is over within a sync of the disk. A task must not ask the pool for more while it holds a transaction.
pub async fn open(path: &Path) -> anyhow::Result<SqlitePool> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making the folder {}", folder.display()))?;
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(PATIENCE);
    SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .with_context(|| format!("opening the database {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_committed_survives_and_what_is_not_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("database/test.sqlite");
        let pool = open(&path).await.unwrap();
        sqlx::query("CREATE TABLE words (word TEXT NOT NULL)").execute(&pool).await.unwrap();
        for (word, keep) in [("kept", true), ("dropped", false)] {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query("INSERT INTO words VALUES ($1)").bind(word).execute(&mut *transaction).await.unwrap();
            if keep {
                transaction.commit().await.unwrap();
            }
        }
        pool.close().await;
        let words: Vec<String> =
            sqlx::query_scalar("SELECT word FROM words").fetch_all(&open(&path).await.unwrap()).await.unwrap();
        assert_eq!(words, ["kept"]);
    }

    #[tokio::test]
    async fn transactions_that_read_before_they_write_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let pool = open(&folder.path().join("test.sqlite")).await.unwrap();
        sqlx::query("CREATE TABLE counter (value INTEGER NOT NULL)").execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO counter VALUES (0)").execute(&pool).await.unwrap();
        let increment = async |pool: SqlitePool| {
            let mut transaction = pool.begin().await.unwrap();
            let value: i64 =
                sqlx::query_scalar("SELECT value FROM counter").fetch_one(&mut *transaction).await.unwrap();
            sqlx::query("UPDATE counter SET value = $1").bind(value + 1).execute(&mut *transaction).await.unwrap();
            transaction.commit().await.unwrap();
        };
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(increment(pool.clone()))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let value: i64 = sqlx::query_scalar("SELECT value FROM counter").fetch_one(&pool).await.unwrap();
        assert_eq!(value, 100);
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_opened_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).await.unwrap_err();
        assert!(format!("{error:#}").contains(&folder.path().display().to_string()), "{error:#}");
    }
}
