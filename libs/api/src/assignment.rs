//! Assignments and orders.

use std::collections::BTreeMap;

use margo::{AssignmentName, DeploymentId, NodeId, ParameterValue, SiteName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::AppRef;

/// What an assignment means: POST creates it, PUT (with `If-Match`) updates it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignmentSpec {
    /// Which application.
    pub app: AppRef,
    /// Which profile. Absent: the only one the application has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Values by name; what is absent has its default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// Where it shall run.
    pub targets: Targets,
}

/// Where an assignment shall run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Targets {
    /// Nodes by name, `SITE/NODE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub nodes: Vec<NodeId>,
    /// Every node of these sites, also those that join later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub sites: Vec<SiteName>,
}

/// Body of POST.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateAssignment {
    /// Never to be renamed or reused.
    #[schema(value_type = String)]
    pub name: AssignmentName,
    /// What it means.
    #[serde(flatten)]
    pub spec: AssignmentSpec,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of PUT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateAssignment {
    /// What it means from now on, whole.
    #[serde(flatten)]
    pub spec: AssignmentSpec,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An assignment as it stands. Its ETag is its revision in quotes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Its name.
    #[schema(value_type = String)]
    pub name: AssignmentName,
    /// Rises by one with every order of a person; a `place` order leaves it.
    pub revision: u64,
    /// What it means.
    #[serde(flatten)]
    pub spec: AssignmentSpec,
    /// `active` or `removed`.
    pub state: AssignmentState,
    /// The deployments that follow from it.
    pub placement: Vec<Placed>,
}

/// Whether an assignment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AssignmentState {
    /// It stands.
    Active,
    /// It was removed; its name stays taken.
    Removed,
}

/// A node that an assignment was placed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The deployment there.
    #[schema(value_type = String)]
    pub deployment: DeploymentId,
    /// The profile there.
    pub profile: String,
    /// sha256 of the document; absent when it is to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Answer to an order, 202: it is durable and will be carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The order's id.
    pub order: String,
    /// The assignment as it stands now.
    pub assignment: Assignment,
}

/// `svc.deployment-registry.update`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRequest {
    /// Which assignment.
    pub name: AssignmentName,
    /// Revision that `If-Match` names.
    pub revision: u64,
    /// The body.
    pub update: UpdateAssignment,
}

/// `svc.deployment-registry.remove`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveRequest {
    /// Which assignment.
    pub name: AssignmentName,
    /// Revision that `If-Match` names.
    pub revision: u64,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `svc.<service>.get` of something that has a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ByName<T> {
    /// The name.
    pub name: T,
}

/// One change of what is meant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Its id.
    pub id: String,
    /// create, update, remove or place.
    pub kind: String,
    /// The assignment it is about.
    #[schema(value_type = String)]
    pub assignment: AssignmentName,
    /// The revision it made.
    pub revision: u64,
    /// Who: the name of the token, or the service.
    pub requested_by: String,
    /// When, RFC 3339.
    pub requested_at: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The trace it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Whether it stands in Git.
    pub committed: bool,
}
