//! Deployments: what is wanted of them, and what nodes said of them.

use margo::{AppId, AppVersion, AssignmentName, DeploymentId, NodeId, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is wanted of one deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DesiredDeployment {
    /// The deployment's id, which survives every change of content.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// The assignment that the deployment follows from.
    #[schema(value_type = String)]
    pub assignment: AssignmentName,
    /// The node that shall run it, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The application that shall run.
    #[schema(value_type = String)]
    pub app: AppId,
    /// The version of the application.
    #[schema(value_type = String)]
    pub version: AppVersion,
    /// The id of the profile that was chosen for the node.
    pub profile: String,
    /// Digest of the deployment's document. It is absent when the deployment is to be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The revision of the assignment that the document was made from.
    pub revision: u64,
}

/// Why a deployment or a component failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A stable word that programs may compare, such as `digest-mismatch`.
    pub code: String,
    /// The name of the deployment or of the component that failed.
    pub source: String,
    /// What happened, in words for people.
    pub message: String,
    /// Digest of the revision that runs again because this one failed. It is absent when none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<String>,
}

/// What a node last said of one component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActualComponent {
    /// The component's name, unique in its profile.
    pub name: String,
    /// The state that the component is in.
    #[schema(value_type = String)]
    pub state: State,
    /// Why the component failed. It is absent when it did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The address at which the component answers. It is absent when the component does not listen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// How often the component had to be started again since it was applied.
    #[serde(default)]
    pub restarts: u32,
    /// The time that processors have spent on it since it was last started, in milliseconds. It is absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_milliseconds: Option<u64>,
    /// The memory that it held when it was last measured, in bytes. It is absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What a node last said of one deployment (`svc.status-collector.list`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActualDeployment {
    /// The deployment's id, which survives every change of content.
    #[schema(value_type = String)]
    pub id: DeploymentId,
    /// The node that said it, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Digest of the document that the status is about; it may be older than the one that is wanted.
    pub digest: String,
    /// The overall state, which is that of the most severe component.
    #[schema(value_type = String)]
    pub state: State,
    /// Why the deployment failed. It is absent when it did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What the node said of each component.
    pub components: Vec<ActualComponent>,
    /// The manifest version whose revision of this deployment the node holds.
    pub adopted_manifest_version: u64,
    /// The node's clock when it reported, RFC 3339.
    pub reported_at: String,
}

/// A deployment for people: what is wanted of it, and what its node last said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// What is wanted of the deployment.
    #[serde(flatten)]
    pub desired: DesiredDeployment,
    /// The state that the node reported for the wanted document; `pending` until the node speaks of that document.
    #[schema(value_type = String)]
    pub state: State,
    /// What the node last said. It is absent until the node has spoken of this deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<ActualDeployment>,
}

/// One line of a deployment's history (`svc.status-collector.history`): a deployment or a component came to a
/// state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// The node that said it, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Digest of the document that the node was carrying out.
    pub digest: String,
    /// The component's name. It is absent for the deployment as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// The state that it came to.
    #[schema(value_type = String)]
    pub state: State,
    /// Why it failed. It is absent when it did not fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The manifest version whose revision of this deployment the node held.
    pub adopted_manifest_version: u64,
    /// The node's clock at that moment, RFC 3339.
    pub at: String,
}

/// Body of `svc.status-collector.status`: a question for what a node last said of its deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAsked {
    /// The deployment's id.
    pub id: DeploymentId,
    /// The node that has the deployment. What others say of it does not count.
    pub node: NodeId,
}

/// Body of `svc.status-collector.history`: a question for what was said of one deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryAsked {
    /// The deployment's id, which survives every change of content.
    pub id: DeploymentId,
    /// The node that has the deployment. Others may say things of it, too, and are not listened to. When it is absent because
    /// nobody knows the deployment any longer, all are listened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
}
