//! OCI artifacts: a content store on disk, its read API and client, and image layouts as uploads.
//!
//! - [`ContentStore`] holds blobs by digest, and which repository name holds which manifest. A name holds a manifest
//!   only when everything that the manifest names is on disk, so a reader that finds the manifest finds the rest. A
//!   [`Download`] goes on where an earlier one stopped, also one of a process that was killed.
//! - `Client` pulls a manifest by digest, with its blobs or without, into a store. It is a cargo feature, so that whoever
//!   only knows the types links no HTTP client.
//! - `registry`, a cargo feature, has the client log in at other registries, follow redirects and choose from image
//!   indexes, so that edge-node, which reads from its site only, goes without.
//! - `server` serves the read part of OCI Distribution, by digest only. It is a cargo feature, so that edge-node links
//!   no HTTP server.
//! - [`layout`] packs an app's folder as the tar of an OCI image layout, and unpacks such a tar through all checks.
//!
//! The manifests are types of this crate and not those of `oci-spec`: theirs keep annotations in a hash map, so the
//! bytes of a manifest, and with them its digest, would differ from run to run. Why the client is one of our own is in
//! `docs/decisions/0022-an-oci-client-of-our-own.md`.
//!
//! ```
//! use margo::Digest;
//! use oci::{ArtifactManifest, Descriptor, Reference, media};
//!
//! let layer = Descriptor::of(media::WASM, b"a component").annotated(media::TITLE, "hello.wasm");
//! let manifest = ArtifactManifest::artifact(media::WASM_ARTIFACT, vec![layer]);
//! let bytes = manifest.to_json();
//! assert_eq!(ArtifactManifest::parse(&bytes)?, manifest);
//! assert_eq!(Digest::of(&bytes), Digest::of(&ArtifactManifest::parse(&bytes)?.to_json()));
//!
//! let reference: Reference = "factory/hello:1.0.0".parse()?;
//! assert_eq!((reference.name.as_str(), reference.tag.as_str()), ("factory/hello", "1.0.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "client")]
mod client;
mod digest;
mod download;
mod image_name;
pub mod layout;
#[cfg(feature = "registry")]
mod login;
mod manifest;
mod name;
#[cfg(feature = "registry")]
mod pace;
mod platform;
#[cfg(feature = "client")]
mod pull_error;
#[cfg(feature = "registry")]
pub mod registry;
#[cfg(feature = "server")]
pub mod server;
mod store;

#[cfg(feature = "client")]
pub use client::{Client, Limits};
pub use download::Download;
pub use image_name::ImageName;
pub use manifest::{AnyManifest, ArtifactManifest, Descriptor, Index, ManifestError, media};
pub use name::{InvalidReference, Location, PLATFORM, Reference, Registry, RepositoryName};
pub use platform::{InvalidPlatform, Platform};
#[cfg(feature = "client")]
pub use pull_error::{InvalidAddress, PullError, RegistryError};
pub use store::{BlobWriter, ContentStore, StoreError};

/// The largest manifest that is read: 4 MiB, what OCI Distribution asks registries to accept.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// The largest upload: an image layout with all its blobs. How large an artifact may be that is pulled, whoever pulls it
/// says.
pub const MAX_ARTIFACT: u64 = 1 << 30;
