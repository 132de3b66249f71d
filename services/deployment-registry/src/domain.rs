//! What orders mean for assignments and their deployments. No async, no bus, no database, no clock.
//!
//! - `wish`: what people may mean, and documents made of it;
//! - `placement`: which nodes a wish reaches;
//! - `order`: what one order changes, as a whole.

mod order;
mod placement;
mod wish;

use std::collections::BTreeMap;

use api::{AppRef, AssignmentSpec, AssignmentState, FieldError};
use margo::{AssignmentName, DeploymentId, DeviceId, Digest, NodeId, OrderId, Revision};

pub use self::{
    order::{Change, OrderKind, Put, check_documents, check_reason, create, place, remove, update},
    placement::Fleet,
    wish::{Wish, check_limits},
};

/// A standing wish, and the deployments that follow from it. A removed one is kept, because its name stays taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    pub name: AssignmentName,
    /// Rises by one with every order that changes what is meant. A `place` order leaves it as it is, or every update
    /// would be stale while nodes boot.
    pub revision: Revision,
    pub state: AssignmentState,
    /// What is meant. The profile has been chosen, and the targets are sorted and named once.
    pub spec: AssignmentSpec,
    /// The deployments by their nodes, also those that are to be removed.
    pub deployments: BTreeMap<NodeId, Deployment>,
}

/// What one node is to have of an assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Follows from tenant, assignment and node alone, so it stays the same through updates and a rebuild.
    pub id: DeploymentId,
    /// The DeviceId by which the document names the node. It stays what it was when the node joined.
    pub device: DeviceId,
    pub app: AppRef,
    pub profile: String,
    /// The revision of the assignment from which the document was made.
    pub revision: Revision,
    /// The order that last changed the deployment.
    pub order: OrderId,
    /// Digest of the document; `None` when the deployment is to be removed.
    pub digest: Option<Digest>,
}

/// A rule that a field of an order breaks.
fn broken(field: impl Into<String>, rule: impl Into<String>) -> FieldError {
    FieldError { field: field.into(), message: rule.into() }
}

#[cfg(test)]
mod tests;
