use std::collections::BTreeMap;

use bus::ServiceName;
use git_state::Message;
use identity::trust;
use margo::KeySet;
use tempfile::TempDir;

use super::*;
use crate::domain::{ClientEdits, Edits};

fn store(folder: &Path) -> Store {
    let key = SigningKey::generate("git-writer").unwrap();
    let set = KeySet { tenant: TenantName::default(), number: 1, keys: vec![key.public().to_string()] };
    let (bytes, signature) = trust::sign_keys(&key, &set).unwrap();
    Store::new(folder, key, Keys { set, bytes, signature: signature.into() }).unwrap()
}

fn client(name: &str) -> RepositoryName {
    RepositoryName::Client(name.parse().unwrap())
}

/// A row of a repository that adds a commit.
fn row(repository: RepositoryName, number: u64, follows_fleet: u64) -> Queued {
    let edits = match repository {
        RepositoryName::Fleet => Edits::Files(Vec::new()),
        RepositoryName::Client(_) => Edits::Client(ClientEdits::default()),
    };
    let (source, author, message) = (ServiceName::DeploymentRegistry, "ada".to_owned(), Message::new("x"));
    let row = Row { source, number, follows_fleet, author, message, edits: Ok(edits) };
    Queued { bytes: row.size(), row, repository, headers: None }
}

/// The numbers of rows.
fn numbers(rows: &[Queued]) -> Vec<u64> {
    rows.iter().map(|queued| queued.row.number).collect()
}

#[test]
fn what_was_made_on_the_belief_that_fleet_git_gets_further_is_made_again_up_to_where_it_got() {
    let folder = TempDir::new().unwrap();
    let mut store = store(folder.path());
    // Only when it is written does it turn out that this row can never be.
    let mut impossible = row(RepositoryName::Fleet, 2, 0);
    impossible.row.edits = Ok(Edits::Client(ClientEdits::default()));
    let group = vec![
        row(RepositoryName::Fleet, 1, 0),
        impossible,
        row(client("a"), 1, 1),
        row(client("b"), 1, 2),
        row(client("c"), 1, 1),
        row(client("c"), 2, 2),
        row(client("c"), 3, 0),
        row(client("d"), 1, 0),
    ];
    let outcome = store.commit(group);
    let committed: BTreeMap<_, _> =
        outcome.committed.iter().map(|committed| (committed.repository.to_string(), committed.spans.len())).collect();
    let expected = [("fleet", 1), ("clients/a", 1), ("clients/c", 1), ("clients/d", 1)];
    assert_eq!(committed, expected.map(|(name, count)| (name.to_owned(), count)).into());
    let behind: BTreeMap<_, _> =
        outcome.behind.iter().map(|behind| (behind.repository.to_string(), numbers(&behind.rows))).collect();
    assert_eq!(behind, [("clients/b".to_owned(), vec![1]), ("clients/c".to_owned(), vec![2, 3])].into());
    let [failed] = &outcome.failed[..] else { panic!("{} repositories failed", outcome.failed.len()) };
    assert_eq!((&failed.repository, numbers(&failed.rows)), (&RepositoryName::Fleet, vec![2]));

    // The next group knows how far it is, although nobody asks for `fleet.git` in it.
    let outcome = store.commit(vec![row(client("b"), 1, 1), row(client("c"), 2, 2)]);
    assert_eq!((outcome.committed.len(), outcome.behind.len(), outcome.failed.len()), (1, 1, 0));
}

/// How many rows of each repository were committed.
fn committed(outcome: &Outcome) -> BTreeMap<String, usize> {
    let committed = outcome.committed.iter();
    committed.map(|committed| (committed.repository.to_string(), committed.spans.len())).collect()
}

/// The rows of each repository that failed.
fn failed(outcome: &Outcome) -> BTreeMap<String, Vec<u64>> {
    outcome.failed.iter().map(|failed| (failed.repository.to_string(), numbers(&failed.rows))).collect()
}

#[test]
fn the_next_group_stands_on_the_one_that_is_still_being_written() {
    let folder = TempDir::new().unwrap();
    let mut store = store(folder.path());
    let first = store.begin(vec![row(RepositoryName::Fleet, 1, 0), row(client("a"), 1, 1)]);
    assert!(first.committed.is_empty(), "nothing is said to be committed before it is durable");
    let second = store.begin(vec![row(RepositoryName::Fleet, 2, 0), row(client("a"), 2, 2), row(client("b"), 1, 1)]);
    assert_eq!(committed(&second), [("fleet".to_owned(), 1), ("clients/a".to_owned(), 1)].into());
    // What came again while it was being written is committed once.
    let third = store.begin(vec![row(client("a"), 2, 2), row(client("a"), 3, 2)]);
    assert_eq!(committed(&third).len(), 3);
    assert_eq!(committed(&store.finish()), [("clients/a".to_owned(), 1)].into());
    assert!(store.finish().committed.is_empty());
    let again = store.commit(vec![row(client("a"), 3, 2)]);
    assert_eq!((again.committed[0].version.unwrap().get(), again.committed[0].spans.len()), (3, 0));
}

#[test]
fn what_stands_on_commits_that_could_not_be_written_fails_with_them_and_comes_about_later() {
    let folder = TempDir::new().unwrap();
    let mut store = store(folder.path());
    drop(store.commit(vec![row(RepositoryName::Fleet, 1, 0), row(client("a"), 1, 1), row(client("b"), 1, 1)]));
    drop(store.begin(vec![row(client("a"), 2, 1), row(client("b"), 2, 1)]));
    let objects = folder.path().join("default/clients/a.git/objects");
    let away = objects.with_extension("away");
    std::fs::rename(&objects, &away).unwrap();
    std::fs::write(&objects, "").unwrap();
    let outcome = store.begin(vec![row(client("a"), 3, 1), row(client("b"), 3, 1), row(client("a"), 4, 1)]);
    assert_eq!(failed(&outcome), [("clients/a".to_owned(), vec![2, 3, 4])].into());
    assert_eq!(committed(&outcome), [("clients/b".to_owned(), 1)].into());
    assert_eq!(committed(&store.finish()), [("clients/b".to_owned(), 1)].into());
    assert_eq!(failed(&store.commit(vec![row(client("a"), 2, 1)])), [("clients/a".to_owned(), vec![2])].into());

    std::fs::remove_file(&objects).unwrap();
    std::fs::rename(&away, &objects).unwrap();
    // The journal had taken the second row.
    let outcome = store.commit((2..=4).map(|number| row(client("a"), number, 1)).collect());
    assert_eq!(committed(&outcome), [("clients/a".to_owned(), 2)].into());
    assert_eq!(outcome.committed[0].version.unwrap().get(), 4);
}

#[test]
fn where_fleet_git_could_not_be_written_what_follows_it_waits_and_the_others_go_on() {
    let folder = TempDir::new().unwrap();
    let mut store = store(folder.path());
    drop(store.commit(vec![row(RepositoryName::Fleet, 1, 0), row(client("a"), 1, 1), row(client("b"), 1, 1)]));
    drop(store.begin(vec![row(RepositoryName::Fleet, 2, 0)]));
    let objects = folder.path().join("default/fleet.git/objects");
    let away = objects.with_extension("away");
    std::fs::rename(&objects, &away).unwrap();
    std::fs::write(&objects, "").unwrap();
    let group =
        vec![row(RepositoryName::Fleet, 3, 0), row(client("a"), 2, 1), row(client("a"), 3, 3), row(client("b"), 2, 0)];
    let outcome = store.begin(group);
    assert_eq!(failed(&outcome), [("fleet".to_owned(), vec![2, 3])].into());
    let [behind] = &outcome.behind[..] else { panic!("{} clients are behind", outcome.behind.len()) };
    assert_eq!((&behind.repository, numbers(&behind.rows)), (&client("a"), vec![3]));
    let expected = [("clients/a".to_owned(), 1), ("clients/b".to_owned(), 1)];
    assert_eq!(committed(&store.finish()), expected.into());
}

/// To open a repository into which the journal could not be written is to read the whole journal again. Were that done while
/// commits of others are on their way into it, it would have only the ends of their packs from then on.
#[test]
fn a_repository_that_the_journal_cannot_reach_takes_nothing_from_others_that_are_being_written() {
    let folder = TempDir::new().unwrap();
    let mut store = store(folder.path());
    let first = [row(RepositoryName::Fleet, 1, 0), row(client("a"), 1, 1), row(client("b"), 1, 1)];
    drop(store.commit(first.into()));
    drop(store.begin(vec![row(client("a"), 2, 1)]));
    let objects = folder.path().join("default/clients/a.git/objects");
    let away = objects.with_extension("away");
    std::fs::rename(&objects, &away).unwrap();
    std::fs::write(&objects, "").unwrap();
    assert_eq!(failed(&store.finish()).len(), 1);
    for number in 2..6 {
        drop(store.begin(vec![row(client("b"), number, 1), row(RepositoryName::Fleet, number, 0)]));
        let outcome = store.begin(vec![row(client("a"), 2, 1)]);
        assert_eq!(failed(&outcome), [("clients/a".to_owned(), vec![2])].into());
        assert_eq!(committed(&outcome), [("clients/b".to_owned(), 1), ("fleet".to_owned(), 1)].into());
    }
    std::fs::remove_file(&objects).unwrap();
    std::fs::rename(&away, &objects).unwrap();
    let outcome = store.commit(vec![row(client("a"), 3, 1), row(client("b"), 6, 1)]);
    assert_eq!(committed(&outcome), [("clients/a".to_owned(), 1), ("clients/b".to_owned(), 1)].into());
}
