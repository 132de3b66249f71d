//! What every program of the platform shares: telemetry, health, shutdown, stop points.
//!
//! A process calls [`telemetry::init`] once, starts [`health::serve`] when it may open a port, and runs its services until
//! the token of [`shutdown_token`] is cancelled. A service gets a [`Readiness`] and says when it can do its work.

pub mod args;
mod backoff;
pub mod health;
pub mod http;
mod shutdown;
mod stop_point;
pub mod telemetry;

pub use backoff::{Backoff, jittered};
pub use health::{Health, Readiness};
pub use shutdown::{GRACE, shutdown_token, within_grace};
pub use stop_point::stop_point;
