//! Reading a YAML document strictly: every refusal names the file, the place, the field and the rule.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{DocumentError, DocumentErrors, faults, yaml};

/// The largest document that is read, in bytes. Margo sets no limit (OP3); the largest real descriptions are below
/// 100 KiB.
pub const MAX_DOCUMENT: usize = 1 << 20;

/// Extensions by name (`x-<name>-extensions`, APP-11). They are kept and passed on, and are never a reason to
/// refuse a document (WFM-16, DEV-25).
pub type Extensions = BTreeMap<String, Value>;

/// The name under which Edgewright's own data stands in a document; foreign readers keep and ignore it (APP-11,
/// WFM-34).
pub(crate) const EXTENSION: &str = "x-edgewright-extensions";

/// Returns Edgewright's own extension among these, if there is one.
pub(crate) fn ours(extensions: &Extensions) -> Option<&Value> {
    extensions.get(EXTENSION)
}

/// The rules that a document breaks which could be read: the path of each field, and what is required there.
#[derive(Debug, Default)]
pub(crate) struct Broken(Vec<(String, String)>);

impl Broken {
    pub(crate) fn add(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.0.push((field.into(), rule.into()));
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, (String, String)> {
        self.0.iter()
    }

    /// Fails when there is one, with the places of their fields in the document.
    fn or(mut self, bytes: &[u8], file: &str) -> Result<(), DocumentErrors> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.truncate(faults::MAX);
        let places = faults::places(bytes, self.0.iter().map(|(field, _)| field.as_str()));
        let errors = self.0.into_iter().zip(places).map(|((field, rule), (line, column))| DocumentError {
            file: file.to_owned(),
            line,
            column,
            field,
            rule,
        });
        Err(DocumentErrors::new(errors.collect()))
    }
}

/// Parses one YAML document and checks the rules that its types do not carry. Fails with everything that is wrong: with all
/// that does not read, or else with all rules that are broken.
pub(crate) fn parse_checked<T: DeserializeOwned>(
    bytes: &[u8],
    file: &str,
    check: impl FnOnce(&T, &mut Broken),
) -> Result<T, DocumentErrors> {
    let document = parse::<T>(bytes, file).map_err(|first| DocumentErrors::new(faults::of::<T>(bytes, first)))?;
    let mut broken = Broken::default();
    check(&document, &mut broken);
    broken.or(bytes, file).map(|()| document)
}

/// Parses one YAML document into `T`. Size, depth and anchors have limits that no honest document reaches.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], file: &str) -> Result<T, DocumentError> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(DocumentError::rule(file, "", format!("larger than {MAX_DOCUMENT} bytes")));
    }
    let mut path = None;
    serde_saphyr::with_deserializer_from_slice_with_options(bytes, yaml::options(), |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            path = Some(error.path().to_string());
            error.into_inner()
        })
    })
    .map_err(|error| {
        let (location, rule) = (error.location(), message(&error));
        DocumentError {
            file: file.to_owned(),
            line: location.map_or(0, |at| at.line()),
            column: location.map_or(0, |at| at.column()),
            field: faults::precise(path.filter(|path| path != ".").unwrap_or_default(), &rule),
            rule,
        }
    })
}

/// The parser's message without its picture of the source and without the place, which the error holds as numbers.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let first = text.lines().next().unwrap_or_default();
    first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ").to_owned()
}

/// Tells whether this key names an extension: `x-`, a lower-case name and `-extensions` (APP-11).
pub(crate) fn is_extension(key: &str) -> bool {
    let name = key.strip_prefix("x-").and_then(|rest| rest.strip_suffix("-extensions"));
    name.is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    })
}

/// A struct that refuses unknown fields, except extensions, which it keeps in `extensions`.
///
/// `serde`'s own `deny_unknown_fields` and `flatten` exclude each other, and `flatten` loses line and column.
macro_rules! extensible {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $( $(#[$field_doc:meta])* $field:ident ($key:literal $(, default = $default:expr)?): $type:ty, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name {
            $( $(#[$field_doc])* #[serde(rename = $key)] pub $field: $type, )*
            /// The extensions of this object by name; they are written back as they were read.
            #[serde(flatten)]
            pub extensions: $crate::document::Extensions,
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a map")
                    }

                    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        use serde::de::Error as _;
                        $( let mut $field: Option<$type> = None; )*
                        let mut extensions = $crate::document::Extensions::new();
                        while let Some(key) = map.next_key::<String>()? {
                            match key.as_str() {
                                $( $key if $field.is_some() => return Err(A::Error::duplicate_field($key)),
                                   $key => $field = Some(map.next_value()?), )*
                                key if $crate::document::is_extension(key) => {
                                    let value: serde_json::Map<String, serde_json::Value> = map.next_value()?;
                                    extensions.insert(key.to_owned(), serde_json::Value::Object(value));
                                }
                                unknown => return Err(A::Error::unknown_field(unknown, &[$($key),*])),
                            }
                        }
                        Ok($name {
                            $( $field: extensible!(@value $field, $key, A $(, $default)?), )*
                            extensions,
                        })
                    }
                }

                deserializer.deserialize_map(Visitor)
            }
        }
    };
    (@value $field:ident, $key:literal, $access:ident) => {
        $field.ok_or_else(|| $access::Error::missing_field($key))?
    };
    (@value $field:ident, $key:literal, $access:ident, $default:expr) => {
        $field.unwrap_or_else(|| $default)
    };
}
pub(crate) use extensible;
