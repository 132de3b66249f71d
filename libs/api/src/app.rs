//! The catalogue of applications, and how artifacts come to the platform's store and leave it.

use std::collections::BTreeMap;

use margo::{AppId, AppVersion, ComponentName, Digest, LockedImages};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An application at one version, as the catalogue lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct App {
    /// The `id` of its ApplicationDescription.
    #[schema(value_type = String)]
    pub id: AppId,
    /// The version, which is also the tag of its package.
    #[schema(value_type = String)]
    pub version: AppVersion,
    /// The application's name for people.
    pub name: String,
    /// The ways to deploy the application.
    pub profiles: Vec<AppProfile>,
    /// Digest of the OCI manifest of the package.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The name of the caller who added it.
    pub added_by: String,
    /// When it was added, RFC 3339.
    pub added_at: String,
}

/// One way to deploy an application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppProfile {
    /// The profile's id, which an assignment names.
    pub id: String,
    /// The kind of runtime that the profile needs: `helm`, `compose` or `custom`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: margo::ProfileType,
}

/// Answer to `svc.app-registry.get`: an application with all that a deployment of it is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AppContent {
    /// The application as the catalogue lists it.
    pub app: App,
    /// The exact text of `margo.yaml`.
    pub description: String,
    /// The digest of the OCI manifest of each component.
    #[schema(value_type = Object)]
    pub lock: BTreeMap<ComponentName, Digest>,
    /// The container images of each component that has some, by the name that its files give an image and by platform.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = Object)]
    pub images: BTreeMap<ComponentName, LockedImages>,
}

/// Names one application at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppRef {
    /// The `id` of its ApplicationDescription.
    #[schema(value_type = String)]
    pub id: AppId,
    /// The version, as the catalogue has it.
    #[schema(value_type = String)]
    pub version: AppVersion,
}

/// Answer to `svc.app-registry.upload`: the place to which one upload may go, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadTicket {
    /// The URL to which the tar of an OCI image layout is PUT.
    pub url: String,
    /// The bearer token of that request. It is accepted once.
    pub token: String,
}

/// Answer to `site.<client>.store`: where a site reads the platform's artifacts. The token is the site's own: it becomes
/// invalid when the site's key is no longer in force, and when the service that gave it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreAccess {
    /// The base URL of the OCI Distribution API, without `/v2`.
    pub url: String,
    /// The bearer token of each request.
    pub token: String,
}
