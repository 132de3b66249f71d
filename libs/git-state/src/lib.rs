//! The repositories: their layout, and reading and writing them through gix. gix stays behind this crate.
//!
//! - [`layout`]: where things stand, and the documents of `fleet.git`;
//! - [`Message`]: what a commit says, with trailers that programs read;
//! - [`Manifest`]: the files of a client's repository as the desired state they are;
//! - [`Repository`]: reads one repository: tip, files, messages, signatures;
//! - [`Writer`]: signed commits, one sync for many of them, refs moved by compare-and-swap.
//!
//! Everything here blocks; async code calls it through `spawn_blocking`.

mod durable;
mod error;
pub mod layout;
mod manifest;
mod message;
mod path;
mod repository;
mod writer;

pub use error::GitError;
pub use manifest::{InvalidManifest, Manifest, NodeManifest};
pub use message::{MAX_LINE, Message};
pub use path::{InvalidPath, TreePath};
pub use repository::{CommitId, Repository, VerifyError};
pub use writer::{Draft, FileChange, Move, Unsynced, Writer};
