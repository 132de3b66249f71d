//! Deployments and what is known of them.

use margo::{AppId, AppVersion, AssignmentName, DeploymentId, NodeId, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is wanted of one deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DesiredDeployment {
    /// Its id.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// The assignment it follows from.
    #[schema(value_type = String)]
    pub assignment: AssignmentName,
    /// `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Which application.
    #[schema(value_type = String)]
    pub app: AppId,
    /// At which version.
    #[schema(value_type = String)]
    pub version: AppVersion,
    /// In which profile.
    pub profile: String,
    /// sha256 of the document; absent when it is to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Revision of the assignment that it follows from.
    pub revision: u64,
}

/// Why something failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureInfo {
    /// A stable word.
    pub code: String,
    /// The deployment's or the component's name.
    pub source: String,
    /// For people.
    pub message: String,
}

/// What a node last said of one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActualComponent {
    /// Its name.
    pub name: String,
    /// Its state.
    #[schema(value_type = String)]
    pub state: State,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureInfo>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// What a node last said of one deployment (`svc.status-collector.list`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActualDeployment {
    /// Its id.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// Who said it, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The digest it is about.
    pub digest: String,
    /// The overall state.
    #[schema(value_type = String)]
    pub state: State,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureInfo>,
    /// Its components.
    pub components: Vec<ActualComponent>,
    /// Manifest version whose revision of this deployment the node holds.
    pub adopted_manifest_version: u64,
    /// The node's clock, RFC 3339.
    pub reported_at: String,
}

/// A deployment for people: what is wanted and what is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// What is wanted.
    #[serde(flatten)]
    pub desired: DesiredDeployment,
    /// `pending` until the node speaks of the wanted digest.
    #[schema(value_type = String)]
    pub state: State,
    /// What the node last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<ActualDeployment>,
}

/// One line of a deployment's history (`svc.status-collector.history`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Who said it, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The digest it is about.
    pub digest: String,
    /// Absent for the deployment as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The state it came to.
    #[schema(value_type = String)]
    pub state: State,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureInfo>,
    /// Manifest version whose revision of this deployment the node held.
    pub adopted_manifest_version: u64,
    /// The node's clock, RFC 3339.
    pub at: String,
}

/// Names one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ById {
    /// Its id.
    pub id: DeploymentId,
}
