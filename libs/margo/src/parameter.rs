//! Parameters: the values that a person may set, and their data types (WFM-30).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{ComponentName, DataType};

/// The longest text that a parameter may hold, in bytes. It has to fit into the environment of a process.
const MAX_VALUE: usize = 32 << 10;

/// A parameter's value, as YAML and JSON write it. A list holds values that are no lists themselves.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ParameterValue {
    /// A truth value, written `true` or `false`.
    Boolean(bool),
    /// A whole number; one beyond the range of `i64` is refused.
    Integer(i64),
    /// A finite number that was not written as a whole number.
    Double(f64),
    /// A text. One that is read from a document has at most 32 KiB.
    Text(String),
    /// A list of values. Whether they all have the same type is checked against the data type that the setting
    /// demands.
    List(Vec<ParameterValue>),
}

impl ParameterValue {
    /// Returns the value as an environment variable holds it. The items of a list stand with commas between them.
    pub fn to_env(&self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Double(value) => value.to_string(),
            Self::Text(value) => value.clone(),
            Self::List(values) => values.iter().map(Self::to_env).collect::<Vec<_>>().join(","),
        }
    }

    /// Reads what a person typed as this data type, and returns `None` when the text does not have it. The items of a
    /// list are separated by commas.
    pub fn from_text(text: &str, data_type: DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Text => Self::Text(text.to_owned()),
            DataType::Integer => Self::Integer(text.parse().ok()?),
            DataType::Double => Self::Double(text.parse().ok().filter(|value: &f64| value.is_finite())?),
            DataType::Boolean => Self::Boolean(text.parse().ok()?),
            DataType::TextList => Self::list(text, DataType::Text)?,
            DataType::IntegerList => Self::list(text, DataType::Integer)?,
            DataType::DoubleList => Self::list(text, DataType::Double)?,
            DataType::BooleanList => Self::list(text, DataType::Boolean)?,
        })
    }

    fn list(text: &str, item: DataType) -> Option<Self> {
        text.split(',').map(|part| Self::from_text(part.trim(), item)).collect::<Option<_>>().map(Self::List)
    }

    /// Tells whether the value has this data type. A whole number also counts as a number with a fraction.
    pub fn is(&self, data_type: DataType) -> bool {
        let all = |item| matches!(self, Self::List(values) if values.iter().all(|value| value.is(item)));
        match data_type {
            DataType::Text => matches!(self, Self::Text(_)),
            DataType::Integer => matches!(self, Self::Integer(_)),
            DataType::Double => matches!(self, Self::Integer(_) | Self::Double(_)),
            DataType::Boolean => matches!(self, Self::Boolean(_)),
            DataType::TextList => all(DataType::Text),
            DataType::IntegerList => all(DataType::Integer),
            DataType::DoubleList => all(DataType::Double),
            DataType::BooleanList => all(DataType::Boolean),
        }
    }

    /// The number that the value is; `None` when it is none.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            Self::Boolean(_) | Self::Text(_) | Self::List(_) => None,
        }
    }

    /// The data type that follows from the value alone. A list has none, because an empty one would fit every list
    /// type.
    pub(crate) fn own_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Boolean(_) => DataType::Boolean,
            Self::Integer(_) => DataType::Integer,
            Self::Double(_) => DataType::Double,
            Self::Text(_) => DataType::Text,
            Self::List(_) => return None,
        })
    }
}

impl<'de> Deserialize<'de> for ParameterValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ParameterValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true, false, or a list of those")
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Boolean(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ParameterValue, E> {
                Ok(ParameterValue::Integer(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ParameterValue, E> {
                i64::try_from(value)
                    .map(ParameterValue::Integer)
                    .map_err(|_| E::custom("a number of at most 9223372036854775807"))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<ParameterValue, E> {
                if !value.is_finite() {
                    return Err(E::custom("a finite number"));
                }
                Ok(ParameterValue::Double(value))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<ParameterValue, E> {
                if value.len() > MAX_VALUE {
                    return Err(E::custom(format_args!("a text of at most {MAX_VALUE} bytes")));
                }
                Ok(ParameterValue::Text(value.to_owned()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<ParameterValue, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    if matches!(value, ParameterValue::List(_)) {
                        return Err(de::Error::custom("a list without lists in it"));
                    }
                    values.push(value);
                }
                Ok(ParameterValue::List(values))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// One place that a parameter's value goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// For Helm, a dotted path into the values; for Compose and Wasm, the name of an environment variable.
    pub pointer: String,
    /// The components that receive the value. Each is a component of at least one profile of the application (APP-06).
    pub components: Vec<ComponentName>,
}
