//! The ApplicationDescription (`margo.yaml`): what a supplier offers (rule digest §3.5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{
    AppId, AppVersion, ComponentName, DocumentError, ParameterValue, Target,
    document::{extensible, parse},
};

extensible! {
    /// What a supplier offers: metadata, the profiles it can be deployed in, its parameters.
    pub struct ApplicationDescription {
        /// Always `v1` (APP-01).
        api_version("apiVersion"): ApiVersion,
        /// Identifies the application (APP-01).
        id("id"): AppId,
        /// For the catalogue.
        metadata("metadata"): Metadata,
        /// The ways to deploy it, one or more.
        profiles("deploymentProfiles"): Vec<DeploymentProfile>,
        /// What a person may set, by name.
        parameters("parameters", default = BTreeMap::new()): BTreeMap<String, DescribedParameter>,
        /// How the parameters are shown and checked.
        configuration("configuration", default = None): Option<Configuration>,
    }
}

extensible! {
    /// One way to deploy the application.
    pub struct DeploymentProfile {
        /// Unique in the document.
        id("id"): String,
        /// Which kind of runtime it needs.
        kind("type"): ProfileType,
        /// For people.
        description("description", default = None): Option<String>,
        /// What a device must have; copied unmodified into the deployment (WFM-27).
        device_constraints("deviceConstraints", default = None): Option<DeviceConstraints>,
        /// In the order in which they are installed (DEV-26).
        components("components"): Vec<DescribedComponent>,
    }
}

extensible! {
    /// One part of a profile: one artifact.
    pub struct DescribedComponent {
        /// Unique in its profile.
        name("name"): ComponentName,
        /// Where the artifact is and how it is installed.
        properties("properties"): ComponentProperties,
    }
}

/// The version of the document's own form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// The only one of 1.0.0-rc.3; an unrecognised one is refused.
    #[serde(rename = "v1")]
    V1,
}

/// The kind of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileType {
    /// Helm releases on Kubernetes.
    Helm,
    /// Compose containers.
    Compose,
    /// Anything else; ours is WebAssembly (APP-08).
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
    /// `oci://…`
    pub repository: String,
    /// SemVer without a leading `v`, `+` written as `_` (APP-03).
    pub revision: String,
    /// Whether to wait until it runs before the next component starts. Absent: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// How long to wait, such as `8m30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// For the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// For people; may hold spaces.
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Equals the package's tag (APP-02).
    pub version: AppVersion,
    /// Who and what.
    pub catalog: Catalog,
}

/// Who and what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// The application for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<CatalogApplication>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<Vec<Author>>,
    /// Who supplies it.
    pub organization: Vec<Organization>,
}

/// The application for people; the files are layers of the package.
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

/// Who wrote it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Author {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// Who supplies it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Organization {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// What a device must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceConstraints {
    /// At least this much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_requirements: Option<CapacityRequirements>,
    /// One of these must hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eligibility_rules: Option<Vec<EligibilityRule>>,
}

/// At least this much.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CapacityRequirements {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRequirement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
}

/// Cores and architectures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct CpuRequirement {
    pub cores: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architectures: Option<Vec<Architecture>>,
}

/// A processor architecture as constraints name it.
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

/// Both selectors must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct EligibilityRule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub property_selector: Option<Selector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<Selector>,
}

/// Every expression must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Selector {
    pub match_expressions: Vec<MatchExpression>,
}

/// One comparison (APP-07).
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

/// How an expression compares.
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
    /// The default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<ParameterValue>,
    /// Where it goes (APP-06).
    pub targets: Vec<Target>,
}

/// How the parameters are shown and checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Groups of settings.
    pub sections: Vec<Section>,
    /// The rules that settings name.
    pub schema: Vec<SettingSchema>,
}

/// A group of settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names are the specification's and say it")]
pub struct Section {
    pub name: String,
    pub settings: Vec<Setting>,
}

/// One parameter for people.
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

/// A rule for values.
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

/// The data types of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataType {
    /// A text.
    #[serde(rename = "string")]
    Text,
    /// A whole number.
    #[serde(rename = "integer")]
    Integer,
    /// A number.
    #[serde(rename = "double")]
    Double,
    /// True or false.
    #[serde(rename = "boolean")]
    Boolean,
    /// A list of texts.
    #[serde(rename = "array[string]")]
    TextList,
    /// A list of whole numbers.
    #[serde(rename = "array[integer]")]
    IntegerList,
    /// A list of numbers.
    #[serde(rename = "array[double]")]
    DoubleList,
    /// A list of truth values.
    #[serde(rename = "array[boolean]")]
    BooleanList,
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "a string",
            Self::Integer => "an integer",
            Self::Double => "a number",
            Self::Boolean => "true or false",
            Self::TextList => "a list of strings",
            Self::IntegerList => "a list of integers",
            Self::DoubleList => "a list of numbers",
            Self::BooleanList => "a list of true or false",
        })
    }
}

impl ApplicationDescription {
    /// Reads and checks a description; `file` is the name its author knows.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, DocumentError> {
        let description: Self = parse(bytes, file)?;
        description.check().map_err(|(field, rule)| DocumentError::rule(file, field, rule))?;
        Ok(description)
    }

    /// The profile with this id.
    pub fn profile(&self, id: &str) -> Option<&DeploymentProfile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// The data type that the configuration demands of this parameter.
    pub fn data_type(&self, parameter: &str) -> Option<DataType> {
        let configuration = self.configuration.as_ref()?;
        let settings = configuration.sections.iter().flat_map(|section| &section.settings);
        let schema = &settings.into_iter().find(|setting| setting.parameter == parameter)?.schema;
        configuration.schema.iter().find(|rule| rule.name == *schema).map(|rule| rule.data_type)
    }

    /// The rules that lie between fields.
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
                // APP-06
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
        let mut names = BTreeSet::new();
        for (at, component) in self.components.iter().enumerate() {
            let field = format!("{field}.components[{at}]");
            if !names.insert(&component.name) {
                return Err((format!("{field}.name"), format!("{:?} is used twice", component.name.as_str())));
            }
            component.properties.check(&format!("{field}.properties"))?;
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
            && parse_timeout(timeout).is_none()
        {
            return Err((format!("{field}.timeout"), "must be minutes and seconds such as 8m30s".into()));
        }
        Ok(())
    }

    /// How long to wait for the component, when the document says it.
    pub fn timeout(&self) -> Option<std::time::Duration> {
        self.timeout.as_deref().and_then(parse_timeout)
    }
}

/// `^\d+m\d+s$`
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
