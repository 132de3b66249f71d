//! Which values are in force: those that a person gave, over those of the description (WFM-30).

use std::collections::BTreeMap;

use crate::{ApplicationDescription, DataType, ParameterValue};

/// Why one parameter does not fit its application.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// The application has no such parameter. The text lists the names that it has.
    #[error("unknown parameter: the application has {0}")]
    Unknown(String),
    /// The parameter has no default, and no value was given.
    #[error("required: it has no default")]
    Missing,
    /// The value does not have the data type that the schema in the description names, or that the default has.
    #[error("must be {0}")]
    Type(DataType),
}

/// Returns the parameters in force: the defaults, overlaid by what was given. On failure it returns everything that
/// is wrong, each with the name of its parameter, so that a person corrects all of it at once.
pub fn check_parameters(
    description: &ApplicationDescription,
    given: &BTreeMap<String, ParameterValue>,
) -> Result<BTreeMap<String, ParameterValue>, Vec<(String, ParameterError)>> {
    let mut in_force = BTreeMap::new();
    let mut errors = Vec::new();
    for name in given.keys().filter(|name| !description.parameters.contains_key(*name)) {
        let known = description.parameters.keys().cloned().collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        errors.push((name.clone(), ParameterError::Unknown(known)));
    }
    for (name, parameter) in &description.parameters {
        let Some(value) = given.get(name).or(parameter.value.as_ref()) else {
            errors.push((name.clone(), ParameterError::Missing));
            continue;
        };
        let required = description.data_type(name).or(parameter.value.as_ref().and_then(ParameterValue::own_type));
        match required {
            Some(required) if !value.is(required) => errors.push((name.clone(), ParameterError::Type(required))),
            _ => {
                in_force.insert(name.clone(), value.clone());
            }
        }
    }
    if errors.is_empty() { Ok(in_force) } else { Err(errors) }
}
