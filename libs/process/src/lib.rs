//! What every program of the platform shares and no port is needed for: arguments, logs and traces, shutdown, pauses.
//!
//! This crate stands below everything that runs, agents included, so it links no HTTP server and no exporter; the
//! feature `otlp`, which services switch on, adds one way out for traces.
//!
//! ```
//! use std::time::Duration;
//!
//! let mut backoff = process::Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
//! let first = backoff.pause();
//! assert!(first >= Duration::from_millis(50) && first <= Duration::from_millis(100));
//! ```

mod allocator;
pub mod args;
mod backoff;
mod budget;
mod chain;
mod due;
mod escaped;
mod one_line;
mod program;
mod shutdown;
mod stop_point;
pub mod telemetry;

pub use allocator::{give_back_at_rest, give_back_free_memory, keep_little_memory, keep_little_memory_of_a_service};
pub use backoff::{Backoff, jittered};
pub use budget::{Account, Allowance};
pub use chain::chain;
pub use due::due;
pub use escaped::{escaped, steers};
pub use program::give_back_pages_of_the_program;
pub use shutdown::{GRACE, shutdown_token, within_grace};
pub use stop_point::stop_point;
