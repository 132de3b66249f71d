//! Where things stand in the repositories, and the documents of `fleet.git`. A contract: people read and propose them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bus::Repository;
use margo::{
    AppId, AppVersion, AssignmentName, ClientName, ComponentName, DeploymentId, DeviceId, Digest, NodeId, NodeName,
    ParameterValue, SiteName, TenantName,
};
use serde::{Deserialize, Serialize};

/// Branch of `fleet.git`.
pub const FLEET_BRANCH: &str = "main";
/// Branch of a client's repository.
pub const CLIENT_BRANCH: &str = "desired";

/// The branch that git-writer writes.
pub fn branch(repository: &Repository) -> &'static str {
    match repository {
        Repository::Fleet => FLEET_BRANCH,
        Repository::Client(_) => CLIENT_BRANCH,
    }
}

/// Where a repository stands. `folder` is the one of all tenants.
pub fn repository(folder: &Path, tenant: &TenantName, repository: &Repository) -> PathBuf {
    folder.join(tenant.as_str()).join(format!("{repository}.git"))
}

/// The clients that have a repository, sorted.
pub fn clients(folder: &Path, tenant: &TenantName) -> std::io::Result<Vec<ClientName>> {
    let entries = match folder.join(tenant.as_str()).join("clients").read_dir() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut clients = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        clients.extend(name.to_str().and_then(|name| name.strip_suffix(".git")?.parse().ok()));
    }
    clients.sort();
    Ok(clients)
}

/// A client's name and the state of its life, from a path and content of `fleet.git`; nothing for other files.
pub fn client_of(path: &str, content: &[u8]) -> Option<ClientFile> {
    let name = path.strip_prefix("clients/")?.strip_suffix(".yaml")?;
    let file: ClientFile = serde_saphyr::from_slice(content).ok()?;
    (file.name.as_str() == name).then_some(file)
}

/// Exact bytes of an ApplicationDescription.
pub fn description(app: &AppId, version: &AppVersion) -> String {
    format!("apps/{app}/{version}/margo.yaml")
}

/// Where an application came from: [`Origin`].
pub fn origin(app: &AppId, version: &AppVersion) -> String {
    format!("apps/{app}/{version}/origin.yaml")
}

/// [`SiteFile`].
pub fn site(site: &SiteName) -> String {
    format!("sites/{site}.yaml")
}

/// [`ClientFile`].
pub fn client(client: &ClientName) -> String {
    format!("clients/{client}.yaml")
}

/// [`NodeFile`].
pub fn node(node: &NodeId) -> String {
    format!("nodes/{}/{}.yaml", node.client, node.node)
}

/// [`AssignmentFile`].
pub fn assignment(name: &AssignmentName) -> String {
    format!("assignments/{name}.yaml")
}

/// [`PlacementFile`].
pub fn placement(name: &AssignmentName) -> String {
    format!("placements/{name}.yaml")
}

/// Trailer of every commit: the number of the last row of each source that stands in the repository.
pub const HANDLED_TRAILER: &str = "Handled";
/// Trailer of a client's commits.
pub const MANIFEST_VERSION_TRAILER: &str = "Manifest-Version";
/// Trailer that carries the trace on to whoever reads the commit.
pub const TRACEPARENT_TRAILER: &str = "Traceparent";

/// In a client's repository: manifestVersion.
pub const VERSION: &str = "VERSION";
/// In a client's repository: the signed summary.
pub const HEAD: &str = "head";
/// In a client's repository: its signature.
pub const HEAD_SIGNATURE: &str = "head.sig";
/// In a client's repository: the keys in force.
pub const KEYS: &str = "KEYS";
/// In a client's repository: their signature.
pub const KEYS_SIGNATURE: &str = "KEYS.sig";

/// In a client's repository: manifestVersion at which this node last changed.
pub fn node_version(node: &NodeName) -> String {
    format!("nodes/{node}/VERSION")
}

/// In a client's repository: the exact bytes that every road carries.
pub fn document(node: &NodeName, deployment: &DeploymentId) -> String {
    format!("nodes/{node}/{deployment}.yaml")
}

/// In a client's repository: for readers; nothing acts on it.
pub fn summary(node: &NodeName, deployment: &DeploymentId) -> String {
    format!("nodes/{node}/{deployment}.json")
}

/// A document of `fleet.git` as YAML bytes.
pub fn to_yaml(document: &impl Serialize) -> Vec<u8> {
    serde_saphyr::to_string(document).expect("strings, numbers, lists and maps always have a YAML form").into_bytes()
}

/// `apps/<app>/<version>/origin.yaml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Origin {
    /// Where it came from: `upload`.
    pub source: String,
    /// Digest of the package's OCI manifest.
    pub digest: Digest,
    /// Who added it.
    pub added_by: String,
    /// Component → digest of its OCI manifest.
    pub lock: BTreeMap<ComponentName, Digest>,
}

/// `sites/<site>.yaml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteFile {
    /// Its name.
    pub name: SiteName,
    /// The client that is its LO.
    pub orchestrator: ClientName,
    /// active, leaving or retired.
    pub state: String,
}

/// `clients/<client>.yaml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientFile {
    /// Its name.
    pub name: ClientName,
    /// Public NKey of its user at the hub.
    pub public_key: String,
    /// active, leaving or retired.
    pub state: String,
}

/// `nodes/<client>/<node>.yaml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFile {
    /// Its name.
    pub name: NodeId,
    /// Its Margo DeviceId.
    pub device_id: DeviceId,
    /// Public NKey of its user at the site: its accepted identity.
    pub public_key: String,
    /// active, leaving or retired.
    pub state: String,
    /// Labels that people gave it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `assignments/<name>.yaml`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignmentFile {
    /// Its name.
    pub name: AssignmentName,
    /// Rises by one with every order of a person; a `place` order leaves it.
    pub revision: u64,
    /// active or removed; the file stays, so the name stays taken.
    pub state: String,
    /// Which application.
    pub app: AppId,
    /// At which version.
    pub version: AppVersion,
    /// In which profile.
    pub profile: String,
    /// Values that were given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// Nodes by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// Sites with all their nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteName>,
}

/// `placements/<name>.yaml`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementFile {
    /// The assignment.
    pub assignment: AssignmentName,
    /// What the system decided, by node.
    pub nodes: BTreeMap<NodeId, Placement>,
}

/// One node's part in a placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The chosen profile.
    pub profile: String,
    /// The assignment's revision that runs there.
    pub revision: u64,
    /// The order that put it there.
    pub order: String,
}
