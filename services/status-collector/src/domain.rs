//! Reports of nodes, and which of them change what we hold. There is no async, no NATS and no clock here.

use std::collections::BTreeMap;

use bus::report::{Events, Position, Status};
use margo::NodeId;

/// A message of the bus about one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Every deployment of the node, as it is now. It replaces all earlier ones.
    Status(NodeId, Status),
    /// What changed in one pass of the node.
    Events(NodeId, Events),
}

/// The reports of a batch that have to be stored: of each node the newest, if it is newer than the one held. A status is
/// whole, so the older ones have nothing to add, and neither has a repeated one.
pub fn newest(held: &BTreeMap<NodeId, Position>, reports: Vec<(NodeId, Status)>) -> BTreeMap<NodeId, Status> {
    let mut newest: BTreeMap<NodeId, Status> = BTreeMap::new();
    for (node, status) in reports {
        let known = newest.get(&node).map(|status| status.position).or(held.get(&node).copied());
        if known < Some(status.position) {
            newest.insert(node, status);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn position(incarnation: u64, sequence: u64) -> Position {
        Position { generation: 0, incarnation, sequence }
    }

    fn node(name: &str) -> NodeId {
        format!("plant/{name}").parse().unwrap()
    }

    fn report(name: &str, incarnation: u64, sequence: u64) -> (NodeId, Status) {
        let position = position(incarnation, sequence);
        (node(name), Status { position, deployments: vec![], refusals: vec![], time: Timestamp::UNIX_EPOCH })
    }

    #[test]
    fn a_later_life_of_a_node_comes_after_all_reports_of_an_earlier_one() {
        let held = BTreeMap::from([(node("a"), position(2, 1))]);
        assert_eq!(newest(&held, vec![report("a", 1, 900)]), BTreeMap::new());
        assert_eq!(newest(&held, vec![report("a", 3, 0)]).len(), 1);
    }

    #[test]
    fn a_repeated_report_changes_nothing() {
        let held = BTreeMap::from([(node("a"), position(1, 7))]);
        assert_eq!(newest(&held, vec![report("a", 1, 7), report("a", 1, 6)]), BTreeMap::new());
    }

    fn any_reports() -> impl Strategy<Value = Vec<(NodeId, Status)>> {
        let any =
            ("[ab]", 1..4u64, 0..6u64).prop_map(|(node, incarnation, sequence)| report(&node, incarnation, sequence));
        proptest::collection::vec(any, 0..20)
    }

    proptest! {
        /// However the bus cuts, repeats and mixes reports, in the end we hold the newest of each node.
        #[test]
        fn what_is_held_does_not_depend_on_batches(reports in any_reports(), size in 1..5usize) {
            let mut held = BTreeMap::new();
            for batch in reports.chunks(size) {
                held.extend(newest(&held, batch.to_vec()).into_iter().map(|(node, status)| (node, status.position)));
            }
            let mut wanted = BTreeMap::new();
            for (node, status) in &reports {
                let position = wanted.entry(node.clone()).or_insert(status.position);
                *position = status.position.max(*position);
            }
            prop_assert_eq!(held, wanted);
        }
    }
}
