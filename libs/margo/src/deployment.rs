//! The ApplicationDeployment: what one node is told to run, as exact YAML bytes (rule digest §3.2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    AppId, ApplicationDescription, AssignmentName, ComponentName, ComponentProperties, DeploymentId, DeviceId, Digest,
    DocumentError, NodeId, ParameterValue, ProfileType, Target, TenantName,
    description::DeviceConstraints,
    document::{DocumentError as Error, extensible, parse},
};

/// The name under which Edgewright's own data stands in a document (APP-11, WFM-34).
const EXTENSION: &str = "x-edgewright-extensions";

extensible! {
    /// One deployment. Its digest is the sha256 of the bytes of [`ApplicationDeployment::to_yaml`].
    pub struct ApplicationDeployment {
        /// Survives every change of content (WFM-26).
        id("id"): DeploymentId,
        /// Name, namespace and device.
        metadata("metadata"): DeploymentMetadata,
        /// What to run.
        spec("spec"): DeploymentSpec,
    }
}

/// Name, namespace and device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeploymentMetadata {
    /// The assignment's name.
    pub name: String,
    /// The tenant's name.
    pub namespace: String,
    /// The node that runs it.
    pub device_id: DeviceId,
    /// Only in the OpenAPI file of the specification.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

extensible! {
    /// What to run.
    pub struct DeploymentSpec {
        /// The `id` of the ApplicationDescription.
        application_id("applicationId"): AppId,
        /// The chosen profile with its components.
        profile("deploymentProfile"): DeployedProfile,
        /// The values in force. Optional in OpenAPI, required in the model: we always write it.
        parameters("parameters", default = BTreeMap::new()): BTreeMap<String, DeployedParameter>,
    }
}

extensible! {
    /// The chosen profile.
    pub struct DeployedProfile {
        /// Which kind of runtime it needs.
        kind("type"): ProfileType,
        /// In the order in which they are installed (WFM-31).
        components("components"): Vec<DeployedComponent>,
        /// Copied unmodified from the description (WFM-27).
        #[serde(skip_serializing_if = "Option::is_none")]
        device_constraints("deviceConstraints", default = None): Option<DeviceConstraints>,
    }
}

extensible! {
    /// One artifact to run.
    pub struct DeployedComponent {
        /// Unique in the profile.
        name("name"): ComponentName,
        /// Where the artifact is and how it is installed.
        properties("properties"): ComponentProperties,
    }
}

/// A parameter's value and where it goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployedParameter {
    /// The value in force.
    pub value: ParameterValue,
    /// Where it goes.
    pub targets: Vec<Target>,
}

/// The digests that this deployment is made of, fixed once per app version: the one signed digest of the
/// document covers them on every road.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Component → digest of its OCI manifest.
    pub components: BTreeMap<ComponentName, Digest>,
}

impl ApplicationDeployment {
    /// The document for one node. `parameters` are the values in force, checked before; a profile that the
    /// description does not have is the caller's mistake and gives `None`.
    pub fn new(
        tenant: &TenantName,
        assignment: &AssignmentName,
        node: &NodeId,
        description: &ApplicationDescription,
        profile: &str,
        parameters: &BTreeMap<String, ParameterValue>,
        lock: &Lock,
    ) -> Option<Self> {
        let profile = description.profile(profile)?;
        let components: Vec<_> = profile
            .components
            .iter()
            .map(|component| DeployedComponent {
                name: component.name.clone(),
                properties: component.properties.clone(),
                extensions: component.extensions.clone(),
            })
            .collect();
        let reaches = |target: &Target| components.iter().any(|component| target.components.contains(&component.name));
        let parameters = description
            .parameters
            .iter()
            .filter_map(|(name, parameter)| {
                let targets: Vec<_> = parameter.targets.iter().filter(|target| reaches(target)).cloned().collect();
                let value = parameters.get(name)?.clone();
                (!targets.is_empty()).then(|| (name.clone(), DeployedParameter { value, targets }))
            })
            .collect();
        let used = |(name, digest): (&ComponentName, &Digest)| {
            components.iter().any(|component| component.name == *name).then(|| (name.clone(), *digest))
        };
        let lock = Lock { components: lock.components.iter().filter_map(used).collect() };
        Some(Self {
            id: DeploymentId::new(tenant, assignment, node),
            metadata: DeploymentMetadata {
                name: assignment.to_string(),
                namespace: tenant.to_string(),
                device_id: node.into(),
                labels: BTreeMap::new(),
            },
            spec: DeploymentSpec {
                application_id: description.id.clone(),
                profile: DeployedProfile {
                    kind: profile.kind,
                    components,
                    device_constraints: profile.device_constraints.clone(),
                    extensions: profile.extensions.clone(),
                },
                parameters,
                extensions: BTreeMap::from([(EXTENSION.to_owned(), json!({ "lock": lock }))]),
            },
            extensions: BTreeMap::new(),
        })
    }

    /// Reads and checks a deployment; `file` is the name shown in errors.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, DocumentError> {
        let deployment: Self = parse(bytes, file)?;
        if deployment.spec.profile.components.is_empty() {
            return Err(Error::rule(file, "spec.deploymentProfile.components", "at least one component"));
        }
        deployment.lock().map_err(|rule| Error::rule(file, format!("spec.{EXTENSION}.lock"), rule))?;
        Ok(deployment)
    }

    /// The exact bytes that every road carries.
    pub fn to_yaml(&self) -> Vec<u8> {
        serde_saphyr::to_string(self).expect("strings, numbers, lists and maps always have a YAML form").into_bytes()
    }

    /// The digests of the components; empty when a foreign fleet manager wrote the document.
    pub fn lock(&self) -> Result<Lock, String> {
        match self.spec.extensions.get(EXTENSION).and_then(|ours| ours.get("lock")) {
            None => Ok(Lock::default()),
            Some(lock) => serde_json::from_value(lock.clone()).map_err(|error| error.to_string()),
        }
    }

    /// The environment of one component: every parameter that names it as a target.
    pub fn environment(&self, component: &ComponentName) -> BTreeMap<String, String> {
        let mut environment = BTreeMap::new();
        for parameter in self.spec.parameters.values() {
            for target in parameter.targets.iter().filter(|target| target.components.contains(component)) {
                environment.insert(target.pointer.clone(), parameter.value.to_env());
            }
        }
        environment
    }
}

/// Our own extension of an object, when it has one: `x-edgewright-extensions`.
fn ours(extensions: &BTreeMap<String, Value>) -> Option<&Value> {
    extensions.get(EXTENSION)
}

impl DeployedProfile {
    /// Edgewright's own data on this profile.
    pub fn edgewright(&self) -> Option<&Value> {
        ours(&self.extensions)
    }
}

impl DeployedComponent {
    /// Edgewright's own data on this component.
    pub fn edgewright(&self) -> Option<&Value> {
        ours(&self.extensions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::tests::HELLO;

    fn deployment() -> ApplicationDeployment {
        let description = ApplicationDescription::parse(HELLO.as_bytes(), "margo.yaml").unwrap();
        let parameters = BTreeMap::from([("greeting".to_owned(), ParameterValue::Text("120".to_owned()))]);
        let lock = Lock { components: BTreeMap::from([("hello".parse().unwrap(), Digest::of(b"artifact"))]) };
        ApplicationDeployment::new(
            &TenantName::default(),
            &"hello".parse().unwrap(),
            &"plant/press".parse().unwrap(),
            &description,
            "wasm",
            &parameters,
            &lock,
        )
        .unwrap()
    }

    #[test]
    fn wfm_27_device_extensions_are_copied_and_the_wfm_s_own_are_not() {
        let deployment = deployment();
        assert!(deployment.extensions.is_empty());
        assert_eq!(deployment.spec.profile.extensions["x-edgewright-extensions"], json!({ "runtime": "wasm" }));
        assert_eq!(deployment.spec.profile.components[0].edgewright().unwrap(), &json!({ "http": { "port": 8080 } }));
    }

    #[test]
    fn wfm_34_the_lock_stands_on_the_spec_and_is_read_back() {
        let bytes = deployment().to_yaml();
        let read = ApplicationDeployment::parse(&bytes, "d.yaml").unwrap();
        assert_eq!(read, deployment());
        assert_eq!(read.lock().unwrap().components[&"hello".parse().unwrap()], Digest::of(b"artifact"));
        assert_eq!(read.environment(&"hello".parse().unwrap()), BTreeMap::from([("GREETING".into(), "120".into())]));
    }

    #[test]
    fn the_bytes_of_a_document_never_change_by_themselves() {
        // Golden: another serialisation would give every deployment in the field a new digest.
        let text = String::from_utf8(deployment().to_yaml()).unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/deployment.yaml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden).unwrap());
    }

    #[test]
    fn documents_of_the_specification_are_read() {
        for name in ["gateway-autonomous", "gateway-directed"] {
            let path = format!("{}/tests/margo/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            let result = ApplicationDeployment::parse(&std::fs::read(path).unwrap(), name);
            // `gateway-01/*` lets a gateway choose the child; a device id of ours never ends so.
            assert_eq!(result.is_ok(), name == "gateway-directed", "{result:?}");
        }
    }
}
