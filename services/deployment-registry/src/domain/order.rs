//! What one order changes: the assignment as it is afterwards, and the documents that nodes get or lose.

use std::collections::{BTreeMap, BTreeSet};

use api::{AssignmentState, FieldError};
use margo::{ApplicationDeployment, AssignmentName, DeploymentId, DeviceId, Digest, NodeId, Revision, TenantName};
use outbox::{OrderHeader, Verb};

use super::{Assignment, Deployment, Fleet, Wish, broken};

/// The longest reason, in characters. It stands in one line of the commit.
pub(super) const MAX_REASON: usize = 500;

/// What an order does to its assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderKind {
    /// A person makes an assignment.
    Create,
    /// A person changes what the assignment means.
    Update,
    /// A person takes the assignment away, for good.
    Remove,
    /// The system puts the assignment on nodes that came to match it.
    Place,
}

impl OrderKind {
    /// The word for it in SQL, in metrics and in the API.
    pub fn as_str(self) -> &'static str {
        Verb::from(self).as_str()
    }
}

impl From<OrderKind> for Verb {
    fn from(kind: OrderKind) -> Self {
        match kind {
            OrderKind::Create => Self::Create,
            OrderKind::Update => Self::Update,
            OrderKind::Remove => Self::Remove,
            OrderKind::Place => Self::Place,
        }
    }
}

/// All that one order changes. It is stored whole or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Who orders, when and why.
    pub order: OrderHeader,
    pub kind: OrderKind,
    /// The revision on which the order was decided, and which must still be held when it is stored. `None`: the
    /// assignment must not exist yet.
    pub from: Option<Revision>,
    /// The assignment as it is after the order.
    pub assignment: Assignment,
    /// Nodes that get a new document.
    pub puts: BTreeMap<NodeId, Put>,
    /// Nodes that lose the assignment.
    pub removes: BTreeSet<NodeId>,
    /// What the largest of the new documents says.
    pub meant: Option<Box<ApplicationDeployment>>,
}

impl Change {
    fn new(kind: OrderKind, order: OrderHeader, from: Option<Revision>, assignment: Assignment) -> Self {
        Self { order, kind, from, assignment, puts: BTreeMap::new(), removes: BTreeSet::new(), meant: None }
    }
}

/// A new document for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The exact bytes of the ApplicationDeployment.
    pub document: Vec<u8>,
    /// Digest of the application's package, for readers of the repositories.
    pub package: Digest,
}

/// Checks that a reason is one line without control characters, because it becomes one line of a commit.
pub fn check_reason(reason: Option<&str>) -> Vec<FieldError> {
    let good = |reason: &str| {
        !reason.trim().is_empty() && reason.chars().count() <= MAX_REASON && !reason.contains(char::is_control)
    };
    if reason.is_none_or(good) {
        Vec::new()
    } else {
        vec![broken("reason", format!("one line of 1 to {MAX_REASON} characters"))]
    }
}

/// A person makes an assignment, which is placed on all active nodes that it means.
pub fn create(tenant: &TenantName, name: AssignmentName, wish: &Wish, fleet: &Fleet, order: OrderHeader) -> Change {
    let assignment = Assignment {
        name,
        revision: Revision::FIRST,
        state: AssignmentState::Active,
        spec: wish.spec.clone(),
        deployments: BTreeMap::new(),
    };
    let nodes = fleet.matching(&assignment.spec.targets);
    put(tenant, Change::new(OrderKind::Create, order, None, assignment), wish, nodes)
}

/// A person changes what an assignment means. All nodes that have it get the new content, also those that no longer
/// match, for targets only add.
pub fn update(tenant: &TenantName, held: Assignment, wish: &Wish, fleet: &Fleet, order: OrderHeader) -> Change {
    let from = held.revision;
    let placed = held.deployments.iter();
    let mut nodes: BTreeMap<_, _> = placed.map(|(node, held)| (node.clone(), held.device.clone())).collect();
    nodes.extend(fleet.matching(&wish.spec.targets));
    let assignment = Assignment { revision: from.next(), spec: wish.spec.clone(), ..held };
    put(tenant, Change::new(OrderKind::Update, order, Some(from), assignment), wish, nodes)
}

/// A person takes an assignment away, from every node that has it.
pub fn remove(held: Assignment, order: OrderHeader) -> Change {
    let from = held.revision;
    let mut assignment = Assignment { revision: from.next(), state: AssignmentState::Removed, ..held };
    for deployment in assignment.deployments.values_mut() {
        deployment.digest = None;
        deployment.revision = assignment.revision;
        deployment.order = order.id;
    }
    let removes = assignment.deployments.keys().cloned().collect();
    Change { removes, ..Change::new(OrderKind::Remove, order, Some(from), assignment) }
}

/// The system puts an assignment on nodes that match it and do not have it. Returns `None` when there are no such
/// nodes.
pub fn place(
    tenant: &TenantName,
    held: Assignment,
    wish: &Wish,
    nodes: BTreeMap<NodeId, DeviceId>,
    mut order: OrderHeader,
) -> Option<Change> {
    let caused_by = match nodes.len() {
        0 => return None,
        1 => format!("evaluate, {} matches", nodes.keys().next()?),
        count => format!("evaluate, {} and {} more match", nodes.keys().next()?, count - 1),
    };
    order.caused_by = Some(caused_by);
    Some(put(tenant, Change::new(OrderKind::Place, order, Some(held.revision), held), wish, nodes))
}

/// Adds to a change that these nodes get the assignment's content, with a document for each.
fn put(tenant: &TenantName, mut change: Change, wish: &Wish, nodes: BTreeMap<NodeId, DeviceId>) -> Change {
    let mut largest = 0;
    for (node, device) in nodes {
        let meant = wish.document(tenant, &change.assignment.name, &node, device.clone());
        let document = meant.to_yaml();
        if document.len() > largest {
            largest = document.len();
            change.meant = Some(Box::new(meant));
        }
        let deployment = Deployment {
            id: DeploymentId::new(tenant, &change.assignment.name, &node),
            device,
            app: wish.spec.app.clone(),
            profile: wish.profile().to_owned(),
            revision: change.assignment.revision,
            order: change.order.id,
            digest: Some(Digest::of(&document)),
        };
        change.assignment.deployments.insert(node.clone(), deployment);
        change.puts.insert(node, Put { document, package: wish.package });
    }
    change
}

/// Reads a new document as its node will, and returns what the node would refuse or take for something else. The documents of one
/// change differ in the names of nodes alone, so only the largest one is read.
pub fn check_documents(change: &Change) -> Vec<FieldError> {
    let Some(meant) = &change.meant else { return Vec::new() };
    let documents = change.puts.values().map(|put| &put.document);
    // Of several the first, as it was kept.
    let largest = documents.reduce(|largest, document| if document.len() > largest.len() { document } else { largest });
    let read = largest.map(|document| ApplicationDeployment::parse(document, "the deployment made of this order"));
    match read {
        None => Vec::new(),
        Some(Ok(read)) if read == **meant => Vec::new(),
        Some(Ok(_)) => vec![broken("parameters", "a value cannot be written so that it is read as it was meant")],
        Some(Err(unreadable)) => vec![broken("parameters", unreadable.to_string())],
    }
}
