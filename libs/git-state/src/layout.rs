//! Where things stand in the repositories, and the documents of `fleet.git`. The layout is a contract, because
//! people read it and propose changes to it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use api::{AssignmentState, NodeState, Volumes};
use margo::{
    AppId, AppVersion, AssignmentName, ClientName, ComponentName, DeploymentId, DeviceId, Digest, Identity,
    LockedImages, NodeFolder, NodeId, NodeName, ParameterValue, RepositoryName, SiteName, TenantName,
};
use serde::{Deserialize, Serialize};

/// The branch of `fleet.git` that the platform writes and acts on.
pub const FLEET_BRANCH: &str = "main";
/// The branch of a client's repository that the client acts on.
pub const CLIENT_BRANCH: &str = "desired";

/// Returns the branch of this repository that git-writer writes.
pub fn branch(repository: &RepositoryName) -> &'static str {
    match repository {
        RepositoryName::Fleet => FLEET_BRANCH,
        RepositoryName::Client(_) => CLIENT_BRANCH,
    }
}

/// Returns the path of a repository. `folder` holds the repositories of all tenants.
pub fn repository(folder: &Path, tenant: &TenantName, repository: &RepositoryName) -> PathBuf {
    folder.join(tenant.as_str()).join(format!("{repository}.git"))
}

/// Returns the clients that have a repository, sorted. Folders with other names are passed over.
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

/// Returns the names of all repositories of a tenant: `fleet.git`, also while there is none, and those of its clients.
pub fn repositories(folder: &Path, tenant: &TenantName) -> std::io::Result<Vec<RepositoryName>> {
    let clients = clients(folder, tenant)?.into_iter().map(RepositoryName::Client);
    Ok(std::iter::once(RepositoryName::Fleet).chain(clients).collect())
}

/// Reads the file of a client from its path and content in `fleet.git`. It returns `None` for other files, and for
/// one whose content is not valid or names another client.
pub fn client_of(path: &str, content: &[u8]) -> Option<ClientFile> {
    let name = path.strip_prefix("clients/")?.strip_suffix(".yaml")?;
    let file: ClientFile = serde_saphyr::from_slice(content).ok()?;
    (file.name.as_str() == name).then_some(file)
}

/// Path in `fleet.git` of the exact bytes of an ApplicationDescription.
pub fn description(app: &AppId, version: &AppVersion) -> String {
    format!("apps/{app}/{version}/margo.yaml")
}

/// Path in `fleet.git` of an application's [`Origin`].
pub fn origin(app: &AppId, version: &AppVersion) -> String {
    format!("apps/{app}/{version}/origin.yaml")
}

/// Path in `fleet.git` of a [`SiteFile`].
pub fn site(site: &SiteName) -> String {
    format!("sites/{site}.yaml")
}

/// Path in `fleet.git` of a [`ClientFile`].
pub fn client(client: &ClientName) -> String {
    format!("clients/{client}.yaml")
}

/// Path in `fleet.git` of a [`NodeFile`].
pub fn node(node: &NodeId) -> String {
    format!("nodes/{}/{}.yaml", node.client, node.node)
}

/// Path in `fleet.git` of an [`AssignmentFile`]: in a folder by the sha256 of the name, as `printf %s NAME | sha256sum` shows
/// it, so that the cost of a commit does not follow the number of names.
pub fn assignment(name: &AssignmentName) -> String {
    format!("assignments/{}/{name}.yaml", folder_of(name))
}

/// Path in `fleet.git` of a [`PlacementFile`], in a folder as that of its assignment.
pub fn placement(name: &AssignmentName) -> String {
    format!("placements/{}/{name}.yaml", folder_of(name))
}

/// The first two hex digits of the sha256 of a name, and the third one below.
fn folder_of(name: &AssignmentName) -> String {
    let digest = Digest::of(name.as_str().as_bytes()).hex();
    format!("{}/{}", &digest[..2], &digest[2..3])
}

/// The trailer of every commit that gives, for each source of writes, the number of its last row that stands in the
/// repository.
pub const HANDLED_TRAILER: &str = "Handled";
/// The trailer of a client's commits that gives the version of the manifest.
pub const MANIFEST_VERSION_TRAILER: &str = "Manifest-Version";
/// The trailer that carries the trace on to whoever reads the commit.
pub const TRACEPARENT_TRAILER: &str = "Traceparent";

/// Path in a client's repository of the manifest's version: a decimal number and a line end.
pub const VERSION: &str = "VERSION";
/// Path in a client's repository of the head, which is the signed summary of the manifest.
pub const HEAD: &str = "head";
/// Path in a client's repository of the signature of [`HEAD`].
pub const HEAD_SIGNATURE: &str = "head.sig";
/// Path in a client's repository of the set of keys that may sign heads and commits.
pub const KEYS: &str = "KEYS";
/// Path in a client's repository of the signature of [`KEYS`] by the tenant's root key.
pub const KEYS_SIGNATURE: &str = "KEYS.sig";

/// Path in a client's repository of who a node is: a [`margo::NodeIdentity`].
pub fn node_identity(node: &NodeName) -> String {
    format!("nodes/{}/{node}/NODE", NodeFolder::of(node))
}

/// Path in a client's repository of the manifest's version at which this node last changed.
pub fn node_version(node: &NodeName) -> String {
    format!("nodes/{}/{node}/VERSION", NodeFolder::of(node))
}

/// Path in a client's repository of a deployment's document: the exact bytes that every road carries.
pub fn document(node: &NodeName, deployment: &DeploymentId) -> String {
    format!("nodes/{}/{node}/{deployment}.yaml", NodeFolder::of(node))
}

/// Path in a client's repository of a summary of a deployment for readers. Nothing acts on it.
pub fn summary(node: &NodeName, deployment: &DeploymentId) -> String {
    format!("nodes/{}/{node}/{deployment}.json", NodeFolder::of(node))
}

/// `apps/<app>/<version>/origin.yaml`: where an application came from, and the artifacts that it consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Origin {
    /// The way by which the application came.
    pub source: AppSource,
    /// Digest of the OCI manifest of the package.
    pub digest: Digest,
    /// The name of the caller who added the application.
    pub added_by: String,
    /// The digest of the OCI manifest of each component.
    pub lock: BTreeMap<ComponentName, Digest>,
    /// The container images of each component that has some, by the name that its files give an image and by platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<ComponentName, LockedImages>,
}

/// The ways by which an application comes into the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppSource {
    /// A caller sent the tar of an OCI image layout that holds the package and its components.
    Upload,
}

/// `sites/<site>.yaml`: a place with a Local Orchestrator (LO).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteFile {
    /// The name of the site.
    pub name: SiteName,
    /// The client that is the LO of the site.
    pub orchestrator: ClientName,
    /// Whether the site was ordered to be there. A site has the same states as a node.
    pub state: NodeState,
}

/// `clients/<client>.yaml`: the owner of one manifest and one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientFile {
    /// The name of the client.
    pub name: ClientName,
    /// The identity that the hub accepts when the client connects. It is absent after its key was revoked, until another one is
    /// ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Whether the client was ordered to be there. A client has the same states as a node.
    pub state: NodeState,
    /// The identities that the client had before, the oldest first. The hub never accepts one of them again, whoever shows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_keys: Vec<Identity>,
}

/// `nodes/<client>/<node>.yaml`: a machine that runs deployments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeFile {
    /// The name of the node, with that of its client.
    pub name: NodeId,
    /// The DeviceId by which Margo documents name the node.
    pub device_id: DeviceId,
    /// The identity that the site accepts when the node connects. It is absent after its key was revoked, until another one is
    /// ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The identities that the node had before, the oldest first. They never come into force again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Identity>,
    /// Whether the node was ordered to be there.
    pub state: NodeState,
    /// Labels that people gave to the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `assignments/<2>/<1>/<name>.yaml`: what people ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignmentFile {
    /// The name of the assignment.
    pub name: AssignmentName,
    /// Rises by one with every order of a person. An order by which the system places the assignment leaves it as it
    /// is.
    pub revision: u64,
    /// Whether the assignment stands. The file of a removed assignment stays, so that its name stays taken.
    pub state: AssignmentState,
    /// The application that shall run.
    pub app: AppId,
    /// The version of the application.
    pub version: AppVersion,
    /// The id of the profile that shall be deployed.
    pub profile: String,
    /// The values that were given. A parameter that is absent has its default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// The nodes on which the application shall run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// The sites on all of whose nodes the application shall run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<SiteName>,
    /// What becomes of its volumes when it is removed. When it is absent, the package decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Volumes>,
}

/// `placements/<2>/<1>/<name>.yaml`: what the system decided about an assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementFile {
    /// The assignment that is placed.
    pub assignment: AssignmentName,
    /// The nodes on which the assignment is placed, with what was decided for each.
    pub nodes: BTreeMap<NodeId, Placement>,
}

/// What was decided for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Placement {
    /// The id of the profile that was chosen.
    pub profile: String,
    /// The revision of the assignment that the node shall run.
    pub revision: u64,
    /// The id of the order that put it there.
    pub order: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(value: &impl Serialize) -> String {
        String::from_utf8(margo::to_yaml(value)).unwrap().trim_end().to_owned()
    }

    #[test]
    fn states_and_sources_stand_in_the_files_as_words_in_lower_case() {
        let states = [NodeState::Active, NodeState::Leaving, NodeState::Retired];
        assert_eq!(states.map(|state| word(&state)), ["active", "leaving", "retired"]);
        let states = [AssignmentState::Active, AssignmentState::Removed];
        assert_eq!(states.map(|state| word(&state)), ["active", "removed"]);
        assert_eq!(word(&AppSource::Upload), "upload");
    }

    #[test]
    fn names_stand_in_folders_that_sha256sum_tells() {
        // printf %s press | sha256sum
        assert_eq!(node_version(&"press".parse().unwrap()), "nodes/84/press/VERSION");
        assert_eq!(assignment(&"press".parse().unwrap()), "assignments/84/2/press.yaml");
        assert_eq!(placement(&"press".parse().unwrap()), "placements/84/2/press.yaml");
    }
}
