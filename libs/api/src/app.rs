//! The catalogue.

use std::collections::BTreeMap;

use margo::{AppId, AppVersion, ComponentName, Digest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An application at a version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// The id of its description.
    #[schema(value_type = String)]
    pub id: AppId,
    /// Its version.
    #[schema(value_type = String)]
    pub version: AppVersion,
    /// For people.
    pub name: String,
    /// The ways to deploy it.
    pub profiles: Vec<AppProfile>,
    /// Digest of the package's OCI manifest.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Who added it.
    pub added_by: String,
    /// When.
    pub added_at: String,
}

/// One way to deploy an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppProfile {
    /// The profile's id.
    pub id: String,
    /// helm, compose or custom.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: margo::ProfileType,
}

/// `svc.app-registry.get`: an application with all that a deployment is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppContent {
    /// The catalogue's entry.
    pub app: App,
    /// Exact text of `margo.yaml`.
    pub description: String,
    /// Component → digest of its OCI manifest.
    #[schema(value_type = Object)]
    pub lock: BTreeMap<ComponentName, Digest>,
}

/// Names one application at a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppRef {
    /// The id of its description.
    #[schema(value_type = String)]
    pub id: AppId,
    /// Its version.
    #[schema(value_type = String)]
    pub version: AppVersion,
}

/// `svc.app-registry.upload`: where one upload may go, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadTicket {
    /// PUT the tar of an OCI image layout here.
    pub url: String,
    /// As a bearer token.
    pub token: String,
}

/// `site.<client>.store`: where the platform's artifacts are read. The token ends with the service that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreAccess {
    /// Base of the OCI Distribution API, without `/v2`.
    pub url: String,
    /// As a bearer token.
    pub token: String,
}
