use git_state::Message;

use super::*;
use crate::domain::{Edits, Row};

const SOURCE: ServiceName = ServiceName::DeploymentRegistry;
const OTHER: ServiceName = ServiceName::NodeCapabilities;

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

fn row(name: &str, source: ServiceName, number: u64, follows_fleet: u64) -> Queued {
    let row = Row {
        source,
        number,
        follows_fleet,
        author: "ada".into(),
        message: Message::new("x"),
        edits: Ok(Edits::Files(Vec::new())),
    };
    Queued { row, repository: client(name), bytes: 100, headers: None }
}

fn rows(name: &str, numbers: std::ops::RangeInclusive<u64>) -> Vec<Queued> {
    numbers.map(|number| row(name, SOURCE, number, 0)).collect()
}

fn numbers(rows: &[Queued]) -> Vec<(String, u64)> {
    rows.iter().map(|queued| (queued.repository.to_string(), queued.row.number)).collect()
}

#[test]
fn who_stands_still_is_tried_ever_more_seldom_and_the_others_are_admitted() {
    let (mut aside, mut now) = (Aside::default(), Instant::now());
    let plant = client("plant");
    let pauses: Vec<_> = (0..8)
        .map(|_| {
            let pause = aside.stands_still(&plant, rows("plant", 1..=1), now);
            let new = rows("plant", 2..=2).into_iter().chain(rows("port", 1..=1)).collect();
            assert_eq!(numbers(&aside.admit(new, now)), [("clients/port".into(), 1)]);
            now += pause;
            assert_eq!(aside.next_retry(now), Some(now));
            let admitted = aside.admit(Vec::new(), now);
            assert_eq!(numbers(&admitted), [("clients/plant".into(), 1), ("clients/plant".into(), 2)]);
            pause.as_secs()
        })
        .collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(aside.is_still(&plant));
    aside.goes_on(&plant);
    assert!(!aside.is_still(&plant));
    assert_eq!(aside.stands_still(&plant, Vec::new(), now).as_secs(), 1);
}

#[test]
fn a_row_that_comes_again_waits_once_and_after_what_is_nearer() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let plant = client("plant");
    aside.stands_still(&plant, rows("plant", 2..=3), now);
    for _ in 0..3 {
        assert!(aside.admit(rows("plant", 1..=3), now).is_empty());
    }
    let bytes = aside.bytes();
    let admitted = aside.admit(Vec::new(), now + LAST_RETRY);
    assert_eq!(admitted.iter().map(|queued| queued.row.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((bytes, aside.bytes()), (3 * (100 + OVERHEAD), 0));
}

#[test]
fn what_waits_is_bounded_for_each_and_for_all_and_the_next_rows_stay() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let plant = client("plant");
    aside.stands_still(&plant, rows("plant", 2..=2_000), now);
    aside.admit(rows("plant", 1..=1), now);
    let admitted = aside.admit(Vec::new(), now + LAST_RETRY);
    assert_eq!(admitted.iter().map(|queued| queued.row.number).collect::<Vec<_>>(), (1..=1_000).collect::<Vec<_>>());

    // One row of any size may wait, and all together have a bound.
    let mut aside = Aside::default();
    for at in 0..100 {
        let name = format!("plant-{at}");
        let large = Queued { bytes: MAX_BYTES + 1, ..row(&name, SOURCE, 1, 0) };
        aside.stands_still(&client(&name), vec![large], now);
    }
    assert!(aside.bytes() <= MAX_BYTES_OF_ALL && aside.bytes() > MAX_BYTES_OF_ALL / 2, "{}", aside.bytes());
    let later = now + LAST_RETRY;
    assert_eq!(aside.admit(Vec::new(), later).len(), MAX_BYTES_OF_ALL / MAX_BYTES - 1);
    // Of whom nothing was kept is tried when something comes.
    assert_eq!(aside.admit(rows("plant-99", 1..=1), later).len(), 1);
    assert_eq!(aside.next_retry(later), None, "nothing to be tried by itself");
}

#[test]
fn rows_that_wait_outlast_what_else_is_tried_meanwhile() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    let (plant, port) = (client("plant"), client("port"));
    aside.stands_still(&plant, rows("plant", 1..=1), now);
    // Its tip could not be signed anew, and later it could.
    aside.stands_still(&plant, Vec::new(), now);
    aside.waits_for_fleet(&port, vec![row("port", SOURCE, 1, 5)]);
    aside.goes_on(&plant);
    aside.goes_on(&port);
    assert_eq!(numbers(&aside.admit(Vec::new(), now)), [("clients/plant".into(), 1)]);
    aside.fleet_is_at(&"deployment-registry=5".parse().unwrap());
    assert_eq!(numbers(&aside.admit(Vec::new(), now)), [("clients/port".into(), 1)]);
    // What the fleet holds meanwhile is not waited for.
    aside.waits_for_fleet(&port, vec![row("port", SOURCE, 2, 5)]);
    assert_eq!(numbers(&aside.admit(Vec::new(), now)), [("clients/port".into(), 2)]);
}

#[test]
fn a_client_waits_for_its_own_source_s_row_of_the_fleet_and_stands_not_still() {
    let (mut aside, now) = (Aside::default(), Instant::now());
    for (name, source, follows) in [("plant", SOURCE, 5), ("port", SOURCE, 7), ("depot", OTHER, 5)] {
        aside.waits_for_fleet(&client(name), vec![row(name, source, 1, follows)]);
        assert!(!aside.is_still(&client(name)));
    }
    assert_eq!(numbers(&aside.admit(rows("plant", 2..=2), now)), []);
    assert_eq!(aside.next_retry(now), None);
    aside.fleet_is_at(&"deployment-registry=5 node-capabilities=4".parse().unwrap());
    assert_eq!(aside.next_retry(now), Some(now));
    let admitted = numbers(&aside.admit(rows("port", 2..=2), now));
    assert_eq!(admitted, [("clients/plant".into(), 1), ("clients/plant".into(), 2)]);
    aside.fleet_is_at(&"deployment-registry=9 node-capabilities=5".parse().unwrap());
    let mut admitted = numbers(&aside.admit(Vec::new(), now));
    admitted.sort();
    assert_eq!(admitted, [("clients/depot".into(), 1), ("clients/port".into(), 1), ("clients/port".into(), 2)]);
    assert_eq!(aside.bytes(), 0);
}
