use std::collections::{BTreeMap, BTreeSet};

use ::store::Location;
use api::{AssignmentSpec, Targets};
use margo::Digest;
use outbox::OrderHeader;
use testkit::on_each_database;

use super::*;
use crate::{
    domain::{OrderKind, Put},
    git,
};

struct World {
    database: Database,
    store: Store,
}

impl World {
    async fn open(location: &Location) -> Self {
        let database = Database::open(location).await.unwrap();
        let outbox = Outbox::open(bus::ServiceName::DeploymentRegistry, database.clone()).await.unwrap();
        let store = Store::open(database.clone(), outbox, TenantName::default()).await.unwrap();
        Self { database, store }
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
    let revision = Revision::new(from.unwrap_or(0) + 1);
    let order = OrderHeader::new("ada".parse().unwrap(), None);
    let deployment = Deployment {
        id: DeploymentId::new(&TenantName::default(), &name, &node()),
        device: "Gateway-1/cell".parse().unwrap(),
        app: app(),
        profile: "wasm".into(),
        revision,
        order: order.id,
        digest: Some(Digest::of(document)),
    };
    let spec = AssignmentSpec {
        app: app(),
        profile: Some("wasm".into()),
        parameters: BTreeMap::new(),
        targets: Targets { nodes: vec![node()], sites: vec![] },
        volumes: None,
    };
    let deployments = BTreeMap::from([(node(), deployment)]);
    Change {
        order,
        kind: if from.is_none() { OrderKind::Create } else { OrderKind::Update },
        from: from.map(Revision::new),
        assignment: Assignment { name, revision, state: AssignmentState::Active, spec, deployments },
        puts: BTreeMap::from([(node(), Put { document: document.to_vec(), package: Digest::of(b"package") })]),
        removes: BTreeSet::new(),
        meant: None,
    }
}

#[tokio::test]
async fn what_was_stored_is_loaded_also_by_the_next_life() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        let stored = change("greeter", None, b"one");
        world.commit(&stored).await.unwrap();
        world.database.close().await;
        let world = World::open(&location).await;
        assert_eq!(world.store.load(&stored.assignment.name).await.unwrap(), Some(stored.assignment.clone()));
        let all = world.store.list().await.unwrap();
        assert_eq!(all.into_values().collect::<Vec<_>>(), std::slice::from_ref(&stored.assignment));
        let deployments = world.store.deployments().await.unwrap();
        assert_eq!(deployments[0].digest, Some(Digest::of(b"one").to_string()));
        let orders = world.store.orders().await.unwrap();
        assert_eq!(
            (orders[0].id.as_str(), orders[0].committed),
            (stored.order.id.to_string().as_str(), false),
            "git-writer has not been asked yet"
        );
    })
    .await;
}

#[tokio::test]
async fn a_change_from_another_revision_leaves_nothing_behind() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        world.commit(&change("greeter", None, b"one")).await.unwrap();
        let stale = [("greeter", None), ("greeter", Some(2)), ("new", Some(1))];
        for stale in stale.map(|(name, from)| change(name, from, b"two")) {
            assert!(matches!(world.commit(&stale).await, Err(StoreError::Conflict { .. })));
        }
        assert_eq!(world.store.orders().await.unwrap().len(), 1);
        assert_eq!(world.store.deployments().await.unwrap().len(), 1);
        let next = change("greeter", Some(1), b"two");
        world.commit(&next).await.unwrap();
        assert_eq!(world.store.load(&next.assignment.name).await.unwrap(), Some(next.assignment));
        let orders = world.store.orders().await.unwrap();
        assert_eq!(orders.iter().map(|order| order.kind.as_str()).collect::<Vec<_>>(), ["update", "create"]);
    })
    .await;
}

#[tokio::test]
async fn only_active_assignments_that_name_sites_can_come_to_mean_more() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        let of_site = |name| {
            let mut change = change(name, None, b"one");
            change.assignment.spec.targets.sites.push("plant".parse().unwrap());
            change
        };
        let mut removed = of_site("removed");
        removed.assignment.state = AssignmentState::Removed;
        for change in [change("named", None, b"one"), of_site("standing"), of_site("stan-ding"), removed] {
            world.commit(&change).await.unwrap();
        }
        let names = ["stan-ding", "standing"].map(|name| name.parse().unwrap());
        assert_eq!(world.store.standing_for_sites().await.unwrap(), names);
    })
    .await;
}

#[tokio::test]
async fn what_a_node_holds_of_other_assignments_is_known() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        for (name, document) in [("one", b"1".as_slice()), ("two", b"22"), ("three", b"333")] {
            world.commit(&change(name, None, document)).await.unwrap();
        }
        let two: AssignmentName = "two".parse().unwrap();
        let others = world.store.other_documents(&two, [node(), "plant/saw".parse().unwrap()].iter()).await.unwrap();
        assert_eq!(others, BTreeMap::from([(node(), (2, 4))]));
        let held = world.store.documents(&two, &node()).await.unwrap();
        let mut documents: Vec<_> = held.into_iter().map(|held| held.document).collect();
        documents.sort();
        assert_eq!(documents, [b"1".to_vec(), b"333".to_vec()]);
        assert_eq!(world.store.other_documents(&two, [].iter()).await.unwrap(), BTreeMap::new());
    })
    .await;
}

#[tokio::test]
async fn a_deployment_that_is_removed_keeps_its_row_and_loses_its_document() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        world.commit(&change("greeter", None, b"one")).await.unwrap();
        let mut removal = change("greeter", Some(1), b"one");
        removal.puts.clear();
        removal.removes.insert(node());
        removal.assignment.deployments.get_mut(&node()).unwrap().digest = None;
        world.commit(&removal).await.unwrap();
        assert_eq!(world.store.deployments().await.unwrap()[0].digest, None);
        let other: AssignmentName = "other".parse().unwrap();
        assert!(world.store.documents(&other, &node()).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_order_for_very_many_nodes_is_stored_whole() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        let mut many = change("greeter", None, b"one");
        let template = many.assignment.deployments[&node()].clone();
        for at in 0..2 * MAX_ROWS + 1 {
            let node: NodeId = format!("plant/n{at}").parse().unwrap();
            let id = DeploymentId::new(&TenantName::default(), &many.assignment.name, &node);
            many.assignment.deployments.insert(node.clone(), Deployment { id, ..template.clone() });
            many.puts.insert(node, many.puts[&self::node()].clone());
        }
        world.commit(&many).await.unwrap();
        assert_eq!(world.store.load(&many.assignment.name).await.unwrap(), Some(many.assignment.clone()));
        let other: AssignmentName = "other".parse().unwrap();
        let documents = world.store.other_documents(&other, many.puts.keys()).await.unwrap();
        assert_eq!(documents.len(), many.puts.len());
    })
    .await;
}

#[tokio::test]
async fn a_row_that_does_not_hold_what_was_written_is_named() {
    on_each_database(async |location| {
        let world = World::open(&location).await;
        let stored = change("greeter", None, b"one");
        world.commit(&stored).await.unwrap();
        let mut tx = world.database.begin().await.unwrap();
        DEPLOYMENTS.query("UPDATE deployments SET digest = 'md5:1'").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let error = world.store.load(&stored.assignment.name).await.unwrap_err();
        let id = stored.assignment.deployments[&node()].id;
        let expected = format!("column digest of deployments {id} plant/press in the database is not valid");
        assert_eq!(error.to_string(), expected);
    })
    .await;
}
