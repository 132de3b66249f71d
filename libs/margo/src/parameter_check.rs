//! Which values are in force: those that a person gave, over those of the description (WFM-30).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ApplicationDescription, DeploymentProfile, DescribedParameter, ParameterError, ParameterValue, SettingSchema,
};

/// Returns the parameters in force: the defaults, overlaid by what was given. A parameter that has no value is missing, unless its
/// schema allows that or no component of the profile gets it; without a profile none is missed. On failure it returns
/// everything that is wrong, each with the name of its parameter, so that a person corrects all of it at once.
pub fn check_parameters(
    description: &ApplicationDescription,
    profile: Option<&DeploymentProfile>,
    given: &BTreeMap<String, ParameterValue>,
) -> Result<BTreeMap<String, ParameterValue>, Vec<(String, ParameterError)>> {
    let mut in_force = BTreeMap::new();
    let mut errors = Vec::new();
    for name in given.keys().filter(|name| !description.parameters.contains_key(*name)) {
        let known = description.parameters.keys().cloned().collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        errors.push((name.clone(), ParameterError::Unknown(known)));
    }
    let components: BTreeSet<_> =
        profile.iter().flat_map(|profile| &profile.components).map(|component| &component.name).collect();
    let reaches = |parameter: &DescribedParameter| {
        parameter.targets.iter().flat_map(|target| &target.components).any(|name| components.contains(name))
    };
    for (name, parameter) in &description.parameters {
        let Some(value) = given.get(name) else {
            // A default follows the rules, or the description would not have been accepted.
            if let Some(default) = &parameter.value {
                in_force.insert(name.clone(), default.clone());
            } else if reaches(parameter) && !description.schemas(name).any(SettingSchema::allows_empty) {
                errors.push((name.clone(), ParameterError::Missing));
            }
            continue;
        };
        let mut broken: Vec<_> = description.schemas(name).flat_map(|schema| schema.broken_by(value)).collect();
        // Without a schema the default tells the type.
        if let Some(required) = parameter.value.as_ref().and_then(ParameterValue::own_type)
            && description.schemas(name).next().is_none()
            && !value.is(required)
        {
            broken.push(ParameterError::Type(required));
        }
        if broken.is_empty() {
            in_force.insert(name.clone(), value.clone());
        }
        errors.extend(broken.into_iter().map(|error| (name.clone(), error)));
    }
    if errors.is_empty() { Ok(in_force) } else { Err(errors) }
}

/// Returns the immutable parameters that have another value than before, when an application is updated: from one description and
/// what was given for it, which was accepted then, to another one and its parameters in force. A parameter that the
/// description before did not have may come with any value.
pub fn immutable_changes(
    (before, given): (&ApplicationDescription, &BTreeMap<String, ParameterValue>),
    (after, in_force): (&ApplicationDescription, &BTreeMap<String, ParameterValue>),
) -> Vec<(String, ParameterError)> {
    let immutable = after.parameters.keys().filter(|name| after.is_immutable(name));
    let changed = immutable.filter_map(|name| {
        let held = given.get(name).or(before.parameters.get(name)?.value.as_ref());
        if held == in_force.get(name) {
            return None;
        }
        let shown = held.map_or_else(|| "not set".to_owned(), |value| format!("{:?}", value.to_env()));
        Some((name.clone(), ParameterError::Immutable(shown)))
    });
    changed.collect()
}
