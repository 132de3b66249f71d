use ::store::Location;
use bus::report::NodeHealth;
use jiff::Timestamp;
use testkit::on_each_database;

use super::*;

async fn open(location: &Location) -> (Database, Store) {
    let database = Database::open(location).await.unwrap();
    let store = Store::open(database.clone(), TenantName::default()).await.unwrap();
    (database, store)
}

fn site(name: &str, key: &Identity) -> CreateSite {
    CreateSite { name: name.parse().unwrap(), identity: key.clone(), certificate_request: None, reason: None }
}

fn node(name: &str, key: &Identity) -> CreateNode {
    CreateNode { name: name.parse().unwrap(), device_id: None, identity: key.clone(), reason: None }
}

fn identity() -> Identity {
    Identity::Nkey(identity::nats::generate().1)
}

/// Whose identities the filled database holds.
struct Known {
    port: Identity,
    plant: Identity,
    saw: Identity,
    press: Identity,
}

/// The sites `plant` and `port`, and two nodes at `plant`.
async fn filled(location: &Location) -> (Database, Store, Known) {
    let (database, store) = open(location).await;
    let known = Known { port: identity(), plant: identity(), saw: identity(), press: identity() };
    let mut tx = store.begin().await.unwrap();
    for (name, key) in [("port", &known.port), ("plant", &known.plant)] {
        store.insert_site(&mut tx, &site(name, key)).await.unwrap();
    }
    for (name, key) in [("plant/saw", &known.saw), ("plant/press", &known.press)] {
        store.insert_node(&mut tx, &node(name, key)).await.unwrap();
    }
    tx.commit().await.unwrap();
    (database, store, known)
}

fn press() -> Owner {
    Owner::Node("plant/press".parse().unwrap())
}

fn plant() -> Owner {
    Owner::Site("plant".parse().unwrap())
}

fn holder(owner: Owner, in_force: bool) -> Option<Holder> {
    Some(Holder { owner, in_force })
}

fn client(name: &str) -> ClientName {
    name.parse().unwrap()
}

fn health(nodes: Vec<NodeHealth>) -> SiteHealth {
    let time = Timestamp::from_second(9).unwrap();
    SiteHealth {
        nodes,
        adopted: Some(7.try_into().unwrap()),
        refusals: vec![report::Refusal { subject: "head".into(), reason: "older".into(), time }],
        time,
    }
}

#[tokio::test]
async fn who_was_added_is_there_in_the_next_life_sorted_by_name() {
    on_each_database(async |location| {
        let (database, _, known) = filled(&location).await;
        database.close().await;
        let (_, store) = open(&location).await;
        let sites: Vec<_> =
            store.sites().await.unwrap().into_iter().map(|site| (site.name.to_string(), site.nodes)).collect();
        assert_eq!(sites, [("plant".to_owned(), 2), ("port".to_owned(), 0)]);
        let nodes = store.nodes().await.unwrap();
        let names: Vec<_> = nodes.iter().map(|node| (node.name.to_string(), node.device_id.as_str())).collect();
        assert_eq!(names, [("plant/press".to_owned(), "plant/press"), ("plant/saw".to_owned(), "plant/saw")]);
        assert_eq!((nodes[0].reachability, nodes[0].since.as_deref()), (Reachability::Unknown, None));
        let identities: Vec<_> = store.sites().await.unwrap().into_iter().filter_map(|site| site.identity).collect();
        assert_eq!(identities, [known.plant, known.port]);
        let identities: Vec<_> = nodes.into_iter().filter_map(|node| node.identity).collect();
        assert_eq!(identities, [known.press, known.saw]);
    })
    .await;
}

#[tokio::test]
async fn of_targets_there_is_what_was_added_and_nothing_else() {
    on_each_database(async |location| {
        let (_, store, _) = filled(&location).await;
        let members = async |nodes: &[&str], sites: &[&str]| {
            let nodes = nodes.iter().map(|node| node.parse().unwrap()).collect();
            let targets = Targets { nodes, sites: sites.iter().map(|site| site.parse().unwrap()).collect() };
            let members = store.members(&targets).await.unwrap();
            let sites: Vec<_> = members.sites.iter().map(ToString::to_string).collect();
            let nodes: Vec<_> = members.nodes.iter().map(|member| member.name.to_string()).collect();
            (sites.join(" "), nodes.join(" "))
        };
        let both = ["plant/saw", "plant/press"];
        assert_eq!(members(&[], &[]).await, (String::new(), String::new()));
        assert_eq!(members(&["plant/saw", "plant/none", "port/saw"], &[]).await, ("".into(), "plant/saw".into()));
        assert_eq!(members(&[], &["port", "nowhere"]).await, ("port".into(), "".into()));
        // Named once or several times, a node is one node.
        let all = ("plant port".to_owned(), "plant/press plant/saw".to_owned());
        assert_eq!(members(&both, &["port", "plant", "plant"]).await, all);
        // More names than one statement takes, of one client and of as many clients.
        let many = (0..2 * MAX_ROWS).flat_map(|number| [format!("plant/n{number}"), format!("c{number}/saw")]);
        let many: Vec<_> = many.collect();
        let many: Vec<_> = many.iter().map(String::as_str).chain(both).collect();
        assert_eq!(members(&many, &[]).await, ("".into(), "plant/press plant/saw".into()));
    })
    .await;
}

#[tokio::test]
async fn names_and_identities_that_are_taken_are_known_with_their_owner() {
    on_each_database(async |location| {
        let (_, store, known) = filled(&location).await;
        let mut tx = store.begin().await.unwrap();
        let taken = store.taken_of_site(&mut tx, &site("plant", &known.press)).await.unwrap();
        assert_eq!((taken.name, taken.identity), (true, holder(press(), true)));
        let taken = store.taken_of_node(&mut tx, &node("plant/crane", &known.port)).await.unwrap();
        assert_eq!((taken.name, taken.identity), (false, holder(Owner::Site("port".parse().unwrap()), true)));
        let taken = store.taken_of_node(&mut tx, &node("plant/saw", &identity())).await.unwrap();
        assert_eq!((taken.name, taken.identity), (true, None));
        // Whatever an order overlooks, no identity is there twice.
        assert!(store.insert_site(&mut tx, &site("depot", &known.port)).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_key_that_was_replaced_or_revoked_is_known_for_ever_as_that_of_its_owner() {
    on_each_database(async |location| {
        let (database, store, known) = filled(&location).await;
        let (second, third) = (identity(), identity());
        let mut tx = store.begin().await.unwrap();
        let held = store.keys_of(&mut tx, &press()).await.unwrap();
        assert_eq!(held, Keys::first(known.press.clone()));
        let replaced = Keys { in_force: Some(second.clone()), former: vec![known.press.clone()] };
        store.change_keys(&mut tx, &press(), &replaced).await.unwrap();
        assert_eq!(store.keys_of(&mut tx, &press()).await.unwrap(), replaced);
        store.change_keys(&mut tx, &press(), &replaced.revoked()).await.unwrap();
        store.change_keys(&mut tx, &press(), &replaced.revoked()).await.unwrap();
        let back = Keys { in_force: Some(third.clone()), former: vec![known.press.clone(), second.clone()] };
        store.change_keys(&mut tx, &press(), &back).await.unwrap();
        // A site and its nodes have keys of their own.
        let none = Keys::first(known.plant.clone()).revoked();
        store.change_keys(&mut tx, &plant(), &none).await.unwrap();
        tx.commit().await.unwrap();
        database.close().await;

        let (_, store) = open(&location).await;
        let mut tx = store.begin().await.unwrap();
        assert_eq!(store.keys_of(&mut tx, &press()).await.unwrap(), back);
        for (key, expected) in [
            (&known.press, holder(press(), false)),
            (&second, holder(press(), false)),
            (&third, holder(press(), true)),
            (&known.plant, holder(plant(), false)),
            (&identity(), None),
        ] {
            assert_eq!(store.holder_of(&mut tx, key).await.unwrap(), expected);
        }
        drop(tx);
        let [node, saw] = <[Node; 2]>::try_from(store.nodes().await.unwrap()).unwrap();
        assert_eq!((node.identity, node.former_keys), (back.in_force, back.former));
        assert_eq!((saw.identity, saw.former_keys), (Some(known.saw), vec![]));
        let site = store.sites().await.unwrap().remove(0);
        assert_eq!((site.identity, site.former_keys), (None, vec![known.plant]));
        // Whatever an order overlooks, a former key comes back for nobody.
        let mut tx = store.begin().await.unwrap();
        let reused = Keys { in_force: Some(second), former: vec![] };
        assert!(store.change_keys(&mut tx, &Owner::Node("plant/saw".parse().unwrap()), &reused).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_node_that_may_not_connect_is_not_shown_as_reachable() {
    on_each_database(async |location| {
        let (_, store, known) = filled(&location).await;
        let heard = NodeHealth {
            node: "press".parse().unwrap(),
            reachability: Reachability::Reachable,
            since: Timestamp::from_second(1).unwrap(),
        };
        store.record_health(&client("plant"), &health(vec![heard])).await.unwrap();
        assert_eq!(store.nodes().await.unwrap()[0].reachability, Reachability::Reachable);
        let mut tx = store.begin().await.unwrap();
        store.change_keys(&mut tx, &press(), &Keys::first(known.press).revoked()).await.unwrap();
        tx.commit().await.unwrap();
        let node = store.nodes().await.unwrap().remove(0);
        assert_eq!((node.reachability, node.since), (Reachability::Unknown, None));
    })
    .await;
}

#[tokio::test]
async fn capabilities_are_replaced_by_newer_ones_alone() {
    on_each_database(async |location| {
        let (_, store, _) = filled(&location).await;
        let node: NodeId = "plant/press".parse().unwrap();
        let capabilities = |node: &NodeId, incarnation, sequence, document: &str| Capabilities {
            device: node.into(),
            position: Position { generation: 0, incarnation, sequence },
            document: document.into(),
        };
        for (incarnation, sequence, document) in
            [(1, 5, "{\"a\": 1}"), (1, 4, "{\"a\": 2}"), (2, 1, "{\"a\": 3}"), (1, 9, "{}")]
        {
            let report = capabilities(&node, incarnation, sequence, document);
            assert_eq!(store.record_capabilities(&node, &report).await.unwrap(), Recorded::Known);
        }
        let held = store.nodes().await.unwrap()[0].capabilities.clone();
        assert_eq!(held, Some(serde_json::json!({ "a": 3 })));
        let node: NodeId = "plant/stranger".parse().unwrap();
        let stranger = capabilities(&node, 1, 1, "{}");
        assert_eq!(store.record_capabilities(&node, &stranger).await.unwrap(), Recorded::Unknown);
    })
    .await;
}

#[tokio::test]
async fn what_an_orchestrator_says_is_kept_of_its_own_nodes() {
    on_each_database(async |location| {
        let (_, store, _) = filled(&location).await;
        let judged = |node: &str, reachability, second| NodeHealth {
            node: node.parse().unwrap(),
            reachability,
            since: Timestamp::from_second(second).unwrap(),
        };
        let nodes = [judged("press", Reachability::Reachable, 1), judged("stranger", Reachability::Reachable, 1)];
        for second in [1, 1, 2] {
            let nodes = nodes.iter().cloned().chain([judged("saw", Reachability::Unreachable, second)]).collect();
            assert_eq!(store.record_health(&client("plant"), &health(nodes)).await.unwrap(), Recorded::Known);
        }
        let held: Vec<_> =
            store.nodes().await.unwrap().into_iter().map(|node| (node.reachability, node.since.unwrap())).collect();
        let expected = [
            (Reachability::Reachable, "1970-01-01T00:00:01Z".to_owned()),
            (Reachability::Unreachable, "1970-01-01T00:00:02Z".to_owned()),
        ];
        assert_eq!(held, expected);
        let sites = store.sites().await.unwrap();
        assert_eq!((sites[0].adopted_manifest_version, sites[0].refusals.len()), (Some(7), 1));
        assert_eq!(sites[0].last_seen.as_deref(), Some("1970-01-01T00:00:09Z"));
        assert_eq!(sites[1].last_seen, None);
        assert_eq!(store.record_health(&client("elsewhere"), &health(vec![])).await.unwrap(), Recorded::Unknown);
    })
    .await;
}

#[tokio::test]
async fn a_row_that_does_not_hold_what_was_written_is_named() {
    on_each_database(async |location| {
        let (database, store, _) = filled(&location).await;
        let mut tx = database.begin().await.unwrap();
        let break_it = "UPDATE nodes SET reachability = 'asleep' WHERE node = 'saw'";
        NODES.query(break_it).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let error = store.nodes().await.unwrap_err();
        assert_eq!(error.to_string(), "column reachability of nodes plant saw in the database is not valid");
    })
    .await;
}

#[tokio::test]
async fn long_capabilities_of_one_site_push_no_other_out_of_an_answer() {
    on_each_database(async |location| {
        let (_, store, _) = filled(&location).await;
        let mut tx = store.begin().await.unwrap();
        store.insert_node(&mut tx, &node("port/crane", &identity())).await.unwrap();
        for number in 0..40 {
            store.insert_node(&mut tx, &node(&format!("plant/n{number}"), &identity())).await.unwrap();
        }
        tx.commit().await.unwrap();
        let record = async |name: &str, more: &str| {
            let document = format!(r#"{{"properties":{{"id":"{name}"}},"more":[{more}]}}"#);
            let position = Position { generation: 0, incarnation: 1, sequence: 1 };
            let capabilities = Capabilities { position, device: name.parse().unwrap(), document };
            store.record_capabilities(&name.parse().unwrap(), &capabilities).await.unwrap()
        };
        // As long as a node may send them, and four times as long when they are written out.
        let long = vec!["1e15"; 13_000].join(",");
        for number in 0..40 {
            assert_eq!(record(&format!("plant/n{number}"), &long).await, Recorded::Known);
        }
        assert_eq!(record("port/crane", "1").await, Recorded::Known);

        let nodes = store.nodes().await.unwrap();
        assert!(serde_json::to_vec(&nodes).unwrap().len() < 8 << 20);
        let with: Vec<_> = nodes.iter().filter(|node| node.capabilities.is_some()).map(|node| &node.name).collect();
        assert_eq!((nodes.len(), with), (43, vec![&"port/crane".parse().unwrap()]));
        let alone = store.node(&"plant/n7".parse().unwrap()).await.unwrap().unwrap();
        assert!(alone.capabilities.is_some() && alone.identity.is_some());
        assert_eq!(store.node(&"plant/nobody".parse().unwrap()).await.unwrap(), None);
    })
    .await;
}
