//! Reports, and what they mean for what we hold. No async, no NATS, no clock.

use std::collections::BTreeMap;

use api::{ActualComponent, FailureInfo};
use jiff::Timestamp;
use margo::{DeploymentId, Digest, NodeId, State};

/// A node's report among all reports of that node: those of a later life of the node come after all earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Rises when a node begins anew without its disk.
    pub incarnation: u64,
    /// Rises with every report of one incarnation.
    pub sequence: u64,
}

/// What is on the bus about one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// All its deployments as they are.
    Status(StatusReport),
    /// What changed in one pass.
    Events(EventReport),
}

/// All deployments of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusReport {
    /// Which node.
    pub node: NodeId,
    /// Which of its reports.
    pub position: Position,
    /// All of them: one that is missing is gone.
    pub deployments: Vec<DeploymentStatus>,
    /// What the node did not accept, newest last.
    pub refusals: Vec<Refusal>,
    /// The node's clock.
    pub time: Timestamp,
}

/// One deployment as its node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentStatus {
    /// Which one.
    pub id: DeploymentId,
    /// The digest that this is about.
    pub digest: Digest,
    /// Manifest version whose revision of this deployment the node holds.
    pub adopted_manifest_version: u64,
    /// The overall state.
    pub state: State,
    /// Why it failed.
    pub failure: Option<FailureInfo>,
    /// Its components.
    pub components: Vec<ActualComponent>,
}

/// Something a node did not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was refused.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// The node's clock.
    pub time: Timestamp,
}

/// All transitions of one pass of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct EventReport {
    /// Which node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: u64,
    /// What changed.
    pub transitions: Vec<Transition>,
    /// How many the node had to drop.
    pub lost: u64,
}

/// One change of state.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Unique within the incarnation.
    pub number: u64,
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// The digest that it is about.
    pub digest: Digest,
    /// Of which component; `None` for the deployment as a whole.
    pub component: Option<String>,
    /// What it came to.
    pub state: State,
    /// Why it failed.
    pub failure: Option<FailureInfo>,
    /// Manifest version whose revision of this deployment the node held.
    pub adopted_manifest_version: u64,
    /// The node's clock.
    pub time: Timestamp,
}

/// The reports to be stored out of a batch: of each node the newest, if it is newer than the one held. A status is whole,
/// so the others have nothing to add; a repeated one is among them.
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
