//! Which nodes a wish reaches. Placement only adds: a node that no longer matches keeps what it has.

use std::collections::{BTreeMap, BTreeSet};

use api::{AssignmentState, FieldError, NodeState, Targets};
use margo::{DeviceId, NodeId, SiteName};

use super::{Assignment, broken};

/// Wrong targets that are named one by one. A list of 10,000 typing errors would help nobody.
const MAX_ERRORS: usize = 100;

/// What the registry needs to know of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub state: NodeState,
    /// The DeviceId by which documents name the node.
    pub device: DeviceId,
}

/// The sites and nodes that node-capabilities knows.
#[derive(Debug, Default)]
pub struct Fleet {
    /// All nodes, also those that are leaving or have left.
    pub nodes: BTreeMap<NodeId, Member>,
    pub sites: BTreeSet<SiteName>,
}

impl Fleet {
    /// Checks that each target exists and can take deployments.
    pub fn check(&self, targets: &Targets) -> Vec<FieldError> {
        let nodes = targets.nodes.iter().filter_map(|node| match self.nodes.get(node).map(|member| member.state) {
            Some(NodeState::Active) => None,
            Some(NodeState::Leaving) => Some(broken("targets.nodes", format!("node {node} is being removed"))),
            Some(NodeState::Retired) => Some(broken("targets.nodes", format!("node {node} was removed"))),
            None => Some(broken("targets.nodes", format!("there is no node {node}"))),
        });
        let sites = targets.sites.iter().filter(|site| !self.sites.contains(*site));
        let sites = sites.map(|site| broken("targets.sites", format!("there is no site {site}")));
        nodes.chain(sites).take(MAX_ERRORS).collect()
    }

    /// The DeviceId by which documents name a node. A node that is no longer known keeps the one that is made from its name.
    pub(super) fn device(&self, node: &NodeId) -> DeviceId {
        self.nodes.get(node).map_or_else(|| node.into(), |member| member.device.clone())
    }

    /// The active nodes that the targets mean: those named, and all of the named sites.
    pub(super) fn matching(&self, targets: &Targets) -> BTreeSet<NodeId> {
        let sites: BTreeSet<_> = targets.sites.iter().map(SiteName::client).collect();
        let named: BTreeSet<_> = targets.nodes.iter().collect();
        let active = self.nodes.iter().filter(|(_, member)| member.state == NodeState::Active).map(|(node, _)| node);
        active.filter(|node| sites.contains(&node.client) || named.contains(node)).cloned().collect()
    }

    /// The active nodes that an assignment means and that do not have it yet; none for a removed assignment.
    pub fn missing(&self, assignment: &Assignment) -> BTreeSet<NodeId> {
        match assignment.state {
            AssignmentState::Removed => BTreeSet::new(),
            AssignmentState::Active => {
                let matching = self.matching(&assignment.spec.targets);
                matching.into_iter().filter(|node| !assignment.deployments.contains_key(node)).collect()
            }
        }
    }
}
