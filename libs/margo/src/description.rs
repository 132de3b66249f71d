//! The ApplicationDescription (`margo.yaml`): the document in which a supplier offers an application (rule digest
//! §3.5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    AppId, AppVersion, ComponentName, DataType, DocumentError, ParameterValue, Size, Target, WasmSettings,
    document::{EXTENSION, extensible, ours, parse},
};

/// The setting of a profile, in Edgewright's own extension, that says what becomes of an update that fails: `restore`, as
/// without it, puts the last installed revision back; `leave` leaves the failed one and goes on trying it.
pub const FAILED_UPDATE: &str = "failedUpdate";

/// Both words that [`FAILED_UPDATE`] may have.
const RESTORE: &str = "restore";
pub(crate) const LEAVE: &str = "leave";

extensible! {
    /// An application as its supplier offers it: metadata, the profiles it can be deployed in, and its parameters.
    pub struct ApplicationDescription {
        /// The version of the document's own form, always `v1` (APP-01).
        api_version("apiVersion"): ApiVersion,
        /// The id by which catalogue, assignments and deployments name the application (APP-01).
        id("id"): AppId,
        /// The version, and what a catalogue shows to people.
        metadata("metadata"): Metadata,
        /// The ways to deploy the application. There is at least one.
        profiles("deploymentProfiles"): Vec<DeploymentProfile>,
        /// The values that a person may set, by name.
        parameters("parameters", default = BTreeMap::new()): BTreeMap<String, DescribedParameter>,
        /// How a user interface shows the parameters, and which data types they must have.
        configuration("configuration", default = None): Option<Configuration>,
    }
}

extensible! {
    /// One way to deploy the application.
    pub struct DeploymentProfile {
        /// The profile's id, 1 to 200 characters, unique in the document.
        id("id"): String,
        /// The kind of runtime that the profile needs.
        kind("type"): ProfileType,
        /// A description for people.
        description("description", default = None): Option<String>,
        /// What a device must have; it is copied unmodified into the deployment (WFM-27).
        device_constraints("deviceConstraints", default = None): Option<DeviceConstraints>,
        /// The components in the order in which they are installed (DEV-26). There is at least one.
        components("components"): Vec<DescribedComponent>,
    }
}

extensible! {
    /// One component of a profile: one artifact that is installed as a unit.
    pub struct DescribedComponent {
        /// The component's name, unique in its profile.
        name("name"): ComponentName,
        /// Where the artifact is and how it is installed.
        properties("properties"): ComponentProperties,
    }
}

/// The version of the form in which the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// The only version of the specification 1.0.0-rc.3. An unknown one is refused.
    #[serde(rename = "v1")]
    V1,
}

/// The kind of runtime that the components of a profile need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileType {
    /// Helm releases on Kubernetes.
    Helm,
    /// Containers that are described by Compose files.
    Compose,
    /// Anything else (APP-08). WebAssembly uses this kind and says so in an extension of the profile.
    Custom,
}

impl fmt::Display for ProfileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Helm => "helm",
            Self::Compose => "compose",
            Self::Custom => "custom",
        })
    }
}

/// Where a component's artifact is and how it is installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComponentProperties {
    /// The repository of the artifact, `oci://` and a registry with a path.
    pub repository: String,
    /// The tag of the artifact: SemVer without a leading `v`, in which `+` is written as `_` (APP-03).
    pub revision: String,
    /// Whether the next component waits until this one runs. When absent, it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// How long to wait, in minutes and seconds such as `8m30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// The version, and what a catalogue shows to people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The application's name for people; it may hold spaces.
    pub name: String,
    /// A description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The version of the application, which equals the tag of its package (APP-02).
    pub version: AppVersion,
    /// Who supplies the application, and texts about it.
    pub catalog: Catalog,
}

/// What a catalogue shows of an application and of those who made it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Texts and pictures about the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<CatalogApplication>,
    /// The people who wrote the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Vec<Author>>,
    /// The organisations that supply the application. There is at least one.
    pub organization: Vec<Organization>,
}

/// Texts and pictures about the application. Each field with a file names a layer of the package.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CatalogApplication {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_notes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tagline: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
}

/// A person who wrote the application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Author {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// An organisation that supplies the application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Organization {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// What a device must have to be eligible. A node evaluates the rules before it runs anything (DEV-24); capacities are kept and
/// passed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceConstraints {
    /// The processor, memory and storage that the application needs at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_requirements: Option<CapacityRequirements>,
    /// Rules about properties and labels of the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eligibility_rules: Option<Vec<EligibilityRule>>,
}

/// The processor, memory and storage that an application needs at least, in the specification's units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CapacityRequirements {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRequirement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Size>,
}

/// The number of cores, and the architectures that the artifact can run on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CpuRequirement {
    pub cores: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architectures: Option<Vec<Architecture>>,
}

/// A processor architecture, by the name that constraints use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub enum Architecture {
    Amd64,
    Arm64,
    Arm,
    Riscv64,
    Other,
}

/// A rule about the device's properties and labels. When both selectors are given, both must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct EligibilityRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property_selector: Option<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<Selector>,
}

/// A set of expressions, all of which must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Selector {
    pub match_expressions: Vec<MatchExpression>,
}

/// One comparison of a property or a label with values (APP-07).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct MatchExpression {
    pub key: String,
    pub operator: SelectorOperator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<ParameterValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item_selector: Option<Selector>,
}

/// How an expression compares the value that the device has with the values that are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub enum SelectorOperator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    ContainsAll,
    ContainsAny,
}

/// A parameter as the supplier describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribedParameter {
    /// The default. A parameter without one must be set in every assignment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<ParameterValue>,
    /// The places that the value goes to, in all profiles (APP-06).
    pub targets: Vec<Target>,
}

/// How a user interface shows the parameters, and the rules for their values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// The settings in the groups and the order in which they are shown.
    pub sections: Vec<Section>,
    /// The rules, which settings name.
    pub schema: Vec<SettingSchema>,
}

/// A group of settings that are shown together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Section {
    pub name: String,
    pub settings: Vec<Setting>,
}

/// One parameter as it is shown to people. It names its parameter and its rule; both must exist.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Setting {
    pub parameter: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable: Option<bool>,
    pub schema: String,
}

/// A rule for values. Of the rule only the data type is checked; the other fields are passed on to user interfaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct SettingSchema {
    pub name: String,
    pub data_type: DataType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_empty: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex_match: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_precision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_precision: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiselect: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<Vec<ParameterValue>>,
}

impl ApplicationDescription {
    /// Reads and checks a description; `file` is the name that its author knows. It fails with the first rule that is
    /// broken.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, DocumentError> {
        let description: Self = parse(bytes, file)?;
        description.check().map_err(|(field, rule)| DocumentError::rule(file, field, rule))?;
        Ok(description)
    }

    /// Returns the profile with this id, if there is one.
    pub fn profile(&self, id: &str) -> Option<&DeploymentProfile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// Returns the data type that the configuration demands of this parameter. It returns `None` when no setting shows
    /// the parameter.
    pub fn data_type(&self, parameter: &str) -> Option<DataType> {
        let configuration = self.configuration.as_ref()?;
        let settings = configuration.sections.iter().flat_map(|section| &section.settings);
        let schema = &settings.into_iter().find(|setting| setting.parameter == parameter)?.schema;
        configuration.schema.iter().find(|rule| rule.name == *schema).map(|rule| rule.data_type)
    }

    /// Checks the rules that lie between fields. An error is the path of the field and the rule.
    fn check(&self) -> Result<(), (String, String)> {
        if self.profiles.is_empty() {
            return Err(("deploymentProfiles".into(), "at least one profile".into()));
        }
        if self.metadata.catalog.organization.is_empty() {
            return Err(("metadata.catalog.organization".into(), "at least one organization".into()));
        }
        let mut profile_ids = BTreeSet::new();
        let mut components = BTreeSet::new();
        for (at, profile) in self.profiles.iter().enumerate() {
            let field = format!("deploymentProfiles[{at}]");
            if profile.id.is_empty() || profile.id.len() > 200 {
                return Err((format!("{field}.id"), "1 to 200 characters".into()));
            }
            if !profile_ids.insert(&profile.id) {
                return Err((format!("{field}.id"), format!("{:?} is used twice", profile.id)));
            }
            profile.check(&field)?;
            components.extend(profile.components.iter().map(|component| &component.name));
        }
        for (name, parameter) in &self.parameters {
            for (at, target) in parameter.targets.iter().enumerate() {
                // APP-06: a target names components that exist.
                if let Some(unknown) = target.components.iter().find(|name| !components.contains(name)) {
                    let field = format!("parameters.{name}.targets[{at}].components");
                    return Err((field, format!("no profile has a component {unknown:?}", unknown = unknown.as_str())));
                }
            }
        }
        self.configuration.as_ref().map_or(Ok(()), |configuration| self.check_configuration(configuration))
    }

    fn check_configuration(&self, configuration: &Configuration) -> Result<(), (String, String)> {
        for (s, section) in configuration.sections.iter().enumerate() {
            for (i, setting) in section.settings.iter().enumerate() {
                let field = format!("configuration.sections[{s}].settings[{i}]");
                if !self.parameters.contains_key(&setting.parameter) {
                    return Err((format!("{field}.parameter"), format!("no parameter {:?}", setting.parameter)));
                }
                let Some(schema) = configuration.schema.iter().find(|rule| rule.name == setting.schema) else {
                    return Err((format!("{field}.schema"), format!("no schema {:?}", setting.schema)));
                };
                let default = self.parameters[&setting.parameter].value.as_ref();
                if default.is_some_and(|value| !value.is(schema.data_type)) {
                    return Err((
                        format!("parameters.{}.value", setting.parameter),
                        format!("must be {}", schema.data_type),
                    ));
                }
            }
        }
        Ok(())
    }
}

impl DeploymentProfile {
    fn check(&self, field: &str) -> Result<(), (String, String)> {
        if self.components.is_empty() {
            return Err((format!("{field}.components"), "at least one component".into()));
        }
        if let Some(what) = ours(&self.extensions).and_then(|ours| ours.get(FAILED_UPDATE))
            && what != RESTORE
            && what != LEAVE
        {
            let field = format!("{field}.{EXTENSION}.{FAILED_UPDATE}");
            return Err((field, format!("must be {RESTORE} or {LEAVE}, not {what}")));
        }
        let capacities = self.device_constraints.as_ref().and_then(|it| it.capacity_requirements.as_ref());
        capacities.map_or(Ok(()), |it| it.check(&format!("{field}.deviceConstraints.capacityRequirements")))?;
        let mut names = BTreeSet::new();
        for (at, component) in self.components.iter().enumerate() {
            let field = format!("{field}.components[{at}]");
            if !names.insert(&component.name) {
                return Err((format!("{field}.name"), format!("{:?} is used twice", component.name.as_str())));
            }
            component.properties.check(&format!("{field}.properties"))?;
            if self.runtime() == Some("wasm") {
                let settings = component.extensions.get(EXTENSION).unwrap_or(&serde_json::Value::Null);
                WasmSettings::parse(settings).map_err(|refused| {
                    let dot = if refused.field.is_empty() { "" } else { "." };
                    (format!("{field}.{EXTENSION}{dot}{}", refused.field), refused.rule)
                })?;
            }
        }
        Ok(())
    }

    /// Returns the runtime that an extension of a `custom` profile names, such as `wasm`.
    pub fn runtime(&self) -> Option<&str> {
        let named = self.extensions.get(EXTENSION)?.get("runtime")?.as_str();
        named.filter(|_| self.kind == ProfileType::Custom)
    }
}

impl CapacityRequirements {
    fn check(&self, field: &str) -> Result<(), (String, String)> {
        let is_above_zero = |cpu: &CpuRequirement| cpu.cores.is_finite() && cpu.cores > 0.0;
        if !self.cpu.as_ref().is_none_or(is_above_zero) {
            return Err((format!("{field}.cpu.cores"), "must be a number above zero".into()));
        }
        for (name, size) in [("memory", self.memory), ("storage", self.storage)] {
            if size.is_some_and(|size| size.bytes() == 0) {
                return Err((format!("{field}.{name}"), "must be above zero, or it would demand nothing".into()));
            }
        }
        Ok(())
    }
}

impl ComponentProperties {
    fn check(&self, field: &str) -> Result<(), (String, String)> {
        if self.repository.strip_prefix("oci://").is_none_or(str::is_empty) {
            return Err((format!("{field}.repository"), "must be oci:// and a repository".into()));
        }
        // APP-03: `+` is not allowed in a tag and is written as `_`.
        if semver::Version::parse(&self.revision.replacen('_', "+", 1)).is_err() {
            return Err((format!("{field}.revision"), "must be SemVer 2.0 without a leading v, + written as _".into()));
        }
        if let Some(timeout) = &self.timeout
            && parse_timeout(timeout).is_none_or(|time| time.is_zero())
        {
            let rule = "must be minutes and seconds such as 8m30s, and longer than nothing";
            return Err((format!("{field}.timeout"), rule.into()));
        }
        Ok(())
    }

    /// Returns how long to wait for the component. It returns `None` when the document does not say it.
    pub fn timeout(&self) -> Option<std::time::Duration> {
        self.timeout.as_deref().and_then(parse_timeout)
    }
}

/// Reads `^\d+m\d+s$` with at most six digits each, so that the sum cannot overflow.
fn parse_timeout(text: &str) -> Option<std::time::Duration> {
    let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse::<u64>().ok() } else { None }
    };
    Some(std::time::Duration::from_secs(number(minutes)? * 60 + number(seconds)?))
}

#[cfg(test)]
#[path = "description/tests.rs"]
pub(crate) mod tests;
