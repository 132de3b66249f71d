//! Margo documents and the words of the design as types: names, ids, digests, manifests.
//!
//! Pure: no IO, no async, no clock. Whatever enters the system is checked here once; from then on
//! the type is the proof. Rule ids in comments and tests (`WFM-…`, `DEV-…`, `APP-…`) are those of the
//! Margo specification digest, 1.0.0-rc.3.

mod deployment;
mod description;
mod digest;
mod document;
mod id;
mod manifest;
mod name;
mod parameter;
mod status;

pub use deployment::{
    ApplicationDeployment, DeployedComponent, DeployedProfile, DeploymentMetadata, DeploymentSpec, Lock,
};
pub use description::{
    ApplicationDescription, ComponentProperties, DataType, DeploymentProfile, DescribedComponent, DescribedParameter,
    ProfileType,
};
pub use digest::{Digest, InvalidDigest};
pub use document::{DocumentError, Extensions, MAX_DOCUMENT};
pub use id::{DeploymentId, DeviceId, InvalidId, ManifestVersion, NodeId};
pub use manifest::{Head, KeySet, ManifestError, ManifestList};
pub use name::{
    AppId, AppVersion, AssignmentName, ClientName, ComponentName, InvalidName, NodeName, SiteName, TenantName,
};
pub use parameter::{ParameterError, ParameterValue, Target, check_parameters};
pub use status::State;
