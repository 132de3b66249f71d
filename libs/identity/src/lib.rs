//! Who is who: the keys that sign, the keys that open NATS connections, the files that hold them.
//!
//! - [`SigningKey`] and [`PublicKey`]: Ed25519 keys in OpenSSH form, signatures as SSHSIG, so that stock `git` and
//!   `ssh-keygen` verify what we sign;
//! - [`trust`]: from the one pinned root key to a head that may be acted on;
//! - [`nats`]: NKey users and the server configurations made from their permissions;
//! - [`credentials`]: the files that sites and nodes are given.

pub mod credentials;
pub mod nats;
mod secret;
mod signing;
pub mod trust;

pub use secret::write_secret;
pub use signing::{KeyError, PublicKey, SigningKey};
