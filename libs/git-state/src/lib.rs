//! The Git repositories of a tenant: their layout, and how they are read and written. `gix` stays behind this
//! crate.
//!
//! - [`layout`] says where things stand, and has the documents of `fleet.git`.
//! - [`Message`] is a commit's message, with trailers that programs read.
//! - [`Manifest`] is the desired state that the files of a client's repository are.
//! - [`Repository`] reads one repository: its newest commit, files, messages and signatures.
//! - [`Reader`] does it through a handle of its own, object by object, and finds what is different from an earlier commit
//!   ([`Listing`]).
//! - [`Writer`] makes signed commits, in a [`Series`] for each repository, and takes those of many repositories into them
//!   with one sync.
//!
//! Everything here blocks; async code calls it through `spawn_blocking`.
//!
//! ```
//! use git_state::{Message, TreePath};
//!
//! let path = TreePath::try_from("assignments/hello.yaml".to_owned())?;
//! assert_eq!(path.as_str(), "assignments/hello.yaml");
//! assert!(TreePath::try_from("../hello.yaml".to_owned()).is_err());
//!
//! // What a person wrote stays on one line, and cannot pass for a trailer of its own.
//! let message = Message::new("Create hello").with("Reason", "asked for\nHandled: deployment-registry 7");
//! let read = Message::parse(&message.to_string());
//! assert_eq!(read.trailer("Reason"), Some("asked for Handled: deployment-registry 7"));
//! assert_eq!(read.trailer("Handled"), None);
//! # Ok::<(), git_state::InvalidPath>(())
//! ```

mod blob;
mod branch;
mod commit_id;
mod drafter;
mod durable;
mod error;
mod file_change;
mod journal;
pub mod layout;
mod listing;
mod manifest;
mod memory;
mod message;
mod pack;
mod pack_files;
mod path;
mod prepared;
mod reader;
mod recent;
mod replay;
mod repository;
mod series;
mod tree;
mod writer;

pub use blob::{Bases, Blob};
pub use commit_id::{CommitId, InvalidCommitId};
pub use drafter::{Draft, Drafter};
pub use error::GitError;
pub use file_change::FileChange;
pub use listing::{Changes, Listing, ListingError, TreeId};
pub use manifest::{InvalidManifest, Manifest, NodeManifest};
pub use message::{MAX_LINE, Message};
pub use pack_files::PacksHeld;
pub use path::{InvalidPath, TreePath};
pub use prepared::Prepared;
pub use reader::{Commit, Reader};
pub use recent::Recent;
pub use repository::{Repository, VerifyError};
pub use series::Series;
pub use writer::{Disk, Step, Writer};
