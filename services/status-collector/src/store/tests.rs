use ::store::Location;
use bus::report::{Deployment, Refusal};
use jiff::Timestamp;
use margo::{DeploymentId, Digest, State};
use testkit::on_each_database;

use super::*;

async fn open(location: &Location) -> (Database, Store) {
    let database = Database::open(location).await.unwrap();
    let store = Store::open(database.clone(), TenantName::default()).await.unwrap();
    (database, store)
}

fn id(number: u64) -> DeploymentId {
    format!("00000000-0000-4000-8000-{number:012}").parse().unwrap()
}

fn deployment(number: u64, state: State) -> Deployment {
    Deployment {
        id: id(number),
        digest: Digest::of(b"document"),
        adopted_manifest_version: 1,
        state,
        failure: None,
        components: vec![],
    }
}

/// A report of a node that names these deployments as installed.
fn report(node: &str, sequence: u64, deployments: impl IntoIterator<Item = u64>) -> (NodeId, Status) {
    let status = Status {
        position: Position { generation: 0, incarnation: 1, sequence },
        deployments: deployments.into_iter().map(|number| deployment(number, State::Installed)).collect(),
        refusals: vec![],
        time: Timestamp::from_second(i64::try_from(sequence).unwrap()).unwrap(),
    };
    (format!("plant/{node}").parse().unwrap(), status)
}

fn events(numbers: impl IntoIterator<Item = u64>) -> (NodeId, Events) {
    let transition = |number| Transition {
        number,
        deployment: id(1),
        digest: Digest::of(b"document"),
        component: Some("hello\0".into()),
        state: State::Installing,
        failure: None,
        adopted_manifest_version: number,
        time: Timestamp::UNIX_EPOCH,
    };
    let events = Events {
        position: Position { generation: 0, incarnation: 1, sequence: 1 },
        transitions: numbers.into_iter().map(transition).collect(),
        lost: 0,
    };
    ("plant/press".parse().unwrap(), events)
}

fn history_of(number: u64) -> HistoryOf {
    HistoryOf { id: id(number), node: None }
}

async fn states(store: &Store) -> Vec<(String, DeploymentId, State, String)> {
    let list = store.list().await.unwrap();
    list.into_iter().map(|actual| (actual.node.to_string(), actual.id, actual.state, actual.reported_at)).collect()
}

#[tokio::test]
async fn a_status_replaces_what_is_held_of_its_node_and_of_no_other() {
    on_each_database(async |location| {
        let (database, store) = open(&location).await;
        store.record(vec![report("press", 1, [1, 2]), report("saw", 1, [1])], &[], &[]).await.unwrap();
        store.record(vec![report("press", 3, [2, 3])], &[], &[]).await.unwrap();
        let expected = [
            ("plant/press".to_owned(), id(2), State::Installed, "1970-01-01T00:00:03Z".to_owned()),
            ("plant/press".to_owned(), id(3), State::Installed, "1970-01-01T00:00:03Z".to_owned()),
            ("plant/saw".to_owned(), id(1), State::Installed, "1970-01-01T00:00:01Z".to_owned()),
        ];
        assert_eq!(states(&store).await, expected);
        // Overtaken, repeated, and with a later report of the same node in the same batch.
        store.record(vec![report("press", 2, [1])], &[], &[]).await.unwrap();
        store.record(vec![report("press", 3, [2, 3]), report("saw", 1, [1])], &[], &[]).await.unwrap();
        database.close().await;
        let (_, store) = open(&location).await;
        assert_eq!(states(&store).await, expected, "also in the next life");
        store.record(vec![report("press", 4, [1]), report("press", 5, [])], &[], &[]).await.unwrap();
        assert_eq!(states(&store).await, expected[2..], "a node that names ever others takes no more room");
    })
    .await;
}

#[tokio::test]
async fn a_report_that_names_a_deployment_twice_keeps_nobody_from_being_stored() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        let (press, mut twice) = report("press", 1, [1]);
        twice.deployments.push(deployment(1, State::Failed));
        store.record(vec![(press, twice), report("saw", 1, [2])], &[], &[]).await.unwrap();
        let states: Vec<_> = states(&store).await.into_iter().map(|(_, id, state, _)| (id, state)).collect();
        assert_eq!(states, [(id(1), State::Failed), (id(2), State::Installed)]);
    })
    .await;
}

#[tokio::test]
async fn a_batch_of_very_many_nodes_is_stored_whole() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        let nodes = MAX_ROWS + 1;
        let reports = |sequence| (0..nodes).map(move |at| report(&format!("n{at}"), sequence, [1, 2])).collect();
        store.record(reports(1), &[], &[]).await.unwrap();
        store.record(reports(2), &[], &[]).await.unwrap();
        let states = states(&store).await;
        assert_eq!(states.len(), 2 * nodes);
        assert!(states.iter().all(|(_, _, state, at)| *state == State::Installed && at == "1970-01-01T00:00:02Z"));
    })
    .await;
}

#[tokio::test]
async fn refusals_are_those_of_the_newest_report_newest_last() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        let refused = |sequence: u64, reasons: &[&str]| {
            let refusal = |(at, reason): (i64, &&str)| Refusal {
                subject: "deployment".into(),
                reason: (*reason).into(),
                time: Timestamp::from_second(at).unwrap(),
            };
            let (press, status) = report("press", sequence, []);
            (press, Status { refusals: (1..).zip(reasons).map(refusal).collect(), ..status })
        };
        store.record(vec![refused(1, &["first", "sec\0nd"])], &[], &[]).await.unwrap();
        // Whoever says it stands before it, whatever it says.
        let by_press = |reason: &str| format!("node plant/press says: {reason}");
        let reasons = async || store.refusals().await.unwrap().into_iter().map(|refusal| refusal.reason);
        assert_eq!(reasons().await.collect::<Vec<_>>(), ["first", "sec\u{fffd}nd"].map(by_press));
        store.record(vec![refused(2, &["third"])], &[], &[]).await.unwrap();
        assert_eq!(reasons().await.collect::<Vec<_>>(), ["third"].map(by_press));
    })
    .await;
}

#[tokio::test]
async fn history_keeps_the_newest_transitions_once_each() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        store.record(vec![], &[events(1..=150), events(100..=199)], &[]).await.unwrap();
        let numbers = async || {
            let history = store.history(&history_of(1)).await.unwrap();
            history.into_iter().map(|entry| entry.adopted_manifest_version).collect::<Vec<_>>()
        };
        assert_eq!(numbers().await, (1..=199).collect::<Vec<_>>());
        store.record(vec![], &[events(200..=205)], &[]).await.unwrap();
        assert_eq!(numbers().await, (6..=205).collect::<Vec<_>>());
        assert_eq!(store.history(&history_of(1)).await.unwrap()[0].component.as_deref(), Some("hello\u{fffd}"));
        assert!(store.history(&history_of(2)).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_row_that_does_not_hold_what_was_written_is_named() {
    on_each_database(async |location| {
        let (database, store) = open(&location).await;
        store.record(vec![report("press", 1, [1])], &[], &[]).await.unwrap();
        let mut tx = database.begin().await.unwrap();
        DEPLOYMENTS.query("UPDATE deployments SET state = 'lost'").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let error = store.list().await.unwrap_err();
        let expected = format!("column state of deployments plant/press {} in the database is not valid", id(1));
        assert_eq!(error.to_string(), expected);
    })
    .await;
}

#[tokio::test]
async fn how_far_a_stream_was_read_is_kept_with_what_was_read() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        assert_eq!(store.copied("STATE").await.unwrap(), None);
        let copied = |id: &str, sequence| Copied { stream: "STATE", id: id.to_owned(), sequence };
        store.record(vec![report("press", 1, [1])], &[], &[copied("a", 7)]).await.unwrap();
        // What comes again does not set it back; a stream with another identity counts anew.
        store.record(vec![], &[], &[copied("a", 3)]).await.unwrap();
        assert_eq!(store.copied("STATE").await.unwrap(), Some(copied("a", 7)));
        store.record(vec![], &[], &[copied("b", 2)]).await.unwrap();
        assert_eq!(store.copied("STATE").await.unwrap(), Some(copied("b", 2)));
        store.begin_copy("STATE", "b".to_owned()).await.unwrap();
        assert_eq!(store.copied("STATE").await.unwrap(), Some(copied("b", 0)));
        assert_eq!(store.copied("EVENTS").await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn a_node_with_a_new_key_begins_anew_and_keeps_its_history() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        let anew = |(node, mut events): (NodeId, Events)| {
            events.position.generation = 1;
            (node, events)
        };
        let (press, mut status) = report("press", 1, [1]);
        status.position.generation = 1;
        store.record(vec![report("press", 900, [1, 2])], &[events(1..=2)], &[]).await.unwrap();
        store.record(vec![(press, status)], &[anew(events(1..=2))], &[]).await.unwrap();
        let states: Vec<_> = store.list().await.unwrap().iter().map(|actual| actual.state).collect();
        assert_eq!(states, [State::Installed]);
        assert_eq!(store.history(&history_of(1)).await.unwrap().len(), 4);
    })
    .await;
}

#[tokio::test]
async fn what_a_node_says_of_a_deployment_on_another_one_is_not_its_history() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        let (_, forged) = events(1..=3);
        store.record(vec![], &[events(1..=2), ("depot/ghost".parse().unwrap(), forged)], &[]).await.unwrap();
        let of_press = HistoryOf { node: Some("plant/press".parse().unwrap()), ..history_of(1) };
        assert_eq!(store.history(&of_press).await.unwrap().len(), 2);
        assert_eq!(store.history(&history_of(1)).await.unwrap().len(), 5);
    })
    .await;
}
