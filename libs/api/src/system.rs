//! The state of the platform itself, and requests that only its services make.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Refusal;

/// Answer to GET `/status`: the state of the whole platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// Every service that answered.
    pub services: Vec<ServiceStatus>,
    /// The names of central services that did not answer.
    pub missing: Vec<String>,
    /// How many sites there are. Absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<u64>,
    /// How many nodes there are. Absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u64>,
    /// How many nodes their LO hears. Absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<u64>,
    /// How many deployments are wanted. Absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployments: Option<u64>,
    /// How many deployments run as wanted. Absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<u64>,
    /// How many messages no consumer could handle. Absent while nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
    /// What central services did not accept, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
}

/// One running service, as it answers discovery on the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The service's name, such as `git-writer`.
    pub name: String,
    /// The id of this process, which a restart changes.
    pub id: String,
    /// The version of the program.
    pub version: String,
    /// When the process started, RFC 3339.
    pub started: String,
    /// How many requests the service has answered or refused on the bus.
    pub requests: u64,
    /// How many requests failed.
    pub errors: u64,
}

/// Answer of an LO to GET `/api/v1/status` on its own port: what a site knows without the centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// The name of the site that the LO heads.
    pub site: String,
    /// Whether the LO is connected to the hub now.
    pub hub_connected: bool,
    /// The manifest version in force. It is absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_version: Option<u64>,
    /// When the site's login at the hub expires, RFC 3339. It is renewed long before. It is absent when it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_expires: Option<String>,
    /// The commit that the manifest came from. It is absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How many messages wait for the hub.
    pub waiting: u64,
    /// The nodes of the site.
    pub nodes: Vec<SiteNodeStatus>,
    /// What the site did not accept, the newest last.
    pub refusals: Vec<Refusal>,
}

/// A node as its LO knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteNodeStatus {
    /// The node's name within its site.
    pub name: String,
    /// Whether the node can be reached, judged by its heartbeats.
    pub reachability: crate::Reachability,
    /// The node's incarnation, which rises when it begins anew without its disk. It is 0 before the node registered.
    pub incarnation: u64,
    /// How many deployments are desired of the node.
    pub desired: u64,
    /// How many deployments run as wanted.
    pub installed: u64,
}

/// One of the sites that `svc.identity.logins` answers: it is connected to the hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteLogin {
    /// The site's client.
    pub client: String,
    /// The public key by which it has logged in.
    pub key: margo::UserNkey,
    /// When the login expires with which it is connected, RFC 3339. It is absent when it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// Body of `svc.identity.key` and `svc.local-orchestrator.key`, which ask for the key by which a member of a server logs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAsked {
    /// A client at the hub, a node of the site at a site.
    pub name: String,
}

/// Answer to [`KeyAsked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInForce {
    /// The public key in force. It is absent when there is none of this name, or none with a key in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<margo::UserNkey>,
}

/// Body of `svc.git-writer.handled`, which asks how far a repository is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandledRequest {
    /// The repository's name, `fleet` or `clients/<client>`.
    pub repository: String,
}

/// What the newest commit of a repository says of the sources of its writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The newest commit. It is absent when the repository does not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// By source, the number of its last row that stands in Git.
    pub handled: std::collections::BTreeMap<String, u64>,
}

/// Answer to `svc.local-orchestrator.artifacts`: the OCI manifests that the site's deployments name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedArtifacts {
    /// Names and digests of the manifests, sorted.
    pub artifacts: Vec<WantedArtifact>,
}

/// Answer to `svc.local-orchestrator.artifact`, whose body is a [`WantedArtifact`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsWanted {
    /// Whether a deployment of the site names the manifest.
    pub wanted: bool,
}

/// One OCI manifest, by name and digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WantedArtifact {
    /// The repository's name in the site's store, by which nodes ask for it: that in the platform's store, such as
    /// `hello`, or that in another registry behind the registry, such as `registry.example_5000/hello`.
    pub name: String,
    /// The digest of the manifest.
    pub digest: margo::Digest,
    /// The registry that has it, as host and port. It is absent for the platform's own store, and where nothing depends on
    /// it, as in the question of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
}
