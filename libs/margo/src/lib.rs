//! Margo documents and the words of the design as types: names, ids, digests, manifests.
//!
//! The crate is pure: it does no IO and knows no clock. Whatever enters the system is checked here once; from then
//! on the type is the proof. Rule ids in comments and tests (`WFM-…`, `DEV-…`, `APP-…`) are those of the Margo
//! specification digest, 1.0.0-rc.3.
//!
//! A client's desired state is a list of digests, and a head that names the list and is signed:
//!
//! ```
//! use margo::{AssignmentName, ClientName, DeploymentId, NodeId, TenantName};
//! use margo::{Digest, Head, ManifestList, ManifestVersion, NodeEntry};
//!
//! let tenant = TenantName::default();
//! let node: NodeId = "plant/press".parse()?;
//! let assignment: AssignmentName = "hello".parse()?;
//! let deployment = DeploymentId::new(&tenant, &assignment, &node);
//! let deployments = [(deployment, Digest::of(b"id: hello\n"))].into();
//! let entry = NodeEntry { identity: None, version: ManifestVersion::FIRST, deployments };
//! let list = ManifestList::from_iter([(node.node, entry)]);
//!
//! let client: ClientName = "plant".parse()?;
//! let head = Head { tenant, client, version: ManifestVersion::FIRST, list: list.digest() };
//! assert_eq!(Head::parse(&head.to_bytes())?, head);
//! assert!("Press 1".parse::<ClientName>().is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod constraints;
mod data_type;
mod deployment;
mod description;
mod digest;
mod document;
mod document_error;
mod eligibility;
mod faults;
mod id;
mod identity;
mod list;
mod manifest;
mod name;
mod node_identity;
mod order;
mod parameter;
mod parameter_check;
mod parameter_error;
mod repository;
mod setting_schema;
mod size;
mod status;
mod wasm;
mod yaml;

pub use data_type::DataType;
pub use deployment::{
    ApplicationDeployment, DeployedComponent, DeployedProfile, DeploymentMetadata, DeploymentSpec, Lock, LockedImage,
    LockedImages,
};
pub use description::{
    ApplicationDescription, ComponentProperties, DeploymentProfile, DescribedComponent, DescribedParameter,
    FAILED_UPDATE, ProfileType,
};
pub use digest::{Digest, InvalidDigest};
pub use document::{Extensions, MAX_DOCUMENT};
pub use document_error::{DocumentError, DocumentErrors};
pub use id::{DeploymentId, DeviceId, InvalidId, ManifestVersion, NodeId};
pub use identity::{Identity, InvalidIdentity, InvalidNkey, UserNkey};
pub use list::{InvalidNodeFolder, ManifestList, NamedDeployments, NodeEntry, NodeFolder, parse_folder, parse_top};
pub use manifest::{Head, KeySet, ManifestError};
pub use name::{
    AppId, AppVersion, AssignmentName, ClientName, ComponentName, InvalidName, NodeName, ReaderName, SiteName,
    TenantName,
};
pub use node_identity::{MAX_FORMER_KEYS, NodeIdentity};
pub use order::{InvalidOrderId, OrderId, Revision};
pub use parameter::{ParameterValue, Target};
pub use parameter_check::{check_parameters, immutable_changes};
pub use parameter_error::ParameterError;
pub use repository::{InvalidRepositoryName, RepositoryName};
pub use setting_schema::SettingSchema;
pub use size::{InvalidSize, Size};
pub use status::{InvalidState, State};
pub use wasm::{Destination, Host, InvalidDestination, InvalidWasmSettings, Restart, WasmRole, WasmSettings};
pub use yaml::{to_yaml, yaml_options};
