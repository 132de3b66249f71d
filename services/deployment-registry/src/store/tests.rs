use std::collections::{BTreeMap, BTreeSet};

use api::{AssignmentSpec, Targets};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::{
    domain::{Order, OrderKind, Put},
    git,
};

struct World {
    folder: TempDir,
    pool: SqlitePool,
    store: Store,
}

impl World {
    async fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap()).await
    }

    async fn open(folder: TempDir) -> Self {
        let pool = ::store::open(&folder.path().join("test.sqlite")).await.unwrap();
        let outbox = Outbox::open(bus::ServiceName::DeploymentRegistry, pool.clone()).await.unwrap();
        let store = Store::open(pool.clone(), outbox, TenantName::default()).await.unwrap();
        Self { folder, pool, store }
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.store.commit(change, git::writes(&TenantName::default(), change)).await
    }
}

fn node() -> NodeId {
    "plant/press".parse().unwrap()
}

fn app() -> AppRef {
    AppRef { id: "hello".parse().unwrap(), version: "1.0.0".parse().unwrap() }
}

/// A change that gives `plant/press` this document; tests change what they are about.
fn change(name: &str, from: Option<u64>, document: &[u8]) -> Change {
    let name: AssignmentName = name.parse().unwrap();
    let revision = from.unwrap_or(0) + 1;
    let order = Uuid::now_v7();
    let deployment = Deployment {
        id: DeploymentId::new(&TenantName::default(), &name, &node()),
        app: app(),
        profile: "wasm".into(),
        revision,
        order,
        digest: Some(Digest::of(document)),
    };
    let spec = AssignmentSpec {
        app: app(),
        profile: Some("wasm".into()),
        parameters: BTreeMap::new(),
        targets: Targets { nodes: vec![node()], sites: vec![] },
    };
    let deployments = BTreeMap::from([(node(), deployment)]);
    Change {
        order: Order {
            id: order,
            requested_by: "ada".into(),
            requested_at: "2026-01-01T00:00:00.000Z".into(),
            reason: None,
            trace: None,
        },
        kind: if from.is_none() { OrderKind::Create } else { OrderKind::Update },
        caused_by: None,
        from,
        assignment: Assignment { name, revision, state: AssignmentState::Active, spec, deployments },
        puts: BTreeMap::from([(node(), Put { document: document.to_vec(), package: Digest::of(b"package") })]),
        removes: BTreeSet::new(),
    }
}

#[tokio::test]
async fn what_was_stored_is_loaded_also_by_the_next_life() {
    let world = World::new().await;
    let stored = change("greeter", None, b"one");
    world.commit(&stored).await.unwrap();
    world.pool.close().await;
    let world = World::open(world.folder).await;
    assert_eq!(world.store.load(&stored.assignment.name).await.unwrap(), Some(stored.assignment.clone()));
    let all = world.store.list().await.unwrap();
    assert_eq!(all.into_values().collect::<Vec<_>>(), [stored.assignment]);
    assert!(!world.store.orders().await.unwrap()[0].committed);
}

#[tokio::test]
async fn a_change_from_another_revision_leaves_nothing_behind() {
    let world = World::new().await;
    world.commit(&change("greeter", None, b"one")).await.unwrap();
    for stale in [change("greeter", None, b"two"), change("greeter", Some(2), b"two"), change("new", Some(1), b"two")] {
        assert!(matches!(world.commit(&stale).await, Err(StoreError::Conflict(_))));
    }
    assert_eq!(world.store.orders().await.unwrap().len(), 1);
    assert_eq!(world.store.deployments().await.unwrap().len(), 1);
    let next = change("greeter", Some(1), b"two");
    world.commit(&next).await.unwrap();
    assert_eq!(world.store.load(&next.assignment.name).await.unwrap(), Some(next.assignment));
    let orders = world.store.orders().await.unwrap();
    assert_eq!(orders.iter().map(|order| order.kind.as_str()).collect::<Vec<_>>(), ["update", "create"]);
}

#[tokio::test]
async fn only_active_assignments_that_name_sites_can_come_to_mean_more() {
    let world = World::new().await;
    let of_site = |name| {
        let mut change = change(name, None, b"one");
        change.assignment.spec.targets.sites.push("plant".parse().unwrap());
        change
    };
    let mut removed = of_site("removed");
    removed.assignment.state = AssignmentState::Removed;
    for change in [change("named", None, b"one"), of_site("standing"), removed] {
        world.commit(&change).await.unwrap();
    }
    assert_eq!(world.store.standing_for_sites().await.unwrap(), ["standing".parse().unwrap()]);
}

#[tokio::test]
async fn what_a_node_holds_of_other_assignments_is_known() {
    let world = World::new().await;
    for (name, document) in [("one", b"1".as_slice()), ("two", b"22"), ("three", b"333")] {
        world.commit(&change(name, None, document)).await.unwrap();
    }
    let two: AssignmentName = "two".parse().unwrap();
    let others = world.store.other_documents(&two, [node(), "plant/saw".parse().unwrap()].iter()).await.unwrap();
    assert_eq!(others, BTreeMap::from([(node(), (2, 4))]));
    let mut documents: Vec<_> =
        world.store.documents(&two, &node()).await.unwrap().into_iter().map(|it| it.document).collect();
    documents.sort();
    assert_eq!(documents, [b"1".to_vec(), b"333".to_vec()]);
}

#[tokio::test]
async fn a_row_that_does_not_hold_what_was_written_is_named() {
    let world = World::new().await;
    let stored = change("greeter", None, b"one");
    world.commit(&stored).await.unwrap();
    sqlx::query("UPDATE deployments SET digest = 'md5:1'").execute(&world.pool).await.unwrap();
    let error = world.store.load(&stored.assignment.name).await.unwrap_err();
    let id = stored.assignment.deployments[&node()].id;
    assert_eq!(error.to_string(), format!("digest of {id} in the database is not valid"));
}
