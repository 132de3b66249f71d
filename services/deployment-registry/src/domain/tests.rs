use api::{AppContent, Member, NodeState, Targets, Volumes};
use margo::{ApplicationDeployment, ParameterValue, TenantName};
use outbox::OrderHeader;
use proptest::prelude::*;
use testkit::HELLO;

use super::{
    order::MAX_REASON,
    wish::{MAX_NAME, MAX_PARAMETER_BYTES, MAX_PARAMETERS, MAX_TARGETS},
    *,
};

fn tenant() -> TenantName {
    TenantName::default()
}

fn app() -> AppContent {
    AppContent {
        app: api::App {
            id: "hello".parse().unwrap(),
            version: "1.0.0".parse().unwrap(),
            name: "Hello".into(),
            profiles: vec![],
            digest: Digest::of(b"package"),
            added_by: "ada".into(),
            added_at: "2026-01-01T00:00:00Z".into(),
        },
        description: HELLO.into(),
        lock: BTreeMap::from([("hello".parse().unwrap(), Digest::of(b"component"))]),
        images: BTreeMap::new(),
    }
}

fn spec(nodes: &[&str], sites: &[&str]) -> AssignmentSpec {
    AssignmentSpec {
        app: AppRef { id: "hello".parse().unwrap(), version: "1.0.0".parse().unwrap() },
        profile: None,
        parameters: BTreeMap::new(),
        targets: Targets {
            nodes: nodes.iter().map(|node| node.parse().unwrap()).collect(),
            sites: sites.iter().map(|site| site.parse().unwrap()).collect(),
        },
        volumes: None,
    }
}

fn greeting(spec: AssignmentSpec, value: &str) -> AssignmentSpec {
    AssignmentSpec { parameters: BTreeMap::from([("greeting".into(), ParameterValue::Text(value.into()))]), ..spec }
}

fn wish(spec: AssignmentSpec) -> Wish {
    Wish::new(spec, app()).unwrap()
}

fn fleet(nodes: &[(&str, NodeState)]) -> Fleet {
    let nodes: BTreeMap<NodeId, _> = nodes
        .iter()
        .map(|(node, state)| {
            let node: NodeId = node.parse().unwrap();
            (node.clone(), Member { device_id: (&node).into(), name: node, state: *state })
        })
        .collect();
    let sites = nodes.keys().map(|node| node.client.to_string().parse().unwrap()).collect();
    Fleet { nodes, sites }
}

fn order() -> OrderHeader {
    OrderHeader {
        id: "00000000-0000-7000-8000-000000000007".parse().unwrap(),
        requested_by: "ada".parse().unwrap(),
        requested_at: "2026-01-01T00:00:00.000Z".into(),
        reason: None,
        caused_by: None,
        trace: None,
    }
}

fn name() -> AssignmentName {
    "greeter".parse().unwrap()
}

fn created(spec: AssignmentSpec, fleet: &Fleet) -> Assignment {
    create(&tenant(), name(), &wish(spec), fleet, order()).assignment
}

fn names(nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
    nodes.into_iter().map(|node| node.to_string()).collect()
}

use NodeState::{Active, Leaving, Retired};

#[test]
fn what_becomes_of_volumes_stands_in_the_document_and_only_containers_have_some() {
    let wanted = AssignmentSpec { volumes: Some(Volumes::Delete), ..spec(&["plant/press"], &[]) };
    let refused = Wish::new(wanted.clone(), app()).unwrap_err();
    assert_eq!(refused.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), ["volumes"]);
    let description = HELLO.replace("type: custom", "type: compose");
    assert_ne!(description, HELLO);
    let volumes = |volumes: Option<Volumes>| {
        let app = AppContent { description: description.clone(), ..app() };
        let wish = Wish::new(AssignmentSpec { volumes, ..wanted.clone() }, app).unwrap();
        let node = "plant/press".parse().unwrap();
        let document = wish.document(&tenant(), &name(), &node, (&node).into()).to_yaml();
        let document = ApplicationDeployment::parse(&document, "document").unwrap();
        document.spec.profile.components[0].edgewright().and_then(|ours| ours.get("volumes")).cloned()
    };
    assert_eq!(volumes(None), None, "the package decides");
    assert_eq!(volumes(Some(Volumes::Keep)), Some("keep".into()));
    assert_eq!(volumes(Some(Volumes::Delete)), Some("delete".into()));
}

#[test]
fn an_order_reaches_named_nodes_and_all_active_nodes_of_named_sites() {
    let fleet = fleet(&[
        ("plant/press", Active),
        ("plant/saw", Leaving),
        ("port/crane", Active),
        ("port/gate", Active),
        ("quarry/mill", Active),
    ]);
    let change = create(&tenant(), name(), &wish(spec(&["port/gate"], &["plant"])), &fleet, order());
    assert_eq!(names(change.puts.into_keys()), ["plant/press", "port/gate"]);
    assert_eq!((change.from, change.assignment.revision), (None, Revision::FIRST));
}

#[test]
fn targets_must_exist_and_be_active() {
    let fleet = fleet(&[("plant/press", Active), ("plant/saw", Leaving), ("plant/oven", Retired)]);
    assert_eq!(fleet.check(&spec(&["plant/press"], &["plant"]).targets), []);
    let errors = fleet.check(&spec(&["plant/saw", "plant/oven", "plant/none"], &["nowhere"]).targets);
    let errors: Vec<_> = errors.iter().map(|error| (error.field.as_str(), error.message.as_str())).collect();
    assert_eq!(
        errors,
        [
            ("targets.nodes", "node plant/saw is being removed"),
            ("targets.nodes", "node plant/oven was removed"),
            ("targets.nodes", "there is no node plant/none"),
            ("targets.sites", "there is no site nowhere"),
        ]
    );
}

#[test]
fn limits_stand_on_everything_that_is_given() {
    assert_eq!(check_limits(&spec(&[], &["plant"])), []);
    let fields = |spec| check_limits(&spec).into_iter().map(|error| error.field).collect::<Vec<_>>();
    assert_eq!(fields(spec(&[], &[])), ["targets"]);
    assert_eq!(fields(spec(&["plant/press"; MAX_TARGETS + 1], &[])), ["targets"]);
    assert_eq!(fields(greeting(spec(&[], &["plant"]), &"x".repeat(MAX_PARAMETER_BYTES))), ["parameters"]);
    let many = (0..=MAX_PARAMETERS).map(|number| (number.to_string(), ParameterValue::Integer(1))).collect();
    assert_eq!(fields(AssignmentSpec { parameters: many, ..spec(&[], &["plant"]) }), ["parameters"]);
    let long = BTreeMap::from([("x".repeat(MAX_NAME + 1), ParameterValue::Integer(1))]);
    assert_eq!(fields(AssignmentSpec { parameters: long, ..spec(&[], &["plant"]) }), ["parameters"]);
    assert_eq!(
        fields(AssignmentSpec { profile: Some("x".repeat(MAX_NAME + 1)), ..spec(&[], &["plant"]) }),
        ["profile"]
    );
}

#[test]
fn what_stands_in_a_commit_is_one_line() {
    for good in [None, Some("a night shift"), Some("ä".repeat(MAX_REASON).as_str())] {
        assert_eq!(check_reason(good), []);
    }
    for bad in ["", "  ", "two\nlines", "\u{1b}[31m", &"x".repeat(MAX_REASON + 1)] {
        assert_eq!(check_reason(Some(bad)).len(), 1, "{bad:?}");
    }
}

#[test]
fn the_only_profile_is_chosen_and_among_several_a_person_chooses() {
    assert_eq!(wish(spec(&[], &["plant"])).profile(), "wasm");
    let unknown = AssignmentSpec { profile: Some("helm".into()), ..spec(&[], &["plant"]) };
    let errors = Wish::new(unknown, app()).unwrap_err();
    assert_eq!(errors, [broken("profile", "the application has wasm")]);

    let second = HELLO.replace("deploymentProfiles:\n", "deploymentProfiles:\n  - { id: other, type: custom, components: [{ name: hello, properties: { repository: oci://a/b, revision: 1.0.0 } }] }\n");
    let two = AppContent { description: second, ..app() };
    let errors = Wish::new(spec(&[], &["plant"]), two).unwrap_err();
    assert_eq!(errors, [broken("profile", "choose one: the application has other, wasm")]);
}

#[test]
fn wfm_30_wrong_parameters_and_a_wrong_profile_are_told_at_once() {
    let mut wrong = greeting(spec(&[], &["plant"]), "Hi");
    wrong.profile = Some("none".into());
    wrong.parameters.insert("colour".into(), ParameterValue::Integer(1));
    wrong.parameters.insert("greeting".into(), ParameterValue::Integer(1));
    let fields: Vec<_> = Wish::new(wrong, app()).unwrap_err().into_iter().map(|error| error.field).collect();
    assert_eq!(fields, ["profile", "parameters.colour", "parameters.greeting"]);
}

#[test]
fn a_document_that_its_reader_would_refuse_is_refused_now() {
    let fleet = fleet(&[("plant/press", Active)]);
    let change = |text: &str| create(&tenant(), name(), &wish(greeting(spec(&[], &["plant"]), text)), &fleet, order());
    assert_eq!(check_documents(&change("Hi")), []);
    let errors = check_documents(&change(&"x".repeat(margo::MAX_DOCUMENT)));
    assert!(errors[0].message.contains("larger than 1048576 bytes"), "{errors:?}");
}

#[test]
fn an_update_reaches_nodes_that_no_longer_match_for_targets_only_add() {
    let fleet = fleet(&[("plant/press", Active), ("port/crane", Active)]);
    let held = created(spec(&["plant/press"], &[]), &fleet);
    let change = update(&tenant(), held, &wish(greeting(spec(&["port/crane"], &[]), "Hi")), &fleet, order());
    assert_eq!((change.from, change.assignment.revision), (Some(Revision::FIRST), Revision::new(2)));
    assert_eq!(names(change.puts.keys().cloned()), ["plant/press", "port/crane"]);
    assert!(change.removes.is_empty());
    assert!(change.assignment.deployments.values().all(|deployment| deployment.revision == Revision::new(2)));
}

#[test]
fn a_removal_takes_everything_away_and_nothing_is_placed_afterwards() {
    let fleet = fleet(&[("plant/press", Active)]);
    let change = remove(created(spec(&[], &["plant"]), &fleet), order());
    assert_eq!(names(change.removes), ["plant/press"]);
    assert!(change.puts.is_empty());
    assert_eq!((change.assignment.state, change.assignment.revision), (AssignmentState::Removed, Revision::new(2)));
    assert!(
        change
            .assignment
            .deployments
            .values()
            .all(|deployment| deployment.digest.is_none() && deployment.revision == Revision::new(2))
    );
    assert!(fleet.missing(&change.assignment).is_empty());
}

#[test]
fn a_node_that_joins_is_placed_without_making_updates_stale() {
    let held = created(spec(&[], &["plant"]), &fleet(&[("plant/press", Active)]));
    let grown = fleet(&[("plant/press", Active), ("plant/saw", Active), ("port/crane", Active)]);
    let wish = wish(held.spec.clone());
    let change = place(&tenant(), held.clone(), &wish, grown.missing(&held), order()).unwrap();
    assert_eq!(names(change.puts.keys().cloned()), ["plant/saw"]);
    assert_eq!(change.assignment.revision, held.revision);
    assert_eq!(change.order.caused_by.as_deref(), Some("evaluate, plant/saw matches"));
    let missing = grown.missing(&change.assignment);
    assert!(place(&tenant(), change.assignment, &wish, missing, order()).is_none(), "twice does nothing");
}

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let state = prop_oneof![3 => Just(Active), 1 => Just(Leaving), 1 => Just(Retired)];
    prop::collection::btree_map((0..3u8, 0..5u8), state, 0..12).prop_map(|nodes| {
        let named: Vec<_> = nodes.into_iter().map(|((s, n), state)| (format!("site{s}/node{n}"), state)).collect();
        fleet(&named.iter().map(|(name, state)| (name.as_str(), *state)).collect::<Vec<_>>())
    })
}

fn any_spec() -> impl Strategy<Value = AssignmentSpec> {
    let nodes = prop::collection::vec((0..3u8, 0..5u8), 0..4);
    (nodes, prop::collection::vec(0..3u8, 0..3), "[a-z]{0,8}").prop_map(|(nodes, sites, text)| {
        let node = |(s, n)| format!("site{s}/node{n}").parse().unwrap();
        let site = |s| format!("site{s}").parse().unwrap();
        let nodes = nodes.into_iter().map(node).collect();
        let targets = Targets { nodes, sites: sites.into_iter().map(site).collect() };
        greeting(AssignmentSpec { targets, ..spec(&[], &[]) }, &text)
    })
}

proptest! {
    #[test]
    fn placement_only_adds_and_ends_with_every_active_match(
        first in any_spec(), second in any_spec(), before in any_fleet(), after in any_fleet(),
    ) {
        let mut assignment = created(first, &before);
        let change = update(&tenant(), assignment.clone(), &wish(second), &after, order());
        for (node, deployment) in &assignment.deployments {
            prop_assert_eq!(change.assignment.deployments[node].id, deployment.id, "the same for ever");
        }
        assignment = change.assignment;
        for fleet in [&before, &after] {
            let held: Vec<_> = assignment.deployments.keys().cloned().collect();
            let wish = wish(assignment.spec.clone());
            let missing = fleet.missing(&assignment);
            if let Some(change) = place(&tenant(), assignment.clone(), &wish, missing, order()) {
                prop_assert!(!change.puts.is_empty() && change.removes.is_empty());
                for node in change.puts.keys() {
                    prop_assert_eq!(fleet.nodes[node].state, Active);
                    prop_assert!(!held.contains(node));
                }
                assignment = change.assignment;
            }
            prop_assert!(held.iter().all(|node| assignment.deployments.contains_key(node)));
            prop_assert!(fleet.missing(&assignment).is_empty());
        }
    }

    #[test]
    fn the_same_wish_makes_the_same_bytes(spec in any_spec(), fleet in any_fleet()) {
        let make = || create(&tenant(), name(), &wish(spec.clone()), &fleet, order());
        prop_assert_eq!(make(), make());
        for (node, put) in make().puts {
            let read = ApplicationDeployment::parse(&put.document, "document").unwrap();
            prop_assert_eq!(read.id, DeploymentId::new(&tenant(), &name(), &node));
            prop_assert_eq!(read.to_yaml(), put.document, "reading and writing gives the same bytes");
        }
    }
}

#[test]
fn a_document_names_the_node_by_the_device_id_that_it_brought() {
    let mut foreign = fleet(&[("plant/press", Active)]);
    let device = "Gateway-1/Cell_7/~b";
    foreign.nodes.values_mut().for_each(|member| member.device_id = device.parse().unwrap());
    let created = create(&tenant(), name(), &wish(spec(&["plant/press"], &[])), &foreign, order());
    // An update asks for the nodes of its own targets alone, and the assignment stays on this one, too.
    let elsewhere = wish(spec(&["port/crane"], &[]));
    let updated = update(&tenant(), created.assignment.clone(), &elsewhere, &Fleet::default(), order());
    for change in [created, updated] {
        let put = change.puts.values().next().unwrap();
        let document = ApplicationDeployment::parse(&put.document, "d.yaml").unwrap();
        assert_eq!(document.metadata.device_id.as_str(), device);
    }
}
