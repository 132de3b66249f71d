use std::collections::BTreeMap;

use bus::ServiceName;
use git_state::Message;
use identity::trust;
use margo::KeySet;
use tempfile::TempDir;

use super::*;

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
