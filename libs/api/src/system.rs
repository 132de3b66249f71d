//! The platform itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::RefusalInfo;

/// Answer to GET `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlatformStatus {
    /// Every service that answered.
    pub services: Vec<ServiceStatus>,
    /// Named services that did not answer.
    pub missing: Vec<String>,
    /// Sites in all, and nodes by reachability.
    pub sites: u64,
    /// Nodes in all.
    pub nodes: u64,
    /// Nodes that their LO hears.
    pub reachable: u64,
    /// Deployments wanted.
    pub deployments: u64,
    /// Deployments that run as wanted.
    pub installed: u64,
    /// Messages that no consumer could handle.
    pub dead_letters: u64,
    /// What central services refused, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<RefusalInfo>,
}

/// One running service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Of this process.
    pub id: String,
    /// Of the program.
    pub version: String,
    /// Since when, RFC 3339.
    pub started: String,
    /// Requests answered and refused on the bus.
    pub requests: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// Answer of an LO to GET `/api/v1/status` on its own port: what a site knows without the centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// The site.
    pub site: String,
    /// Whether the hub is connected now.
    pub hub_connected: bool,
    /// Manifest version in force; absent before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_version: Option<u64>,
    /// The commit it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Messages waiting for the hub.
    pub waiting: u64,
    /// Its nodes.
    pub nodes: Vec<SiteNodeStatus>,
    /// What it refused, newest last.
    pub refusals: Vec<RefusalInfo>,
}

/// A node as its LO knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteNodeStatus {
    /// Its name at the site.
    pub name: String,
    /// As judged by heartbeats.
    pub reachability: crate::Reachability,
    /// Its incarnation; 0 before it registered.
    pub incarnation: u64,
    /// Deployments desired.
    pub desired: u64,
    /// Deployments that run as wanted.
    pub installed: u64,
}

/// `svc.git-writer.handled`: how far a repository is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandledRequest {
    /// `fleet` or `clients/<client>`.
    pub repository: String,
}

/// What the tip of a repository says of its sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handled {
    /// The tip; absent when the repository does not exist yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Source → number of its last row that stands in Git.
    pub handled: std::collections::BTreeMap<String, u64>,
}

/// `svc.local-orchestrator.artifacts`: OCI manifests that the site's deployments name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedArtifacts {
    /// Repository name at the platform's store and manifest digest, sorted.
    pub artifacts: Vec<WantedArtifact>,
}

/// One OCI manifest by name and digest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WantedArtifact {
    /// Repository name, such as `hello`.
    pub name: String,
    /// Digest of the manifest.
    pub digest: margo::Digest,
}
