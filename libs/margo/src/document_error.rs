//! Why a document is refused, and where.

/// A document is refused; the fields say where and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {}{rule}", place(.line, .column), prefix(.field))]
pub struct DocumentError {
    /// The file's name as its author knows it, so that the message can be found in an editor.
    pub file: String,
    /// The line, counted from 1. It is 0 when the place is not known, as for a rule that lies between fields; then no
    /// place is shown.
    pub line: u64,
    /// The column in that line, counted from 1.
    pub column: u64,
    /// The path of the field, such as `deploymentProfiles[0].type`; empty for the whole document.
    pub field: String,
    /// What is required there, or what is wrong, as a person reads it.
    pub rule: String,
}

/// Everything that is wrong with a document. There is at least one error; the list ends after twenty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct DocumentErrors(Vec<DocumentError>);

impl DocumentErrors {
    /// These, of which there is at least one.
    pub(crate) fn new(errors: Vec<DocumentError>) -> Self {
        Self(errors)
    }

    /// Returns the errors, in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, DocumentError> {
        self.0.iter()
    }
}

impl From<DocumentError> for DocumentErrors {
    fn from(error: DocumentError) -> Self {
        Self(vec![error])
    }
}

fn place(line: &u64, column: &u64) -> String {
    if *line == 0 { String::new() } else { format!(":{line}:{column}") }
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

impl DocumentError {
    /// An error about a document that is well-formed but breaks a rule, which therefore has no line and column.
    pub(crate) fn rule(file: &str, field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, field: field.into(), rule: rule.into() }
    }
}
