//! Sites and nodes, and what is known of them.

use margo::{ComponentName, DeviceId, Identity, NodeId, SiteName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RepositoryAccess;

/// An accepted identity as it stands in JSON: one field, which names the kind.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase", as = Identity)]
#[expect(dead_code, reason = "it only tells the OpenAPI document what margo::Identity looks like")]
pub(crate) enum IdentityForm {
    /// The public NKey of a NATS user: 56 characters beginning with `U`.
    Nkey(String),
}

/// Body of POST `/sites`: a site and the client that is its LO, of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateSite {
    /// The name of the site and of its client. It is never changed, and never given to another site.
    #[schema(value_type = String)]
    pub name: SiteName,
    /// What the LO proves to hold when it connects to the hub. Its seed never leaves the credentials file.
    #[schema(value_type = IdentityForm)]
    pub identity: Identity,
    /// A request (PKCS #10, PEM) to sign the site's own intermediate certificate, with which the site makes those of its
    /// servers. Its key never leaves the credentials file. Absent: the site's servers speak no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_request: Option<String>,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of POST `/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateNode {
    /// The node's name, `SITE/NODE`. It is never changed, and never given to another node.
    #[schema(value_type = String)]
    pub name: NodeId,
    /// What the node proves to hold when it connects to its site. Its seed never leaves the credentials file.
    #[schema(value_type = IdentityForm)]
    pub identity: Identity,
    /// The DeviceId by which Margo documents name the node; never to be changed. Absent: `SITE/NODE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub device_id: Option<DeviceId>,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to POST `/sites` and to PUT `/sites/{site}/key`: what a site has to know besides its own seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteAdmitted {
    /// The order's id, which the audit and the commit name.
    pub order: String,
    /// The name of the site.
    #[schema(value_type = String)]
    pub name: SiteName,
    /// The address of the hub's NATS server, which the LO connects to.
    pub hub: String,
    /// The base URL at which the LO asks for its login at the hub.
    pub minter: String,
    /// The tenant's root public key (OpenSSH): the one thing a site pins.
    pub root_key: String,
    /// The root certificates (PEM) by which the hub is known.
    pub root_certificates: String,
    /// The site's intermediate certificate (PEM), if one was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Where the repository of the site's desired state is read, with a token. It is absent while git-writer does not answer; GET
    /// `/sites/{site}/repository` tells it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryAccess>,
}

/// Answer to POST `/nodes` and to PUT `/nodes/{site}/{node}/key`: what a node has to know besides its own seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAdmitted {
    /// The order's id, which the audit and the commit name.
    pub order: String,
    /// The name of the node.
    #[schema(value_type = String)]
    pub name: NodeId,
    /// The root certificates (PEM) by which the node's site is known.
    pub root_certificates: String,
}

/// Body of PUT `/sites/{site}/key`: the key that takes the place of the one in force, which is revoked for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplaceSiteKey {
    /// What the LO will prove to hold when it connects to the hub. It was never that of any site or node.
    #[schema(value_type = IdentityForm)]
    pub identity: Identity,
    /// A request (PKCS #10, PEM) to sign an intermediate certificate with a new key, too. Absent: the site's servers speak no
    /// TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_request: Option<String>,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of PUT `/nodes/{site}/{node}/key`: the key that takes the place of the one in force, which is revoked for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplaceNodeKey {
    /// What the node will prove to hold when it connects to its site. It was never that of any site or node.
    #[schema(value_type = IdentityForm)]
    pub identity: Identity,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of `svc.node-capabilities.replace-site-key` and `.replace-node-key`: the PUT of a key, passed on by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplaceKeyRequest<N, R> {
    /// The site or node whose key is replaced.
    pub name: N,
    /// The body of the PUT.
    pub replace: R,
}

/// Body of `svc.node-capabilities.revoke-site-key` and `.revoke-node-key`: the DELETE of a key, passed on by the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevokeKeyRequest<N> {
    /// The site or node whose key is revoked.
    pub name: N,
    /// Why the caller orders it, for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to DELETE `/sites/{site}/key` and `/nodes/{site}/{node}/key`: no key of the site or node is in force any longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRevoked {
    /// The order's id, which the audit and the commit name.
    pub order: String,
    /// The name of the site, or that of the node, `SITE/NODE`.
    pub name: String,
    /// All identities that the site or node had, the oldest first. None of them is ever accepted again.
    #[schema(value_type = Vec<IdentityForm>)]
    pub former_keys: Vec<Identity>,
}

/// A site as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// The name of the site and of its client.
    #[schema(value_type = String)]
    pub name: SiteName,
    /// What the site's LO proves to hold when it connects to the hub. It is absent when its key was revoked and not replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<IdentityForm>)]
    pub identity: Option<Identity>,
    /// The identities that the site had before, the oldest first. None of them is ever accepted again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<IdentityForm>)]
    pub former_keys: Vec<Identity>,
    /// How many nodes the site has.
    pub nodes: u64,
    /// When the login expires with which the site's LO is connected to the hub, RFC 3339. It is renewed long before. It is
    /// absent while the site is not connected, and when that is not known now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_expires: Option<String>,
    /// The manifest version that the site has adopted. It is absent until the site has spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted_manifest_version: Option<u64>,
    /// The LO's clock at its last sign of life, RFC 3339. It is absent until the site has spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// What the site did not accept, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// Something that was not accepted, for operators to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// What was refused, such as the subject of a message.
    pub subject: String,
    /// Why it was refused, in words for people.
    pub reason: String,
    /// When it was refused, RFC 3339.
    pub at: String,
}

/// A node as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The node's name, `SITE/NODE`.
    #[schema(value_type = String)]
    pub name: NodeId,
    /// The DeviceId by which Margo documents name the node.
    #[schema(value_type = String)]
    pub device_id: DeviceId,
    /// What the node proves to hold when it connects to its site. It is absent when its key was revoked and not replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<IdentityForm>)]
    pub identity: Option<Identity>,
    /// The identities that the node had before, the oldest first. None of them is ever accepted again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<IdentityForm>)]
    pub former_keys: Vec<Identity>,
    /// Whether the node was ordered to be there.
    pub state: NodeState,
    /// Whether the node can be reached, as its LO judges.
    pub reachability: Reachability,
    /// The time since which the LO judges so, RFC 3339. It is absent until the LO has judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The Margo DeviceCapabilitiesManifest. It is absent until the node has spoken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub capabilities: Option<serde_json::Value>,
}

/// Whether a node was ordered to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// The node takes deployments.
    Active,
    /// The node is being removed.
    Leaving,
    /// The node is gone. Its name stays taken.
    Retired,
}

/// What the LO knows of a node from its heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reachability {
    /// The LO hears the node's heartbeats.
    Reachable,
    /// The LO has heard the node, and hears it no longer.
    Unreachable,
    /// The LO has not heard the node.
    Unknown,
}

/// Answer to `svc.node-capabilities.members`: what there is of the targets that the request names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Members {
    /// The named sites that exist, sorted.
    pub sites: Vec<SiteName>,
    /// The named nodes that exist, and all nodes of the named sites; sorted by name.
    pub nodes: Vec<Member>,
}

/// A node, as far as an order depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// The node's name, `SITE/NODE`.
    pub name: NodeId,
    /// The DeviceId by which Margo documents name the node. A node has the same one for ever.
    pub device_id: DeviceId,
    /// Whether the node was ordered to be there.
    pub state: NodeState,
}

/// Answer of a node that was asked whether it can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pinged {
    /// The time from the hub to the node and back, in milliseconds.
    pub milliseconds: u64,
}

/// The last lines that a workload wrote, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Logs {
    /// The lines, as the workload wrote them.
    pub lines: Vec<String>,
}

/// What a call to a deployment's workloads is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadCall {
    /// Only this component; all that the deployment has on its node when it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub component: Option<ComponentName>,
}

/// Answer of a node that did what it was called for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// The node, `SITE/NODE`.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// The time that it took, with the way there and back, in milliseconds.
    pub milliseconds: u64,
}
