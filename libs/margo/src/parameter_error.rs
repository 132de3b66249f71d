//! Why the value of a parameter is refused.

use crate::DataType;

/// Why one parameter does not fit its application.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
    /// The value is empty, and its schema does not allow that.
    #[error("must not be empty")]
    Empty,
    /// A text has fewer characters than this.
    #[error("must have at least {0} characters")]
    TooShort(u64),
    /// A text has more characters than this.
    #[error("must have at most {0} characters")]
    TooLong(u64),
    /// A text does not match this pattern.
    #[error("must match the pattern {0}")]
    Pattern(String),
    /// A number is smaller than this.
    #[error("must be at least {0}")]
    TooSmall(f64),
    /// A number is larger than this.
    #[error("must be at most {0}")]
    TooLarge(f64),
    /// A number has fewer digits behind the decimal point than this.
    #[error("must have at least {0} digits behind the decimal point")]
    TooCoarse(u64),
    /// A number has more digits behind the decimal point than this.
    #[error("must have at most {0} digits behind the decimal point")]
    TooFine(u64),
    /// The value is none of the options. The text lists them.
    #[error("must be one of {0}")]
    NoOption(String),
    /// The value differs from the one before, and the application forbids that after it was installed. The text is the value
    /// before, or says that there was none.
    #[error("cannot be changed after the application was installed: it is {0}")]
    Immutable(String),
}
