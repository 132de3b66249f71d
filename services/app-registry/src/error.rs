//! Why an upload is not taken, and how its sender is answered.

use std::{error::Error, io::ErrorKind};

use api::{FieldError, Problem};
use margo::{AppId, AppVersion, DocumentError, DocumentErrors};
use oci::layout::LayoutError;
use store::StoreError;
use tracing::error;

/// Why an upload is not taken. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The upload is no image layout, or ended too early.
    #[error("the upload is not the tar of an OCI image layout")]
    Layout(#[from] LayoutError),
    /// `margo.yaml` breaks rules.
    #[error(transparent)]
    Document(#[from] DocumentErrors),
    /// The parts of the upload do not make an application with its components.
    #[error("the upload is not an application with its components")]
    Rules(Vec<FieldError>),
    /// The catalogue holds this version with other content.
    #[error("{0} {1} is in the catalogue with other content, and a version is never changed: give it a new one")]
    Taken(AppId, AppVersion),
    /// The catalogue could not be read or written.
    #[error("writing the catalogue")]
    Catalogue(#[from] StoreError),
    /// The task that unpacks uploads died; that is a mistake of this service.
    #[error("unpacking the upload")]
    Died(#[from] tokio::task::JoinError),
}

impl UploadError {
    /// An upload that breaks one rule.
    pub fn rule(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Rules(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// How the sender is answered.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Layout(cause) => layout_problem(self, cause),
            Self::Document(errors) => {
                let mut words = errors.to_string();
                if errors.iter().len() > 1 {
                    "the description breaks rules".clone_into(&mut words);
                }
                Problem::invalid(words, errors.iter().map(field_error).collect())
            }
            Self::Rules(errors) => Problem::invalid(self.to_string(), errors.clone()),
            Self::Taken(..) => Problem::conflict(self.to_string()),
            Self::Catalogue(cause) => catalogue_problem(cause),
            Self::Died(_) => {
                error!(error = self as &dyn Error, "upload not taken");
                Problem::internal()
            }
        }
    }
}

fn field_error(error: &DocumentError) -> FieldError {
    let DocumentError { file, line, column, field, rule } = error;
    let message = if *line == 0 { format!("{file}: {rule}") } else { format!("{file}:{line}:{column}: {rule}") };
    FieldError { field: field.clone(), message }
}

/// How the bus and the sender of an upload are answered when the catalogue fails.
pub fn catalogue_problem(error: &StoreError) -> Problem {
    error!(error = error as &dyn Error, "the catalogue failed");
    match error {
        StoreError::Unreachable { .. } => Problem::unavailable("the catalogue cannot be used now; try again"),
        // A row is written once and never decided on, so there is no conflict; a description that fits into an upload
        // fits into a commit.
        StoreError::Refused { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Conflict { .. }
        | StoreError::TooLarge { .. } => Problem::internal(),
    }
}

fn layout_problem(error: &UploadError, cause: &LayoutError) -> Problem {
    let field = |field: &str, message: String| vec![FieldError { field: field.to_owned(), message }];
    match cause {
        LayoutError::Read(source) => match source.kind() {
            ErrorKind::TimedOut => Problem::new(408, format!("{source}; nothing was added")),
            ErrorKind::FileTooLarge => Problem::new(413, format!("{source}; nothing was added")),
            _ => Problem::invalid(format!("{error}: {source}"), Vec::new()),
        },
        LayoutError::TooLarge { .. } => Problem::new(413, format!("{cause}; nothing was added")),
        LayoutError::Entry { path, rule } => Problem::invalid(error.to_string(), field(path, rule.clone())),
        LayoutError::Missing { file } => {
            Problem::invalid(error.to_string(), field(file, "is not in the archive".into()))
        }
        LayoutError::Document { file, rule } => Problem::invalid(error.to_string(), field(file, rule.clone())),
        LayoutError::Manifest { digest, source } => {
            Problem::invalid(error.to_string(), field(&format!("manifest {digest}"), source.to_string()))
        }
        LayoutError::Store(_) => {
            error!(error = cause as &dyn Error, "upload not staged");
            Problem::internal()
        }
    }
}
