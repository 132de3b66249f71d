//! The texts of `--set KEY=VALUE` become values of the types that the application's description gives them.

use std::collections::BTreeMap;

use api::{FieldError, Problem};
use margo::{ApplicationDescription, DataType, ParameterValue};

use crate::args::Setting;

/// Reads each value in the type that the application's configuration gives the parameter, else in that of its default
/// value, else as text. A refusal names everything that is wrong, not only the first.
pub(crate) fn typed(
    description: &ApplicationDescription,
    settings: &[Setting],
) -> Result<BTreeMap<String, ParameterValue>, Problem> {
    let mut values = BTreeMap::new();
    let mut errors = Vec::new();
    for Setting { key, value } in settings {
        let mut wrong = |message| errors.push(FieldError { field: format!("parameters.{key}"), message });
        let Some(data_type) = data_type(description, key) else {
            let known = description.parameters.keys().cloned().collect::<Vec<_>>().join(", ");
            wrong(format!("unknown parameter: the application has {}", if known.is_empty() { "none" } else { &known }));
            continue;
        };
        match ParameterValue::from_text(value, data_type) {
            None => wrong(format!("{value:?} must be {data_type}")),
            Some(_) if values.contains_key(key) => wrong("set twice".to_owned()),
            Some(value) => {
                values.insert(key.clone(), value);
            }
        }
    }
    if errors.is_empty() {
        Ok(values)
    } else {
        Err(Problem::invalid("the parameters do not fit the application", errors))
    }
}

/// The type of a parameter; `None` when the application has no parameter of this name.
fn data_type(description: &ApplicationDescription, name: &str) -> Option<DataType> {
    let parameter = description.parameters.get(name)?;
    let of_default = || parameter.value.as_ref().and_then(own_type);
    Some(description.data_type(name).or_else(of_default).unwrap_or(DataType::Text))
}

/// The narrowest type that a default value fits. An empty list fits every list, and counts as one of texts.
fn own_type(value: &ParameterValue) -> Option<DataType> {
    use DataType::{Boolean, BooleanList, Double, DoubleList, Integer, IntegerList, Text, TextList};
    match value {
        ParameterValue::List(values) if values.is_empty() => Some(TextList),
        _ => [Boolean, Integer, Double, Text, BooleanList, IntegerList, DoubleList, TextList]
            .into_iter()
            .find(|data_type| value.is(*data_type)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = r#"
apiVersion: v1
id: hello
metadata: { name: Hello, version: 1.0.0, catalog: { organization: [{ name: Example }] } }
deploymentProfiles:
  - id: wasm
    type: custom
    components: [{ name: hello, properties: { repository: "oci://edgewright.local/hello", revision: 1.0.0 } }]
parameters:
  greeting: { value: "120", targets: [{ pointer: A, components: [hello] }] }
  times: { value: 3, targets: [{ pointer: A, components: [hello] }] }
  names: { value: [a], targets: [{ pointer: A, components: [hello] }] }
  version: { targets: [{ pointer: A, components: [hello] }] }
  ratio: { value: 1, targets: [{ pointer: A, components: [hello] }] }
configuration:
  sections:
    - name: all
      settings: [{ parameter: ratio, name: Ratio, schema: ratio }]
  schema: [{ name: ratio, dataType: double }]
"#;

    fn set(settings: &[(&str, &str)]) -> Result<BTreeMap<String, ParameterValue>, Problem> {
        let description = ApplicationDescription::parse(DESCRIPTION.as_bytes(), "margo.yaml").unwrap();
        let setting = |(key, value): &(&str, &str)| Setting { key: key.to_string(), value: value.to_string() };
        typed(&description, &settings.iter().map(setting).collect::<Vec<_>>())
    }

    #[test]
    fn a_value_has_the_type_that_the_application_gives_it() {
        let text = |text: &str| ParameterValue::Text(text.to_owned());
        let values = set(&[("greeting", "7"), ("times", "7"), ("names", "x, 7"), ("version", "7"), ("ratio", "7")]);
        let wanted = [
            ("greeting", text("7")),
            ("times", ParameterValue::Integer(7)),
            ("names", ParameterValue::List(vec![text("x"), text("7")])),
            ("version", text("7")),
            ("ratio", ParameterValue::Double(7.0)),
        ];
        assert_eq!(values.unwrap(), wanted.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let problem = set(&[("times", "often"), ("time", "7"), ("ratio", "1"), ("ratio", "2")]).unwrap_err();
        let told = problem.errors.iter().map(|error| (error.field.as_str(), error.message.as_str()));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ("parameters.times", "\"often\" must be an integer"),
                ("parameters.time", "unknown parameter: the application has greeting, names, ratio, times, version"),
                ("parameters.ratio", "set twice"),
            ]
        );
    }
}
