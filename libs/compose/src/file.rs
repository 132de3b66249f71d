//! A Compose file as it was written, before variables are replaced.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::{
    error::ComposeError,
    interpolate::interpolate,
    project::{self, Project},
};

/// A Compose file that was read. Its values are not checked yet, because variables decide them.
#[derive(Clone, Debug, PartialEq)]
pub struct ComposeFile(Map<String, Value>);

impl ComposeFile {
    /// Reads the text of a `compose.yaml`. Size, depth and aliases have limits that no honest file reaches; merge keys and
    /// tags are refused, since not every reader takes them alike.
    pub fn parse(text: &str) -> Result<Self, ComposeError> {
        let read: Result<Value, _> = serde_saphyr::from_str_with_options(text, margo::yaml_options(50_000, 32));
        match read {
            Ok(Value::Object(root)) => Ok(Self(root)),
            Ok(_) => Err(ComposeError::new("", "a Compose file must be a map with services in it")),
            Err(error) => Err(ComposeError::new("", error.without_snippet().to_string())),
        }
    }

    /// Returns the images that the services name, as they are written. A name with a variable in it is refused: which
    /// image runs is fixed when the application is packed.
    pub fn images(&self) -> Result<BTreeSet<String>, ComposeError> {
        let services = self.0.get("services").and_then(Value::as_object);
        let services = services.ok_or_else(|| ComposeError::new("services", "at least one service"))?;
        let image = |(name, service): (&String, &Value)| {
            let image = service.get("image").and_then(Value::as_str);
            let field = || format!("services.{name}.image");
            match image {
                Some(image) if image.contains('$') => {
                    Err(ComposeError::new(field(), "must be written out: the package fixes which image runs"))
                }
                Some(image) if !image.is_empty() => Ok(image.to_owned()),
                _ => Err(ComposeError::new(field(), "every service must name an image")),
            }
        };
        services.iter().map(image).collect()
    }

    /// Puts these values in the place of variables and checks the result. `files` are the regular files of the archive,
    /// relative to its one folder. It fails with the first rule that is broken.
    pub fn resolve(
        &self,
        variables: &BTreeMap<String, String>,
        files: &BTreeSet<String>,
    ) -> Result<Project, ComposeError> {
        self.images()?;
        let mut root = Map::new();
        for (key, value) in &self.0 {
            // What stands there is for people and other tools.
            if !key.starts_with("x-") {
                root.insert(key.clone(), replaced(key, value, variables)?);
            }
        }
        project::check(root, variables, files)
    }
}

/// Replaces the variables in every text below a value.
fn replaced(field: &str, value: &Value, variables: &BTreeMap<String, String>) -> Result<Value, ComposeError> {
    Ok(match value {
        Value::String(text) => {
            Value::String(interpolate(text, variables).map_err(|rule| ComposeError::new(field, rule))?)
        }
        Value::Array(items) => {
            let item = |(at, item): (usize, &Value)| replaced(&format!("{field}[{at}]"), item, variables);
            Value::Array(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| {
                Ok((key.clone(), replaced(&format!("{field}.{key}"), value, variables)?))
            };
            Value::Object(map.iter().map(entry).collect::<Result<_, ComposeError>>()?)
        }
        other => other.clone(),
    })
}
