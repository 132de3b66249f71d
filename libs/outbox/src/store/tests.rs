use testkit::on_each_database;

use super::*;

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

async fn open(location: &store::Location) -> Database {
    let database = Database::open(location).await.unwrap();
    migrate(&database).await.unwrap();
    database
}

/// Appends a row with a payload of so many bytes, in a transaction of its own.
async fn append(database: &Database, repository: &RepositoryName, bytes: usize, follows: u64) -> u64 {
    let mut tx = database.begin().await.unwrap();
    let number = next_numbers(&mut tx, [repository].into_iter()).await.unwrap()[0];
    let payload = Some(vec![0; bytes].into());
    let row = OpenRow { repository: repository.clone(), number, follows, payload, traceparent: None };
    insert(&mut tx, &[row]).await.unwrap();
    tx.commit().await.unwrap();
    number
}

#[tokio::test]
async fn numbers_of_several_repositories_follow_the_order_in_which_they_are_asked_for() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let (press, fleet, oven) = (client("press"), RepositoryName::Fleet, client("oven"));
        let mut taken = Vec::new();
        for asked in [vec![&press, &fleet], vec![&fleet], vec![&oven, &fleet, &press]] {
            let mut tx = database.begin().await.unwrap();
            taken.extend(next_numbers(&mut tx, asked.into_iter()).await.unwrap());
            tx.commit().await.unwrap();
        }
        assert_eq!(taken, [1, 1, 2, 1, 3, 2]);
    })
    .await;
}

#[tokio::test]
async fn open_rows_are_bounded_in_bytes_and_a_large_one_comes_alone() {
    on_each_database(async |location| {
        let database = open(&location).await;
        for bytes in [40, 60, 1, 200, 50, 50] {
            append(&database, &RepositoryName::Fleet, bytes, 0).await;
        }
        for (numbers, bytes, expected) in [
            (1..=6u64, 100, vec![40, 60]),
            (1..=6, 101, vec![40, 60, 1]),
            (1..=1, 100, vec![40]),
            (3..=6, 100, vec![1]),
            (4..=6, 100, vec![200]),
            (5..=7, 100, vec![50, 50]),
            (7..=9, 100, vec![]),
        ] {
            let keys: Vec<_> = numbers.clone().map(|number| (RepositoryName::Fleet, number)).collect();
            let found = open_rows(&database, &keys, 0, bytes).await.unwrap();
            let sizes: Vec<_> = found.iter().map(|row| row.payload.as_ref().unwrap().len()).collect();
            assert_eq!(sizes, expected, "{numbers:?}, {bytes} bytes");
        }
    })
    .await;
}

#[tokio::test]
async fn a_row_that_has_to_wait_comes_in_its_place_and_without_its_payload() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let plant = client("plant");
        append(&database, &RepositoryName::Fleet, 10, 0).await;
        append(&database, &plant, 10, 1).await;
        append(&database, &plant, 1_000, 2).await;
        let keys = [(plant.clone(), 1), (plant.clone(), 2), (RepositoryName::Fleet, 1)];
        let found = open_rows(&database, &keys, 1, 20).await.unwrap();
        let seen: Vec<_> =
            found.iter().map(|row| (row.repository.clone(), row.number, row.payload.is_some())).collect();
        assert_eq!(seen, [(plant.clone(), 1, true), (plant, 2, false), (RepositoryName::Fleet, 1, true)]);
    })
    .await;
}

#[tokio::test]
async fn what_git_shows_is_closed_for_many_repositories_at_once_and_what_was_never_given_marks_its_own() {
    on_each_database(async |location| {
        let database = open(&location).await;
        let (plant, port, depot) = (client("plant"), client("port"), client("depot"));
        for _ in 0..3 {
            append(&database, &plant, 1, 0).await;
            append(&database, &port, 1, 0).await;
        }
        let heard = BTreeMap::from([(plant.clone(), 2), (port.clone(), 4), (depot.clone(), 1)]);
        let levels = close(&database, &heard).await.unwrap();
        assert_eq!(levels[&plant], Level { last: 3, closed: 2, foreign: false });
        assert_eq!(levels[&port], Level { last: 3, closed: 0, foreign: true });
        assert!(levels[&depot].foreign);
        // An older number opens nothing again.
        close(&database, &BTreeMap::from([(plant.clone(), 1)])).await.unwrap();
        let keys: Vec<_> = [&plant, &port].into_iter().flat_map(|it| (1..=3).map(|at| (it.clone(), at))).collect();
        let left = open_rows(&database, &keys, 0, 100).await.unwrap();
        let left: Vec<_> = left.into_iter().map(|row| (row.repository, row.number)).collect();
        assert_eq!(left, [(plant.clone(), 3), (port.clone(), 1), (port.clone(), 2), (port.clone(), 3)]);
        let of = BTreeSet::from([plant.clone(), port.clone(), depot]);
        assert_eq!(closed(&database, &of).await.unwrap(), BTreeMap::from([(plant, 2), (port, 0)]));
    })
    .await;
}
