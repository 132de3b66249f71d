//! Why the folder of an application cannot be packed.

use std::{
    io,
    path::{Path, PathBuf},
};

use compose::ArchiveError;
use margo::{DocumentError, DocumentErrors};

/// The name of the description in the folder of an application.
pub(super) const DESCRIPTION: &str = "margo.yaml";

/// A folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// `margo.yaml` breaks rules, or names a file that cannot be packed.
    #[error(transparent)]
    Document(#[from] DocumentErrors),
    /// A file in the folder cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The folder of a Compose component cannot be made an archive.
    #[error("packing the Compose Archive {}", folder.display())]
    Archive {
        /// The folder that becomes the archive.
        folder: PathBuf,
        /// The rule that it breaks, or what the disk said.
        source: ArchiveError,
    },
    /// A file was changed while it was packed, so that its digest was no longer right.
    #[error("{} changed while it was packed; pack again", .0.display())]
    Changed(PathBuf),
    /// The tar cannot be written.
    #[error("writing {}", path.display())]
    Write {
        /// The path of the tar.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> PackError {
    let path = path.to_owned();
    move |source| PackError::Read { path, source }
}

pub(super) fn rule(field: impl Into<String>, rule: impl ToString) -> PackError {
    let rule = rule.to_string();
    document(DESCRIPTION, field, rule)
}

/// What breaks a rule in one of the files.
pub(super) fn document(file: impl Into<String>, field: impl Into<String>, rule: String) -> PackError {
    let error = DocumentError { file: file.into(), line: 0, column: 0, field: field.into(), rule };
    PackError::Document(error.into())
}
