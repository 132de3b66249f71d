//! Which nodes a wish reaches. Placement only adds: a node that no longer matches keeps what it has.

use std::collections::{BTreeMap, BTreeSet};

use api::{AssignmentState, FieldError, Member, NodeState, Targets};
use margo::{DeviceId, NodeId, SiteName};

use super::{Assignment, broken};

/// Wrong targets that are named one by one. A list of 10,000 typing errors would help nobody.
const MAX_ERRORS: usize = 100;

/// The part of the fleet that somebody has asked for: sites that exist, all of their nodes, and other nodes.
#[derive(Debug, Default)]
pub struct Fleet {
    /// The nodes by name, also those that are leaving or have left.
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

    /// Adds a part that was asked for later. What both parts hold is taken from the later one.
    pub fn extend(&mut self, part: Self) {
        self.nodes.extend(part.nodes);
        self.sites.extend(part.sites);
    }

    /// The active nodes that the targets mean: those named, and all of the named sites. Each comes with the DeviceId by which
    /// documents name it.
    pub(super) fn matching(&self, targets: &Targets) -> BTreeMap<NodeId, DeviceId> {
        let sites: BTreeSet<_> = targets.sites.iter().map(SiteName::client).collect();
        let named: BTreeSet<_> = targets.nodes.iter().collect();
        let meant = |node: &NodeId| sites.contains(&node.client) || named.contains(node);
        let active = self.nodes.iter().filter(|(_, member)| member.state == NodeState::Active);
        active.filter(|(node, _)| meant(node)).map(|(node, member)| (node.clone(), member.device_id.clone())).collect()
    }

    /// The active nodes that an assignment means and that do not have it yet; none for a removed assignment.
    pub fn missing(&self, assignment: &Assignment) -> BTreeMap<NodeId, DeviceId> {
        match assignment.state {
            AssignmentState::Removed => BTreeMap::new(),
            AssignmentState::Active => {
                let matching = self.matching(&assignment.spec.targets);
                matching.into_iter().filter(|(node, _)| !assignment.deployments.contains_key(node)).collect()
            }
        }
    }
}
