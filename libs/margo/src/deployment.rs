//! The ApplicationDeployment: the document that tells one node what to run, as exact YAML bytes (rule digest §3.2).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    AppId, ApplicationDescription, AssignmentName, ComponentName, ComponentProperties, DeploymentId, DeviceId, Digest,
    DocumentError, NodeId, ParameterValue, ProfileType, Target, TenantName,
    constraints::DeviceConstraints,
    description::{FAILED_UPDATE, LEAVE},
    document::{EXTENSION, extensible, ours, parse},
    yaml::to_yaml,
};

extensible! {
    /// The document that tells one node to run one application. Its digest is the sha256 of the bytes that
    /// [`ApplicationDeployment::to_yaml`] returns.
    pub struct ApplicationDeployment {
        /// The id of the deployment, which survives every change of content (WFM-26).
        id("id"): DeploymentId,
        /// Names the assignment, the tenant and the device that the document is about.
        metadata("metadata"): DeploymentMetadata,
        /// Says which components run, and with which values.
        spec("spec"): DeploymentSpec,
    }
}

/// The names by which people and the device recognise the deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeploymentMetadata {
    /// The assignment's name, when Edgewright wrote the document.
    pub name: String,
    /// The tenant's name, when Edgewright wrote the document.
    pub namespace: String,
    /// The device that has to run the application.
    pub device_id: DeviceId,
    /// Free labels. Only the OpenAPI file of the specification has them; Edgewright writes none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

extensible! {
    /// The chosen profile of the application with the values in force.
    pub struct DeploymentSpec {
        /// The `id` of the ApplicationDescription that the deployment was made from.
        application_id("applicationId"): AppId,
        /// The profile that was chosen, with its components.
        profile("deploymentProfile"): DeployedProfile,
        /// The values in force, by name. They are optional in the OpenAPI file and required in the model, so they are
        /// always written.
        parameters("parameters", default = BTreeMap::new()): BTreeMap<String, DeployedParameter>,
    }
}

extensible! {
    /// The profile that the deployment uses, with all that the device needs of it.
    pub struct DeployedProfile {
        /// The kind of runtime that the components need.
        kind("type"): ProfileType,
        /// The components in the order in which they are installed (WFM-31). There is at least one.
        components("components"): Vec<DeployedComponent>,
        /// What the device must have, copied unmodified from the description (WFM-27).
        #[serde(skip_serializing_if = "Option::is_none")]
        device_constraints("deviceConstraints", default = None): Option<DeviceConstraints>,
    }
}

extensible! {
    /// One component: one artifact that is installed as a unit.
    pub struct DeployedComponent {
        /// The component's name, unique in its profile.
        name("name"): ComponentName,
        /// Where the artifact is and how it is installed, copied from the description.
        properties("properties"): ComponentProperties,
    }
}

/// A parameter's value with the places it goes to. Targets that reach no component of the profile are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployedParameter {
    /// The value in force: the one that was given, or the default.
    pub value: ParameterValue,
    /// The places that the value goes to.
    pub targets: Vec<Target>,
}

/// The digests of the artifacts that a deployment uses, fixed once per version of an application. They stand in the
/// document, so that its one signed digest covers the artifacts on every road.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The digest of the OCI manifest of each component.
    pub components: BTreeMap<ComponentName, Digest>,
    /// The container images of each component that has some.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<ComponentName, LockedImages>,
}

/// The container images of one component: by the name that its files give an image, then by platform, such as `linux/amd64`.
pub type LockedImages = BTreeMap<String, BTreeMap<String, LockedImage>>;

/// One container image for one platform. Its manifest stands in the repository of the component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// The digest of the image's OCI manifest.
    pub manifest: Digest,
    /// The id of the image, which is the digest of its config. The config names what the layers hold, so the id stands for
    /// the whole image.
    pub id: Digest,
}

impl ApplicationDeployment {
    /// Makes the document for one node, which names the node by its DeviceId. `parameters` are the values in force, as [`crate::check_parameters`] returned
    /// them. It returns `None` when the description has no such profile, which is a mistake of the caller.
    #[expect(clippy::too_many_arguments, reason = "each is another part of the document, and none has a default")]
    pub fn new(
        tenant: &TenantName,
        assignment: &AssignmentName,
        node: &NodeId,
        device: DeviceId,
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
        let is_used = |name: &ComponentName| components.iter().any(|component| component.name == *name);
        let mut lock = lock.clone();
        lock.components.retain(|name, _| is_used(name));
        lock.images.retain(|name, _| is_used(name));
        Some(Self {
            id: DeploymentId::new(tenant, assignment, node),
            metadata: DeploymentMetadata {
                name: assignment.to_string(),
                namespace: tenant.to_string(),
                device_id: device,
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

    /// Sets one of Edgewright's own settings on every component, in the place of what the package says there.
    pub fn set_on_components(&mut self, setting: &str, value: &str) {
        for component in &mut self.spec.profile.components {
            let ours = component.extensions.entry(EXTENSION.to_owned()).or_insert_with(|| json!({}));
            if let Some(ours) = ours.as_object_mut() {
                ours.insert(setting.to_owned(), value.into());
            }
        }
    }

    /// Reads and checks a deployment; `file` is the name that errors show. It fails with the first rule that is
    /// broken.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, DocumentError> {
        let deployment: Self = parse(bytes, file)?;
        if deployment.spec.profile.components.is_empty() {
            return Err(DocumentError::rule(file, "spec.deploymentProfile.components", "at least one component"));
        }
        deployment.lock().map_err(|rule| DocumentError::rule(file, format!("spec.{EXTENSION}.lock"), rule))?;
        Ok(deployment)
    }

    /// Returns the exact bytes that every road carries and that the digest is computed from.
    pub fn to_yaml(&self) -> Vec<u8> {
        to_yaml(self)
    }

    /// Returns the digests of the components. They are empty when a foreign fleet manager wrote the document, and an
    /// error when the extension has another form.
    pub fn lock(&self) -> Result<Lock, String> {
        match self.spec.extensions.get(EXTENSION).and_then(|ours| ours.get("lock")) {
            None => Ok(Lock::default()),
            Some(lock) => serde_json::from_value(lock.clone()).map_err(|error| error.to_string()),
        }
    }

    /// Returns the values that this component receives, by the pointer of their target. Of two parameters with the same
    /// target the one whose name comes later counts.
    pub fn values(&self, component: &ComponentName) -> BTreeMap<String, ParameterValue> {
        let mut values = BTreeMap::new();
        for parameter in self.spec.parameters.values() {
            for target in parameter.targets.iter().filter(|target| target.components.contains(component)) {
                values.insert(target.pointer.clone(), parameter.value.clone());
            }
        }
        values
    }

    /// Returns [`ApplicationDeployment::values`] as a process receives them: as texts by the name of a variable.
    pub fn environment(&self, component: &ComponentName) -> BTreeMap<String, String> {
        self.values(component).into_iter().map(|(pointer, value)| (pointer, value.to_env())).collect()
    }
}

impl DeployedProfile {
    /// Returns Edgewright's own data on this profile, if there is any.
    pub fn edgewright(&self) -> Option<&Value> {
        ours(&self.extensions)
    }

    /// Whether an update to this profile that fails is left as it is, by [`FAILED_UPDATE`].
    pub fn leaves_failed_update(&self) -> bool {
        self.edgewright().and_then(|ours| ours.get(FAILED_UPDATE)).is_some_and(|what| what == LEAVE)
    }
}

impl DeployedComponent {
    /// Returns Edgewright's own data on this component, if there is any.
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
        let components = BTreeMap::from([("hello".parse().unwrap(), Digest::of(b"artifact"))]);
        let lock = Lock { components, ..Lock::default() };
        ApplicationDeployment::new(
            &TenantName::default(),
            &"hello".parse().unwrap(),
            &"plant/press".parse().unwrap(),
            "plant/press".parse().unwrap(),
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
