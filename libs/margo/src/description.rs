//! The ApplicationDescription (`margo.yaml`): the document in which a supplier offers an application (rule digest
//! §3.5).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{
    AppId, AppVersion, ComponentName, DataType, DocumentError, DocumentErrors, ParameterValue, SettingSchema, Target,
    WasmSettings,
    constraints::DeviceConstraints,
    document::{Broken, EXTENSION, extensible, ours, parse, parse_checked},
};

/// The setting of a profile, in Edgewright's own extension, that says what becomes of an update that fails: `restore`, as
/// without it, puts the last installed revision back; `leave` leaves the failed one and goes on trying it.
pub const FAILED_UPDATE: &str = "failedUpdate";

/// Both words that [`FAILED_UPDATE`] may have.
const RESTORE: &str = "restore";
pub(crate) const LEAVE: &str = "leave";

/// The most rules for values that a description may have, and the most settings that may show one parameter. Each may have a
/// pattern, and a service that checks many of them works for nobody else meanwhile.
const MAX_SCHEMAS: usize = 200;
const MAX_SHOWN: usize = 8;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ApiVersion {
    /// The only version of the specification 1.0.0-rc.3. An unknown one is refused.
    #[serde(rename = "v1")]
    V1,
}

/// The version before, whose documents people still have.
const OLDER: &str = "margo.org/v1-alpha1";

impl<'de> Deserialize<'de> for ApiVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "v1" => Ok(Self::V1),
            OLDER => Err(de::Error::custom(
                "this is the older form of the document: apiVersion is v1 now, kind is gone, and id stands at the top instead of \
                 in metadata",
            )),
            other => Err(de::Error::unknown_variant(other, &["v1"])),
        }
    }
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

/// A parameter as the supplier describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribedParameter {
    /// The default. A parameter without one must be set in every assignment whose profile it reaches, unless its setting
    /// allows that it is empty.
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

impl ApplicationDescription {
    /// Reads and checks a description; `file` is the name that its author knows. It fails with everything that is wrong.
    pub fn parse(bytes: &[u8], file: &str) -> Result<Self, DocumentErrors> {
        parse_checked(bytes, file, Self::check)
    }

    /// Reads a description that [`ApplicationDescription::parse`] has accepted before, without checking it again: to compile
    /// all its patterns takes longer than all else.
    pub fn parse_accepted(bytes: &[u8], file: &str) -> Result<Self, DocumentError> {
        parse(bytes, file)
    }

    /// Returns the profile with this id, if there is one.
    pub fn profile(&self, id: &str) -> Option<&DeploymentProfile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// Returns the data type that the configuration demands of this parameter. It returns `None` when no setting shows
    /// the parameter.
    pub fn data_type(&self, parameter: &str) -> Option<DataType> {
        self.schemas(parameter).next().map(SettingSchema::value_type)
    }

    /// Returns the rules that values of this parameter have to follow: one for each setting that shows it.
    pub fn schemas<'a>(&'a self, parameter: &'a str) -> impl Iterator<Item = &'a SettingSchema> {
        let rules = self.configuration.as_ref().map_or(&[][..], |configuration| &configuration.schema);
        let named = move |setting: &Setting| rules.iter().find(|rule| rule.name == setting.schema);
        self.settings(parameter).filter_map(named)
    }

    /// Tells whether a setting forbids that this parameter changes after the application was installed (WFM-30).
    pub fn is_immutable(&self, parameter: &str) -> bool {
        self.settings(parameter).any(|setting| setting.immutable == Some(true))
    }

    fn settings<'a>(&'a self, parameter: &'a str) -> impl Iterator<Item = &'a Setting> {
        let sections = self.configuration.iter().flat_map(|configuration| &configuration.sections);
        sections.flat_map(|section| &section.settings).filter(move |setting| setting.parameter == parameter)
    }

    /// Checks the rules that lie between fields.
    fn check(&self, broken: &mut Broken) {
        if self.profiles.is_empty() {
            broken.add("deploymentProfiles", "at least one profile");
        }
        if self.metadata.catalog.organization.is_empty() {
            broken.add("metadata.catalog.organization", "at least one organization");
        }
        let mut profile_ids = BTreeSet::new();
        let mut components = BTreeSet::new();
        for (at, profile) in self.profiles.iter().enumerate() {
            let field = format!("deploymentProfiles[{at}]");
            if profile.id.is_empty() || profile.id.len() > 200 {
                broken.add(format!("{field}.id"), "1 to 200 characters");
            }
            if !profile_ids.insert(&profile.id) {
                broken.add(format!("{field}.id"), format!("{:?} is used twice", profile.id));
            }
            profile.check(&field, broken);
            components.extend(profile.components.iter().map(|component| &component.name));
        }
        for (name, parameter) in &self.parameters {
            let field = format!("parameters.{name}.targets");
            // APP-06: a parameter goes to components that exist.
            if parameter.targets.is_empty() {
                broken.add(&field, "at least one target");
            }
            for (at, target) in parameter.targets.iter().enumerate() {
                if target.pointer.is_empty() {
                    broken.add(format!("{field}[{at}].pointer"), "must name something");
                }
                if target.components.is_empty() {
                    broken.add(format!("{field}[{at}].components"), "at least one component");
                }
                for (of, unknown) in target.components.iter().enumerate().filter(|(_, it)| !components.contains(it)) {
                    let rule = format!("no profile has a component {:?}", unknown.as_str());
                    broken.add(format!("{field}[{at}].components[{of}]"), rule);
                }
            }
        }
        if let Some(configuration) = &self.configuration {
            self.check_configuration(configuration, broken);
        }
    }

    fn check_configuration(&self, configuration: &Configuration, broken: &mut Broken) {
        if configuration.schema.len() > MAX_SCHEMAS {
            broken.add("configuration.schema", format!("at most {MAX_SCHEMAS}"));
            return;
        }
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        let mut names = BTreeSet::new();
        for (at, schema) in configuration.schema.iter().enumerate() {
            let field = format!("configuration.schema[{at}]");
            if !names.insert(&schema.name) {
                broken.add(format!("{field}.name"), format!("{:?} is used twice", schema.name));
            }
            schema.check(&field, broken);
        }
        for (s, section) in configuration.sections.iter().enumerate() {
            for (i, setting) in section.settings.iter().enumerate() {
                let field = format!("configuration.sections[{s}].settings[{i}]");
                if !self.parameters.contains_key(&setting.parameter) {
                    broken.add(format!("{field}.parameter"), format!("no parameter {:?}", setting.parameter));
                }
                let times = shown.entry(&setting.parameter).or_default();
                *times += 1;
                if *times == MAX_SHOWN + 1 {
                    broken.add(format!("{field}.parameter"), format!("is shown by more than {MAX_SHOWN} settings"));
                }
                if !names.contains(&setting.schema) {
                    broken.add(format!("{field}.schema"), format!("no schema {:?}", setting.schema));
                }
            }
        }
        for (name, parameter) in &self.parameters {
            let Some(default) = &parameter.value else { continue };
            // A default that has to be replaced is a mistake of the supplier, which nobody else could mend.
            for rule in self.schemas(name).flat_map(|schema| schema.broken_by(default)) {
                broken.add(format!("parameters.{name}.value"), rule.to_string());
            }
        }
    }
}

impl DeploymentProfile {
    fn check(&self, field: &str, broken: &mut Broken) {
        if self.components.is_empty() {
            broken.add(format!("{field}.components"), "at least one component");
        }
        if let Some(what) = ours(&self.extensions).and_then(|ours| ours.get(FAILED_UPDATE))
            && what != RESTORE
            && what != LEAVE
        {
            let field = format!("{field}.{EXTENSION}.{FAILED_UPDATE}");
            broken.add(field, format!("must be {RESTORE} or {LEAVE}, not {what}"));
        }
        if let Some(constraints) = &self.device_constraints {
            constraints.check(&format!("{field}.deviceConstraints"), broken);
        }
        let mut names = BTreeSet::new();
        for (at, component) in self.components.iter().enumerate() {
            let field = format!("{field}.components[{at}]");
            if !names.insert(&component.name) {
                broken.add(format!("{field}.name"), format!("{:?} is used twice", component.name.as_str()));
            }
            component.properties.check(&format!("{field}.properties"), broken);
            if self.runtime() == Some("wasm") {
                let settings = component.extensions.get(EXTENSION).unwrap_or(&serde_json::Value::Null);
                if let Err(refused) = WasmSettings::parse(settings) {
                    let dot = if refused.field.is_empty() { "" } else { "." };
                    broken.add(format!("{field}.{EXTENSION}{dot}{}", refused.field), refused.rule);
                }
            }
        }
    }

    /// Returns the runtime that an extension of a `custom` profile names, such as `wasm`.
    pub fn runtime(&self) -> Option<&str> {
        let named = self.extensions.get(EXTENSION)?.get("runtime")?.as_str();
        named.filter(|_| self.kind == ProfileType::Custom)
    }
}

impl ComponentProperties {
    fn check(&self, field: &str, broken: &mut Broken) {
        if self.repository.strip_prefix("oci://").is_none_or(str::is_empty) {
            broken.add(format!("{field}.repository"), "must be oci:// and a repository");
        }
        // APP-03: `+` is not allowed in a tag and is written as `_`.
        let is_tag = !self.revision.contains('+');
        if !is_tag || semver::Version::parse(&self.revision.replacen('_', "+", 1)).is_err() {
            broken.add(format!("{field}.revision"), "must be SemVer 2.0 without a leading v, + written as _");
        }
        if let Some(timeout) = &self.timeout
            && parse_timeout(timeout).is_none_or(|time| time.is_zero())
        {
            let rule = "must be minutes and seconds such as 8m30s, and longer than nothing";
            broken.add(format!("{field}.timeout"), rule);
        }
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
