//! What every service shares: health, metrics and HTTP with the limits that each listener has.
//!
//! A process starts [`health::serve`] when it may open a port, and runs its services until the token of
//! `process::shutdown_token` is cancelled. A service gets a [`Readiness`] and says when it can do its work.
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

pub mod health;
pub mod http;
mod problem;

pub use health::{Health, Readiness};
pub use problem::{BearerToken, PROBLEM_JSON, ProblemResponse, bearer};
