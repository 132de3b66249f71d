//! Who is who: the keys that sign, the keys that open NATS connections, and the files that hold them.
//!
//! - [`SigningKey`] and [`PublicKey`] are Ed25519 keys in OpenSSH form. Their signatures are SSHSIG, so that stock
//!   `git` and `ssh-keygen` verify what the platform signs.
//! - [`trust`] leads from the one pinned root key to a head that may be acted on.
//! - [`nats`] makes users of NATS servers, whose keys are NKeys.
//! - [`Authority`] has the keys of one NATS server, and mints the JWTs of its accounts and users; [`jwt`] reads these.
//! - [`credentials`] reads and writes the files that sites and nodes are given.
//! - [`tls`] makes of certificate files what servers and clients need, and [`plaintext`] says where TLS may be absent.
//! - `certificates` is the platform's own small certificate authority. It is a cargo feature, because agents sign nothing.
//!
//! A site pins the root key, and believes what a key signed that the root key vouches for:
//!
//! ```
//! use identity::{SigningKey, trust};
//! use margo::{KeySet, TenantName};
//!
//! let (root, writer) = (SigningKey::generate("root")?, SigningKey::generate("git-writer")?);
//! let tenant = TenantName::default();
//! let keys = KeySet { tenant: tenant.clone(), number: 1, keys: vec![writer.public().to_string()] };
//! let (bytes, signature) = trust::sign_keys(&root, &keys)?;
//!
//! let held = trust::verify_keys(&root.public(), &tenant, 0, &bytes, signature.as_bytes())?;
//! let signature = writer.sign(trust::GIT_NAMESPACE, b"a commit")?;
//! trust::verify_with(&held, trust::GIT_NAMESPACE, "commit", b"a commit", signature.as_bytes())?;
//! assert!(trust::verify_with(&held, trust::GIT_NAMESPACE, "commit", b"another", signature.as_bytes()).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod authority;
#[cfg(feature = "certificates")]
pub mod certificates;
pub mod credentials;
pub mod jwt;
pub mod nats;
pub mod plaintext;
mod signing;
pub mod tls;
mod token;
pub mod trust;

pub use authority::{AccountJwt, Authority, AuthorityError, Rights, Shared, Template};
pub use signing::{KeyError, PublicKey, SigningKey};
pub use token::random_token;
