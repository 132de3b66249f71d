//! Why a Compose file is refused.

/// A Compose file is refused; the fields say where and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{rule}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
pub struct ComposeError {
    /// The path of the field, such as `services.web.volumes[0]`; empty for the file as a whole.
    pub field: String,
    /// What is required there, or what is wrong, as a person reads it.
    pub rule: String,
}

impl ComposeError {
    pub(crate) fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { field: field.into(), rule: rule.into() }
    }
}
