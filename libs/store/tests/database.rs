//! The handle, its transactions and its readers, on both kinds of database.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use jiff::Timestamp;
use store::{Database, Location, Migrations, Row, StoreError, Table, Transaction};
use testkit::{Postgres, on_each_database, wait_for};

static WORDS: Table = Table::new("words", &["word"]);
const MIGRATIONS: Migrations = Migrations::new(&[(
    1,
    "words",
    "CREATE TABLE words (word TEXT PRIMARY KEY, uses INTEGER, body BLOB, CHECK (uses < 1000)) STRICT;",
)]);

async fn open(location: &Location) -> Database {
    let database = Database::open(location).await.unwrap();
    database.migrate(&MIGRATIONS).await.unwrap();
    database
}

async fn insert(database: &Database, word: &str, uses: u64) -> Result<(), StoreError> {
    let mut tx = database.begin().await?;
    WORDS.query("INSERT INTO words (word, uses) VALUES ($1, $2)").bind(word).bind(uses).execute(&mut tx).await?;
    tx.commit().await
}

async fn words(database: &Database) -> Vec<String> {
    let rows = WORDS.query("SELECT word FROM words ORDER BY word").fetch_all(database).await.unwrap();
    rows.iter().map(|row| row.string("word").unwrap()).collect()
}

#[tokio::test]
async fn what_is_committed_survives_and_what_is_not_does_not() {
    on_each_database(async |location| {
        let database = open(&location).await;
        insert(&database, "kept", 1).await.unwrap();
        let mut tx = database.begin().await.unwrap();
        WORDS.query("INSERT INTO words (word) VALUES ($1)").bind("dropped").execute(&mut tx).await.unwrap();
        drop(tx);
        database.close().await;
        assert_eq!(words(&open(&location).await).await, ["kept"]);
    })
    .await;
}

#[tokio::test]
async fn transactions_that_read_before_they_write_take_turns() {
    on_each_database(async |location| {
        let database = open(&location).await;
        insert(&database, "counter", 0).await.unwrap();
        let increment = async |database: Database| {
            let mut tx = database.begin().await.unwrap();
            let row = WORDS.query("SELECT uses FROM words").fetch_one(&mut tx).await.unwrap();
            let next = row.number("uses").unwrap() + 1;
            WORDS.query("UPDATE words SET uses = $1").bind(next).execute(&mut tx).await.unwrap();
            tx.commit().await.unwrap();
        };
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(increment(database.clone()))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        let row = WORDS.query("SELECT uses FROM words").fetch_one(&database).await.unwrap();
        assert_eq!(row.number("uses").unwrap(), 100);
    })
    .await;
}

#[tokio::test]
async fn reads_do_not_wait_for_a_transaction_and_do_not_see_it_before_its_end() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let mut tx = database.begin().await.unwrap();
        WORDS.query("INSERT INTO words (word) VALUES ('new')").execute(&mut tx).await.unwrap();
        // Would wait for ten seconds and fail if it used the writer's connection.
        assert_eq!(words(&database).await, [""; 0]);
        let own = WORDS.query("SELECT word FROM words").fetch_all(&mut tx).await.unwrap();
        assert_eq!(own.len(), 1);
        let mut snapshot = database.snapshot().await.unwrap();
        let seen = async |snapshot: &mut Transaction| {
            WORDS.query("SELECT word FROM words").fetch_all(snapshot).await.unwrap().len()
        };
        assert_eq!(seen(&mut snapshot).await, 0);
        tx.commit().await.unwrap();
        assert_eq!(seen(&mut snapshot).await, 0, "a snapshot stays as it was");
        assert_eq!(words(&database).await, ["new"], "a commit is seen by whoever reads after it");
    })
    .await;
}

#[tokio::test]
async fn a_connection_for_reading_cannot_write() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let mut snapshot = database.snapshot().await.unwrap();
        let written = WORDS.query("INSERT INTO words (word) VALUES ('new')").execute(&mut snapshot).await;
        assert!(written.is_err());
    })
    .await;
}

#[tokio::test]
async fn every_type_is_read_as_it_was_written_and_absent_values_are_absent() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let time: Timestamp = "2026-01-01T00:00:00.123456789Z".parse().unwrap();
        let body: Vec<u8> = (0..=255).collect();
        let mut tx = database.begin().await.unwrap();
        let query = WORDS.query("INSERT INTO words (word, uses, body) ");
        let rows = [("full", Some(7u64), Some(body.as_slice())), ("empty", None, None)];
        let query = query.push_rows(rows, |row, (word, uses, body)| row.bind(word).bind(uses).bind(body));
        assert_eq!(query.execute(&mut tx).await.unwrap(), 2);
        tx.commit().await.unwrap();

        let list = WORDS.query("SELECT * FROM words WHERE word IN ").push_list(["full", "empty", "other"]);
        let rows = list.push(" ORDER BY word").fetch_all(&database).await.unwrap();
        let [empty, full] = &rows[..] else { panic!("two rows: {rows:?}") };
        assert_eq!((full.number("uses").unwrap(), full.bytes("body").unwrap()), (7, body));
        assert_eq!(empty.optional("uses", Row::number).unwrap(), None);
        assert_eq!(empty.optional("body", Row::bytes).unwrap(), None);
        let error = empty.number("uses").unwrap_err();
        assert_eq!(error.to_string(), "column uses of words empty in the database is not valid");

        let literals = WORDS.query("SELECT CAST($1 AS BIGINT) AS at, CAST($2 AS BIGINT) AS negative").bind(time);
        let row = literals.bind(-1i64).fetch_one(&database).await.unwrap();
        assert_eq!(row.time("at").unwrap(), time);
        assert!(row.number("negative").is_err());
        assert!(row.flag("negative").is_err());
    })
    .await;
}

#[tokio::test]
async fn values_of_a_text_that_was_put_together_go_where_their_numbers_stand() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let all: Vec<_> = (0..store::MAX_ROWS as u64).map(|at| (format!("word-{at:03}"), at)).collect();
        let mut tx = database.begin().await.unwrap();
        let query = WORDS.query("INSERT INTO words (word, uses) ");
        let query = query.push_rows(&all, |values, (word, uses)| values.bind(word).bind(*uses));
        assert_eq!(query.execute(&mut tx).await.unwrap(), all.len() as u64);
        tx.commit().await.unwrap();
        // The second value comes first in the text, and the first one comes twice.
        let query =
            WORDS.query("SELECT word FROM words WHERE uses > $2 AND uses <> $1 AND uses <> $1 + 1 AND uses IN ");
        let query = query.bind(4u64).bind(2u64).push_list(1..8u64).push(" ORDER BY word");
        let found = query.fetch_all(&database).await.unwrap();
        let found: Vec<_> = found.iter().map(|row| row.string("word").unwrap()).collect();
        assert_eq!(found, ["word-003", "word-006", "word-007"]);
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn text_is_ordered_by_bytes_and_a_nul_in_it_stops_nobody() {
    on_each_database(async |location| {
        let database = open(&location).await;
        for word in ["b/a", "B", "a-b", "a/b", "ab", "zero\0", "ä"] {
            insert(&database, word, 1).await.unwrap();
        }
        assert_eq!(words(&database).await, ["B", "a-b", "a/b", "ab", "b/a", "zero\u{fffd}", "ä"]);
    })
    .await;
}

#[tokio::test]
async fn errors_tell_what_may_pass_from_what_does_not() {
    on_each_database(async |location| {
        let database = open(&location).await;
        insert(&database, "once", 1).await.unwrap();
        for (word, uses) in [("once", 1), ("too often", 1_000), ("out of range", u64::MAX)] {
            let error = insert(&database, word, uses).await.unwrap_err();
            assert!(matches!(error, StoreError::Refused { table: "words", .. }), "{error:?}");
        }
        insert(&database, "after it", 1).await.unwrap();
        database.close().await;
        let error = insert(&database, "closed", 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn tables_are_made_once_and_another_text_for_the_same_step_is_refused() {
    on_each_database(async |location| {
        let database = open(&location).await;
        database.migrate(&MIGRATIONS).await.unwrap();
        const OTHER: Migrations = Migrations::new(&[(1, "words", "CREATE TABLE words (word TEXT) STRICT;")]);
        assert!(database.migrate(&OTHER).await.is_err());
        database.migrate(&OTHER.remembered_in("_others")).await.unwrap_err();
        const MORE: Migrations = Migrations::new(&[(1, "more", "CREATE TABLE more (word TEXT) STRICT;")]);
        database.migrate(&MORE.remembered_in("_more")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_place_that_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Database::open(&Location::File(folder.path().to_owned())).await.unwrap_err();
    assert!(format!("{error:#}").contains(&folder.path().display().to_string()), "{error:#}");
    let Location::Schema { url, .. } = Postgres::shared().location() else { panic!("a schema") };
    let wrong = Location::Schema { url, schema: "drop table".into() };
    let error = Database::open(&wrong).await.unwrap_err();
    assert!(format!("{error:#}").contains("drop table"), "{error:#}");
}

#[tokio::test]
async fn connections_that_the_server_ended_are_made_anew() {
    let location = Postgres::shared().location();
    let database = open(&location).await;
    let Location::Schema { schema, .. } = &location else { panic!("a schema") };
    assert_eq!(words(&database).await, [""; 0]);
    let other = open(&Postgres::shared().location()).await;
    // With a transaction in work: it fails, and the next one does not.
    let mut tx = database.begin().await.unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity WHERE application_name = $1";
    let ended = WORDS.query(end).bind(format!("edgewright {schema}")).fetch_one(&other).await.unwrap();
    assert!(ended.number("ended").unwrap() >= 2);
    let failed = WORDS.query("INSERT INTO words (word) VALUES ('lost')").execute(&mut tx).await;
    assert!(matches!(failed, Err(StoreError::Unreachable { .. })), "{failed:?}");
    drop(tx);
    wait_for("a new connection", async || insert(&database, "kept", 1).await).await;
    assert_eq!(words(&database).await, ["kept"]);
}
