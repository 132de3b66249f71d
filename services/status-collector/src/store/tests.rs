use ::store::Location;
use api::Failure;
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

async fn history(store: &Store, number: u64) -> Vec<HistoryEntry> {
    store.history(HistoryAsked { id: id(number), node: None }).await.unwrap()
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
            ("plant/press".to_owned(), id(1), State::Removed, "1970-01-01T00:00:03Z".to_owned()),
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
        assert!(states(&store).await[..3].iter().all(|(_, _, state, _)| *state == State::Removed));
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
        let reasons = async || store.refusals().await.unwrap().into_iter().map(|refusal| refusal.reason);
        assert_eq!(reasons().await.collect::<Vec<_>>(), ["first", "sec\u{fffd}nd"]);
        store.record(vec![refused(2, &["third"])], &[], &[]).await.unwrap();
        assert_eq!(reasons().await.collect::<Vec<_>>(), ["third"]);
    })
    .await;
}

#[tokio::test]
async fn history_keeps_the_newest_transitions_once_each() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        store.record(vec![], &[events(1..=150), events(100..=199)], &[]).await.unwrap();
        let numbers = async || {
            let history = history(&store, 1).await;
            history.into_iter().map(|entry| entry.adopted_manifest_version).collect::<Vec<_>>()
        };
        assert_eq!(numbers().await, (1..=199).collect::<Vec<_>>());
        store.record(vec![], &[events(200..=205)], &[]).await.unwrap();
        assert_eq!(numbers().await, (6..=205).collect::<Vec<_>>());
        assert_eq!(history(&store, 1).await[0].component.as_deref(), Some("hello\u{fffd}"));
        assert!(history(&store, 2).await.is_empty());
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
        assert_eq!(states, [State::Installed, State::Removed]);
        assert_eq!(history(&store, 1).await.len(), 4);
    })
    .await;
}

fn long_failure() -> Failure {
    Failure { code: "\0".repeat(4_000), source: String::new(), message: "\0".repeat(4_000), runs: None }
}

#[tokio::test]
async fn who_says_very_much_pushes_nothing_of_others_out_of_an_answer() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        // As long as reports may be, and longer in JSON.
        for sequence in 1..=60 {
            let (node, mut status) = report(&format!("loud{sequence}"), sequence, 0..500);
            let failing = |mut deployment: Deployment| {
                deployment.failure = Some(long_failure());
                deployment
            };
            status.deployments = status.deployments.into_iter().take(10).map(failing).collect();
            let refused = |_| Refusal {
                subject: "\0".repeat(4_000),
                reason: "\0".repeat(4_000),
                time: Timestamp::from_second(1 << 33).unwrap(),
            };
            status.refusals = (0..20).map(refused).collect();
            store.record(vec![(node, status)], &[], &[]).await.unwrap();
        }
        let (_, mut quiet) = report("saw", 1, [1]);
        quiet.deployments[0].failure =
            Some(Failure { code: "quiet".into(), source: String::new(), message: "".into(), runs: None });
        let refusal = Refusal { subject: "document".into(), reason: "quiet".into(), time: Timestamp::UNIX_EPOCH };
        quiet.refusals.push(refusal);
        store.record(vec![("depot/crane".parse().unwrap(), quiet)], &[], &[]).await.unwrap();

        let listed = store.list().await.unwrap();
        assert_eq!(listed[0].failure.as_ref().map(|it| it.code.as_str()), Some("quiet"));
        // All that the others have said fits, without the details.
        assert_eq!((listed.len(), listed.iter().filter(|it| it.failure.is_some()).count()), (1 + 60 * 10, 1));
        assert!(json(&listed).len() < 8 << 20);
        let refusals = store.refusals().await.unwrap();
        assert_eq!((refusals.len(), refusals[0].reason.as_str()), (1_000, "quiet"));
        assert!(json(&refusals).len() < 8 << 20);
    })
    .await;
}

#[tokio::test]
async fn a_node_that_names_ever_new_deployments_is_not_remembered_without_end() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        store.record(vec![report("saw", 1, [1]), report("saw", 2, [])], &[], &[]).await.unwrap();
        for sequence in 1..=20 {
            let report = report("press", sequence, sequence * 1_000..sequence * 1_000 + 500);
            store.record(vec![report], &[], &[]).await.unwrap();
        }
        let states = states(&store).await;
        let of = |name: &str, state| states.iter().filter(|it| it.0 == name && it.2 == state).count();
        assert_eq!(of("plant/press", State::Installed), 500);
        assert!((500..=1_500).contains(&of("plant/press", State::Removed)), "{}", states.len());
        // What was there last is remembered.
        assert!(states.iter().any(|it| it.1 == id(19_499) && it.2 == State::Removed));
        // A node may say itself that they are gone.
        for sequence in 21..=40 {
            let (node, mut status) = report("press", sequence, sequence * 1_000..sequence * 1_000 + 500);
            status.deployments.iter_mut().for_each(|deployment| deployment.state = State::Removed);
            store.record(vec![(node, status)], &[], &[]).await.unwrap();
        }
        let listed = store.list().await.unwrap();
        assert!(listed.len() <= 1_501, "{}", listed.len());
        assert!(listed.iter().any(|it| it.node.node.as_str() == "saw" || it.id == id(40_001)));
    })
    .await;
}

#[tokio::test]
async fn the_history_of_a_deployment_is_what_its_own_node_said() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        let (_, forged) = events(1..=3);
        let forged = ("plant/saw".parse().unwrap(), forged);
        store.record(vec![], &[events(1..=2), forged], &[]).await.unwrap();
        assert_eq!(history(&store, 1).await.len(), 5);
        let node: NodeId = "plant/press".parse().unwrap();
        let own = store.history(HistoryAsked { id: id(1), node: Some(node.clone()) }).await.unwrap();
        assert_eq!(own.iter().map(|entry| &entry.node).collect::<Vec<_>>(), [&node, &node]);
    })
    .await;
}

#[tokio::test]
async fn the_status_of_a_deployment_is_what_its_own_node_said() {
    on_each_database(async |location| {
        let (_, store) = open(&location).await;
        store.record(vec![report("press", 1, [1, 2]), report("saw", 2, [1])], &[], &[]).await.unwrap();
        let status = async |node: &str, number| {
            let asked = StatusAsked { id: id(number), node: node.parse().unwrap() };
            store.status(&asked).await.unwrap()
        };
        let listed = store.list().await.unwrap();
        assert_eq!(status("plant/press", 1).await.as_ref(), Some(&listed[0]));
        assert_eq!(status("plant/saw", 1).await.unwrap().reported_at, "1970-01-01T00:00:02Z");
        assert_eq!((status("plant/saw", 2).await, status("plant/press", 3).await), (None, None));
    })
    .await;
}
