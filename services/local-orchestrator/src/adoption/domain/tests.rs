use margo::{ClientName, TenantName};
use proptest::prelude::*;

use super::*;

fn version(number: u64) -> ManifestVersion {
    number.try_into().unwrap()
}

fn node(at: usize) -> NodeName {
    format!("n{at}").parse().unwrap()
}

fn deployment(at: usize) -> DeploymentId {
    format!("00000000-0000-4000-8000-{at:012}").parse().unwrap()
}

/// A manifest whose head fits what it holds: for each node its version and the documents it runs.
fn manifest(number: u64, nodes: impl IntoIterator<Item = (NodeName, NodeDesired)>) -> Manifest {
    let head = Head {
        tenant: TenantName::default(),
        client: "plant".parse::<ClientName>().unwrap(),
        version: version(number),
        list: Digest::of(b""),
    };
    let mut manifest = Manifest { head, nodes: nodes.into_iter().collect() };
    manifest.head.list = manifest.list().digest();
    manifest
}

fn runs(number: u64, document: &str) -> NodeDesired {
    let deployments = BTreeMap::from([(deployment(1), Digest::of(document.as_bytes()))]);
    NodeDesired { version: version(number), deployments }
}

#[test]
fn a_whole_manifest_above_the_one_in_force_is_adopted_and_then_rests() {
    let first = manifest(1, [(node(1), runs(1, "a"))]);
    assert_eq!(judge(None, &first), Verdict::Adopt);
    assert_eq!(judge(Some(&first), &first), Verdict::InForce);
    let second = manifest(2, [(node(1), runs(2, "b"))]);
    assert_eq!(judge(Some(&first), &second), Verdict::Adopt);
}

#[test]
fn a_manifest_in_which_nothing_is_desired_is_adopted() {
    let held = manifest(1, [(node(1), runs(1, "a"))]);
    let nothing = NodeDesired { version: version(2), deployments: BTreeMap::new() };
    assert_eq!(judge(Some(&held), &manifest(2, [(node(1), nothing)])), Verdict::Adopt);
}

#[test]
fn an_older_version_is_refused() {
    let held = manifest(5, [(node(1), runs(5, "a"))]);
    let refused = Refused::Older { offered: version(4), held: version(5) };
    assert_eq!(judge(Some(&held), &manifest(4, [(node(1), runs(4, "b"))])), Verdict::Refuse(refused));
}

#[test]
fn the_same_version_with_another_list_is_a_conflict_also_when_it_is_not_whole() {
    let held = manifest(5, [(node(1), runs(5, "a"))]);
    let mut other = manifest(5, [(node(1), runs(5, "b"))]);
    assert_eq!(judge(Some(&held), &other), Verdict::Refuse(Refused::Conflict(version(5))));
    other.nodes.clear();
    assert_eq!(judge(Some(&held), &other), Verdict::Refuse(Refused::Conflict(version(5))));
}

#[test]
fn a_node_s_version_is_not_signed_and_must_make_sense() {
    let held = manifest(5, [(node(1), runs(5, "a"))]);
    let ahead = manifest(6, [(node(1), runs(7, "b"))]);
    assert!(matches!(judge(Some(&held), &ahead), Verdict::Refuse(Refused::Ahead { .. })));
    let silent = manifest(6, [(node(1), runs(5, "b"))]);
    assert!(matches!(judge(Some(&held), &silent), Verdict::Refuse(Refused::NotRisen { .. })));
}

/// One message of a stream in which each subject keeps its last value.
#[derive(Clone, Debug)]
enum Message {
    Node(NodeName, NodeDesired),
    Head(Head),
}

/// The messages that lead from one manifest to the next: what changed, and the head.
fn difference(from: &Manifest, to: &Manifest) -> Vec<Message> {
    let changed = to.nodes.iter().filter(|(node, desired)| from.nodes.get(*node) != Some(*desired));
    let mut messages: Vec<_> = changed.map(|(node, desired)| Message::Node(node.clone(), desired.clone())).collect();
    messages.push(Message::Head(to.head.clone()));
    messages
}

/// Manifests one after another: in each, some of four nodes get other documents.
fn histories() -> impl Strategy<Value = Vec<Manifest>> {
    let change = proptest::collection::btree_map(0..4usize, 0..5u8, 0..4);
    proptest::collection::vec(change, 1..6).prop_map(|changes| {
        let mut nodes = BTreeMap::new();
        let mut history = vec![];
        for (number, change) in (1..).zip(changes) {
            for (at, document) in change {
                let changed = runs(number, &document.to_string());
                let before: Option<&NodeDesired> = nodes.get(&node(at));
                if before.is_none_or(|before| before.deployments != changed.deployments) {
                    nodes.insert(node(at), changed);
                }
            }
            history.push(manifest(number, nodes.clone()));
        }
        history
    })
}

proptest! {
    /// Whatever order the messages of all versions arrive in: what is adopted is one of the manifests, never a
    /// mixture of two, and versions only rise.
    #[test]
    fn no_order_of_arrival_adopts_a_mixed_set(
        (history, order) in histories().prop_flat_map(|history| {
            let mut messages = vec![];
            let mut before = Manifest { nodes: BTreeMap::new(), ..history[0].clone() };
            for manifest in &history {
                messages.extend(difference(&before, manifest));
                before = manifest.clone();
            }
            (Just(history), Just(messages).prop_shuffle())
        })
    ) {
        let mut head = None;
        let mut nodes = BTreeMap::new();
        let mut in_force: Option<Manifest> = None;
        for message in order {
            match message {
                Message::Node(node, desired) => { nodes.insert(node, desired); }
                Message::Head(arrived) => head = Some(arrived),
            }
            let Some(head) = head.clone() else { continue };
            let offered = Manifest { head, nodes: nodes.clone() };
            if judge(in_force.as_ref(), &offered) == Verdict::Adopt {
                let list = |manifest: &Manifest| manifest.list();
                let signed = history.iter().find(|it| it.head == offered.head).unwrap();
                prop_assert_eq!(list(&offered), list(signed));
                prop_assert!(in_force.is_none_or(|held| held.head.version < offered.head.version));
                in_force = Some(offered);
            }
        }
    }

    /// In the order in which they were published, every version is adopted.
    #[test]
    fn what_arrives_in_order_is_adopted_version_by_version(history in histories()) {
        let mut staged = Manifest { nodes: BTreeMap::new(), ..history[0].clone() };
        let mut in_force: Option<Manifest> = None;
        for manifest in history {
            for message in difference(&staged.clone(), &manifest) {
                match message {
                    Message::Node(node, desired) => { staged.nodes.insert(node, desired); }
                    Message::Head(arrived) => staged.head = arrived,
                }
            }
            prop_assert_eq!(judge(in_force.as_ref(), &staged), Verdict::Adopt);
            in_force = Some(staged.clone());
            prop_assert_eq!(staged.nodes.clone(), manifest.nodes);
        }
    }
}
