//! Reports of nodes, and which of them change what we hold. There is no async, no NATS and no clock here.

use std::collections::BTreeMap;

use api::{ActualComponent, Failure};
pub use bus::report::Position;
use jiff::Timestamp;
use margo::{DeploymentId, Digest, NodeId, State};

/// A message of the bus about one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Every deployment of the node, as it is now.
    Status(StatusReport),
    /// What changed in one pass of the node.
    Events(EventReport),
}

/// A whole status of a node; it replaces all earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusReport {
    pub node: NodeId,
    pub position: Position,
    /// All deployments of the node: one that is missing here is gone from it.
    pub deployments: Vec<DeploymentStatus>,
    /// What the node refused lately, newest last.
    pub refusals: Vec<Refusal>,
    /// When the node made the report, by its own clock.
    pub time: Timestamp,
}

/// One deployment as its node reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentStatus {
    pub id: DeploymentId,
    /// The digest of the document that the node holds for this deployment.
    pub digest: Digest,
    /// The version of the manifest from which the node has this document.
    pub adopted_manifest_version: u64,
    /// The state of the deployment as a whole.
    pub state: State,
    /// Why the deployment failed; a failure of one component stands with that component.
    pub failure: Option<Failure>,
    pub components: Vec<ActualComponent>,
}

/// Something that a node refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The subject of the refused message, or the name of whatever else was refused.
    pub subject: String,
    pub reason: String,
    /// When, by the node's clock.
    pub time: Timestamp,
}

/// All changes of state of one pass of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct EventReport {
    pub node: NodeId,
    /// Rises when a node begins anew without its disk.
    pub incarnation: u64,
    pub transitions: Vec<Transition>,
    /// How many transitions the node dropped because its spool was full.
    pub lost: u64,
}

/// One change of the state of a deployment or of one of its components.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Unique among the transitions of one incarnation, by which a repeated one is known.
    pub number: u64,
    pub deployment: DeploymentId,
    /// The digest of the document that the node held for the deployment.
    pub digest: Digest,
    /// The name of the component; `None` for the deployment as a whole.
    pub component: Option<String>,
    /// The state after the change.
    pub state: State,
    /// Why the state is a failed one.
    pub failure: Option<Failure>,
    /// The version of the manifest from which the node had this document.
    pub adopted_manifest_version: u64,
    /// When, by the node's clock.
    pub time: Timestamp,
}

/// The reports of a batch that have to be stored: of each node the newest, if it is newer than the one held. A status is
/// whole, so the older ones have nothing to add, and neither has a repeated one.
pub fn newest(held: &BTreeMap<NodeId, Position>, reports: Vec<StatusReport>) -> BTreeMap<NodeId, StatusReport> {
    let mut newest: BTreeMap<NodeId, StatusReport> = BTreeMap::new();
    for report in reports {
        let known = newest.get(&report.node).map(|report| report.position).or(held.get(&report.node).copied());
        if known < Some(report.position) {
            newest.insert(report.node.clone(), report);
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(node: &str, incarnation: u64, sequence: u64) -> StatusReport {
        StatusReport {
            node: format!("plant/{node}").parse().unwrap(),
            position: Position { incarnation, sequence },
            deployments: vec![],
            refusals: vec![],
            time: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_later_life_of_a_node_comes_after_all_reports_of_an_earlier_one() {
        let held = BTreeMap::from([(report("a", 2, 1).node, report("a", 2, 1).position)]);
        assert_eq!(newest(&held, vec![report("a", 1, 900)]), BTreeMap::new());
        assert_eq!(newest(&held, vec![report("a", 3, 0)]).len(), 1);
    }

    #[test]
    fn a_repeated_report_changes_nothing() {
        let held = BTreeMap::from([(report("a", 1, 7).node, report("a", 1, 7).position)]);
        assert_eq!(newest(&held, vec![report("a", 1, 7), report("a", 1, 6)]), BTreeMap::new());
    }

    fn any_reports() -> impl Strategy<Value = Vec<StatusReport>> {
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
                held.extend(newest(&held, batch.to_vec()).into_iter().map(|(node, report)| (node, report.position)));
            }
            let mut wanted = BTreeMap::new();
            for report in &reports {
                let position = wanted.entry(report.node.clone()).or_insert(report.position);
                *position = report.position.max(*position);
            }
            prop_assert_eq!(held, wanted);
        }
    }
}
