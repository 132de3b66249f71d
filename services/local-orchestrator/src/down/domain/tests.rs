use std::collections::BTreeMap;

use margo::{ClientName, DeploymentId, Digest, TenantName};
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

/// A set whose head fits what it holds: for each node its version and the documents it runs.
fn set(number: u64, nodes: impl IntoIterator<Item = (NodeName, NodeDesired)>) -> DesiredSet {
    let head = Head {
        tenant: TenantName::default(),
        client: "plant".parse::<ClientName>().unwrap(),
        version: version(number),
        list: Digest::of(b""),
    };
    let mut set = DesiredSet { head, list: nodes.into_iter().collect() };
    set.head.list = set.list.digest();
    set
}

/// What becomes of an offer of which more may come.
fn decide(in_force: Option<&DesiredSet>, offered: &DesiredSet) -> Verdict {
    judge(Held { floor: in_force.map(|set| &set.head), set: in_force }, offered, false)
}

fn runs(number: u64, document: &str) -> NodeDesired {
    let deployments = [(deployment(1), Digest::of(document.as_bytes()))].into();
    NodeEntry { identity: None, version: version(number), deployments }.into()
}

#[test]
fn a_whole_set_above_the_one_in_force_is_adopted_and_then_rests() {
    let first = set(1, [(node(1), runs(1, "a"))]);
    assert_eq!(decide(None, &first), Verdict::Adopt);
    assert_eq!(decide(Some(&first), &first), Verdict::InForce);
    let second = set(2, [(node(1), runs(2, "b"))]);
    assert_eq!(decide(Some(&first), &second), Verdict::Adopt);
}

#[test]
fn a_set_in_which_nothing_is_desired_is_adopted() {
    let held = set(1, [(node(1), runs(1, "a"))]);
    let nothing = NodeEntry { identity: None, version: version(2), deployments: [].into() };
    assert_eq!(decide(Some(&held), &set(2, [(node(1), nothing.into())])), Verdict::Adopt);
}

#[test]
fn an_older_version_is_refused() {
    let held = set(5, [(node(1), runs(5, "a"))]);
    let refused = Objection::Older { offered: version(4), held: version(5) };
    assert_eq!(decide(Some(&held), &set(4, [(node(1), runs(4, "b"))])), Verdict::Refuse(refused));
}

#[test]
fn the_same_version_with_another_list_is_a_conflict_also_when_it_is_not_whole() {
    let held = set(5, [(node(1), runs(5, "a"))]);
    let mut other = set(5, [(node(1), runs(5, "b"))]);
    assert_eq!(decide(Some(&held), &other), Verdict::Refuse(Objection::Conflict(version(5))));
    other.list = ManifestList::default();
    assert_eq!(decide(Some(&held), &other), Verdict::Refuse(Objection::Conflict(version(5))));
}

#[test]
fn a_node_s_version_must_make_sense() {
    let held = set(5, [(node(1), runs(5, "a"))]);
    let ahead = set(6, [(node(1), runs(7, "b"))]);
    assert!(matches!(decide(Some(&held), &ahead), Verdict::Refuse(Objection::Ahead { .. })));
    let silent = set(6, [(node(1), runs(5, "b"))]);
    assert!(matches!(decide(Some(&held), &silent), Verdict::Refuse(Objection::NotRisen { .. })));
}

#[test]
fn what_is_not_whole_waits_until_the_road_has_nothing_more() {
    let mut offered = set(5, [(node(1), runs(5, "a")), (node(2), runs(5, "a"))]);
    offered.list.remove(&node(2));
    assert_eq!(judge(Held::default(), &offered, false), Verdict::Incomplete);
    assert_eq!(judge(Held::default(), &offered, true), Verdict::Refuse(Objection::NotWhole(version(5))));
}

#[test]
fn a_site_that_lost_its_set_goes_back_to_no_older_version() {
    let lost = set(5, [(node(1), runs(5, "a"))]);
    let held = Held { floor: Some(&lost.head), set: None };
    assert_eq!(judge(held, &lost, true), Verdict::Adopt);
    let older = Objection::Older { offered: version(4), held: version(5) };
    assert_eq!(judge(held, &set(4, [(node(1), runs(4, "a"))]), true), Verdict::Refuse(older));
    let other = set(5, [(node(1), runs(5, "b"))]);
    assert_eq!(judge(held, &other, true), Verdict::Refuse(Objection::Conflict(version(5))));
}

#[test]
fn only_what_differs_counts_as_changed() {
    let held = set(1, [(node(1), runs(1, "a")), (node(2), runs(1, "a"))]);
    let next = set(2, [(node(1), runs(1, "a")), (node(2), runs(2, "b")), (node(3), runs(2, "a"))]);
    let changed: std::collections::BTreeSet<_> =
        next.changed_since(Some(&held)).map(|(name, _)| name.clone()).collect();
    assert_eq!(changed, [node(2), node(3)].into());
    assert_eq!(next.changed_since(None).count(), 3);
}

/// One message of a stream in which each subject keeps its last value.
#[derive(Clone, Debug)]
enum Message {
    Node(NodeName, NodeDesired),
    Head(Head),
}

/// The messages that lead from one manifest to the next: what changed, and the head.
fn difference(from: &DesiredSet, to: &DesiredSet) -> Vec<Message> {
    let changed = to.list.nodes().filter(|(node, desired)| from.list.get(node) != Some(*desired));
    let mut messages: Vec<_> = changed.map(|(node, desired)| Message::Node(node.clone(), desired.clone())).collect();
    messages.push(Message::Head(to.head.clone()));
    messages
}

/// DesiredSets one after another: in each, some of four nodes get other documents.
fn histories() -> impl Strategy<Value = Vec<DesiredSet>> {
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
            history.push(set(number, nodes.clone()));
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
            let mut before = DesiredSet { list: ManifestList::default(), ..history[0].clone() };
            for manifest in &history {
                messages.extend(difference(&before, manifest));
                before = manifest.clone();
            }
            (Just(history), Just(messages).prop_shuffle())
        })
    ) {
        let mut head = None;
        let mut list = ManifestList::default();
        let mut in_force: Option<DesiredSet> = None;
        for message in order {
            match message {
                Message::Node(node, desired) => list.put(node, desired),
                Message::Head(arrived) => head = Some(arrived),
            }
            let Some(head) = head.clone() else { continue };
            let offered = DesiredSet { head, list: list.clone() };
            if decide(in_force.as_ref(), &offered) == Verdict::Adopt {
                let signed = history.iter().find(|set| set.head == offered.head).unwrap();
                prop_assert_eq!(&offered.list, &signed.list);
                prop_assert!(in_force.is_none_or(|held| held.head.version < offered.head.version));
                in_force = Some(offered);
            }
        }
    }

    /// In the order in which they were published, every version is adopted.
    #[test]
    fn what_arrives_in_order_is_adopted_version_by_version(history in histories()) {
        let mut staged = DesiredSet { list: ManifestList::default(), ..history[0].clone() };
        let mut in_force: Option<DesiredSet> = None;
        for manifest in history {
            for message in difference(&staged.clone(), &manifest) {
                match message {
                    Message::Node(node, desired) => staged.list.put(node, desired),
                    Message::Head(arrived) => staged.head = arrived,
                }
            }
            prop_assert_eq!(decide(in_force.as_ref(), &staged), Verdict::Adopt);
            in_force = Some(staged.clone());
            prop_assert_eq!(staged.list.clone(), manifest.list);
        }
    }
}
