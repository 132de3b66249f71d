//! Compose Archives: how they are made and read, and what a Compose file may ask for.
//!
//! An application is packed, taken into the catalogue and run by three programs, and all of them go by this crate, so that
//! what one accepts the next one does not refuse. The crate talks to no engine.
//!
//! - [`Archive`] is the tar.gz with one folder and a `compose.yaml` in it (APP-04). It is checked whole before anything of
//!   it is written (DEV-28, WFM-33).
//! - [`ComposeFile`] is that file, read. [`ComposeFile::resolve`] puts the values of parameters in the place of variables
//!   and checks what results against the rules of [`Project`].
//! - [`Project::render`] writes the file that `docker compose` is given: literal, with nothing left for it to replace, to
//!   include or to pull, so the tool sees exactly what was checked.
//!
//! ```
//! use std::collections::{BTreeMap, BTreeSet};
//!
//! use compose::ComposeFile;
//!
//! let file = ComposeFile::parse("services: { web: { image: 'web:1', environment: { NAME: '${NAME:-you}' } } }")?;
//! assert_eq!(file.images()?.into_iter().collect::<Vec<_>>(), ["web:1"]);
//! let project = file.resolve(&BTreeMap::from([("NAME".to_owned(), "me".to_owned())]), &BTreeSet::new())?;
//! assert_eq!(project.services["web"].image, "web:1");
//!
//! let host = ComposeFile::parse("services: { web: { image: 'web:1', privileged: true } }")?;
//! let refused = host.resolve(&BTreeMap::new(), &BTreeSet::new()).unwrap_err().to_string();
//! assert!(refused.starts_with("services.web.privileged: "), "{refused}");
//! # Ok::<(), compose::ComposeError>(())
//! ```

mod archive;
mod error;
mod file;
mod interpolate;
mod ports;
mod project;
mod service;

pub use archive::{Archive, ArchiveError, FILE_NAME, MAX_ARCHIVE, plain_header};
pub use error::ComposeError;
pub use file::ComposeFile;
pub use ports::Published;
pub use project::{Ours, Project};
pub use service::Service;
