//! The data types of parameters.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The data types that a rule may demand of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataType {
    /// A text of any length that [`crate::ParameterValue`] allows.
    #[serde(rename = "string")]
    Text,
    /// A whole number within the range of `i64`.
    #[serde(rename = "integer")]
    Integer,
    /// A number with or without a fraction.
    #[serde(rename = "double")]
    Double,
    /// A truth value, `true` or `false`.
    #[serde(rename = "boolean")]
    Boolean,
    /// A list whose items are all texts.
    #[serde(rename = "array[string]")]
    TextList,
    /// A list whose items are all whole numbers.
    #[serde(rename = "array[integer]")]
    IntegerList,
    /// A list whose items are all numbers, with or without a fraction.
    #[serde(rename = "array[double]")]
    DoubleList,
    /// A list whose items are all truth values.
    #[serde(rename = "array[boolean]")]
    BooleanList,
}

impl DataType {
    /// Returns the type of one item of a list; of a type that is no list, the type itself.
    pub fn item(self) -> Self {
        match self {
            Self::TextList => Self::Text,
            Self::IntegerList => Self::Integer,
            Self::DoubleList => Self::Double,
            Self::BooleanList => Self::Boolean,
            one => one,
        }
    }

    /// Returns the type of a list of this; of a type that is a list, the type itself.
    pub fn list(self) -> Self {
        match self {
            Self::Text => Self::TextList,
            Self::Integer => Self::IntegerList,
            Self::Double => Self::DoubleList,
            Self::Boolean => Self::BooleanList,
            list => list,
        }
    }
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
