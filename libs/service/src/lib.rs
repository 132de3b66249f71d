//! What every service shares: health, metrics, HTTP with the limits that each listener has, and the loop that opens
//! again what is read from the bus and was lost.
//!
//! A process starts [`health::serve`] when it may open a port, and runs its services until the token of
//! `process::shutdown_token` is cancelled. A service gets a [`Base`] with a [`Readiness`], by which it says when it can
//! do its work.
//!
//! ```
//! use bus::ServiceName;
//! use service::Health;
//!
//! let health = Health::default();
//! let readiness = health.service(ServiceName::GitWriter);
//! assert!(!health.is_ready());
//! readiness.ready();
//! assert!(health.is_ready());
//! ```

mod artifacts;
mod base;
pub mod health;
pub mod http;
mod problem;
mod reopening;
mod seats;
mod share;

pub use artifacts::{Readers, TokenSecret, key_of};
pub use base::Base;
pub use health::{Health, Readiness};
pub use problem::{BearerToken, PROBLEM_JSON, ProblemResponse, bearer};
pub use reopening::reopening;
pub use seats::{Seat, Seats};
pub use share::fair_share;
/// What listeners and clients over TLS are given. `identity::tls` makes both from certificate files.
pub use tokio_rustls::rustls::{ClientConfig, ServerConfig};
