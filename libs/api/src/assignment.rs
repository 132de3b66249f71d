//! Assignments, and the orders that change them.

use std::collections::BTreeMap;

use margo::{AssignmentName, DeploymentId, NodeId, ParameterValue, SiteName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AppRef;

/// What an assignment means. POST creates it with these fields, and PUT (with `If-Match`) replaces all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignmentSpec {
    /// The application that shall run, at one version.
    pub app: AppRef,
    /// The id of the profile to deploy. It may be absent when the application has only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Values of parameters by name. A parameter that is absent has its default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// Where the application shall run.
    pub targets: Targets,
    /// What becomes of its volumes on a node when the assignment is removed. When it is absent, the package decides, and without
    /// a word in the package they are kept. Only applications of containers have volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Volumes>,
}

/// What becomes of the volumes of an application when it is removed from a node. An update always leaves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Volumes {
    /// They stay on the node.
    Keep,
    /// They are deleted, with all data in them.
    Delete,
}

/// Where an assignment shall run: on the nodes that are named, and on all nodes of the sites that are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Targets {
    /// Nodes by name, `SITE/NODE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub nodes: Vec<NodeId>,
    /// Sites by name. Every node of such a site counts, also one that joins later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub sites: Vec<SiteName>,
}

/// Body of POST `/assignments`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateAssignment {
    /// The name of the new assignment. It is never changed, and never given to another assignment.
    #[schema(value_type = String)]
    pub name: AssignmentName,
    /// What the assignment means.
    #[serde(flatten)]
    pub spec: AssignmentSpec,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of PUT `/assignments/{name}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateAssignment {
    /// What the assignment means from now on; nothing of the earlier meaning is kept.
    #[serde(flatten)]
    pub spec: AssignmentSpec,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An assignment as it stands. Its ETag is its revision in quotes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The name that its creator chose.
    #[schema(value_type = String)]
    pub name: AssignmentName,
    /// Rises by one with every order of a person. An order by which the system places the assignment leaves it as it
    /// is.
    pub revision: u64,
    /// What the assignment means.
    #[serde(flatten)]
    pub spec: AssignmentSpec,
    /// Whether the assignment stands or was removed.
    pub state: AssignmentState,
    /// The deployments that follow from the assignment, one for each node.
    pub placement: Vec<Placed>,
}

/// Whether an assignment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssignmentState {
    /// The assignment stands, and its deployments are kept as it says.
    Active,
    /// The assignment was removed. Its name stays taken.
    Removed,
}

/// A node that an assignment was placed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// The node on which the assignment was placed, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The id of the deployment on this node.
    #[schema(value_type = String)]
    pub deployment: DeploymentId,
    /// The id of the profile that was chosen for this node.
    pub profile: String,
    /// Digest of the deployment's document. It is absent when the deployment is to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Answer to an order, 202: the order is durable and will be carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The order's id, which the audit and the commit name.
    pub order: String,
    /// The assignment as it stands with the order.
    pub assignment: Assignment,
}

/// Body of `svc.deployment-registry.update`: the PUT of an assignment, passed on by the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRequest {
    /// The assignment to change.
    pub name: AssignmentName,
    /// The revision that `If-Match` names. The request is refused when the assignment has another one.
    pub revision: u64,
    /// The body of the PUT.
    pub update: UpdateAssignment,
}

/// Body of `svc.deployment-registry.remove`: the DELETE of an assignment, passed on by the gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveRequest {
    /// The assignment to remove.
    pub name: AssignmentName,
    /// The revision that `If-Match` names. The request is refused when the assignment has another one.
    pub revision: u64,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of a request about one thing that has a name, such as `svc.<service>.get`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ByName<T> {
    /// The name of the thing.
    pub name: T,
}

/// One change of what is meant, as the audit keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The order's id, which the audit and the commit name.
    pub id: String,
    /// The kind of change: `create`, `update`, `remove` or `place`.
    pub kind: String,
    /// The assignment that was changed.
    #[schema(value_type = String)]
    pub assignment: AssignmentName,
    /// The revision that the assignment has with this order.
    pub revision: u64,
    /// Who gave the order: the name of the caller's token, or of the service.
    pub requested_by: String,
    /// When the order was given, RFC 3339.
    pub requested_at: String,
    /// Why the order was given, in the caller's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The id of the trace that the order began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Whether the order stands in Git.
    pub committed: bool,
}
