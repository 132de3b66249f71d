//! Sites and nodes.

use margo::{NodeId, SiteName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of POST `/sites`: a site and the client that is its LO, of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateSite {
    /// Never to be renamed or reused.
    #[schema(value_type = String)]
    pub name: SiteName,
    /// Public NKey (`U…`) of the LO. Its seed never leaves the credentials file.
    pub public_key: String,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of POST `/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateNode {
    /// `SITE/NODE`, never to be renamed or reused.
    #[schema(value_type = String)]
    pub name: NodeId,
    /// Public NKey (`U…`) of the node. Its seed never leaves the credentials file.
    pub public_key: String,
    /// Why, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to POST `/sites`, 201: what a site has to know besides its own seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteCreated {
    /// The order's id.
    pub order: String,
    /// The site.
    #[schema(value_type = String)]
    pub name: SiteName,
    /// Address of the hub's NATS server.
    pub hub: String,
    /// The tenant's root public key (OpenSSH): the one thing a site pins.
    pub root_key: String,
}

/// Answer to POST `/nodes`, 201.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeCreated {
    /// The order's id.
    pub order: String,
    /// The node.
    #[schema(value_type = String)]
    pub name: NodeId,
}

/// A site as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// Its name.
    #[schema(value_type = String)]
    pub name: SiteName,
    /// Public NKey of its LO.
    pub public_key: String,
    /// How many nodes it has.
    pub nodes: u64,
    /// Manifest version adopted by the site; absent until it spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_manifest_version: Option<u64>,
    /// The LO's clock at its last sign of life, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// What the site refused, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusalInfo>,
}

/// Something that was not accepted, for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusalInfo {
    /// What was refused.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// RFC 3339.
    pub at: String,
}

/// A node as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// `SITE/NODE`.
    #[schema(value_type = String)]
    pub name: NodeId,
    /// Its Margo DeviceId.
    pub device_id: String,
    /// Public NKey.
    pub public_key: String,
    /// Life as ordered.
    pub state: NodeState,
    /// As its LO judges it.
    pub reachability: Reachability,
    /// Since when, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Margo DeviceCapabilitiesManifest; absent until it spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub capabilities: Option<serde_json::Value>,
}

/// Life of a node as ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It takes deployments.
    Active,
    /// It is being removed.
    Leaving,
    /// It is gone; its name stays taken.
    Retired,
}

/// What the LO knows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// Its heartbeat is heard.
    Reachable,
    /// It was heard, and is no longer.
    Unreachable,
    /// Never heard.
    Unknown,
}

/// `site.<client>.nodes`: who may connect at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmittedNodes {
    /// All of them, sorted by name.
    pub nodes: Vec<AdmittedNode>,
}

/// One node that may connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmittedNode {
    /// Its name at the site.
    pub name: margo::NodeName,
    /// Public NKey.
    pub public_key: String,
}
