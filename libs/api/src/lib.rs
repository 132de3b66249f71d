//! The JSON of the REST interface under `/api/v1`, and of service requests on the bus: the same types.
//!
//! A field that has no value is left out and never `null`. Times are RFC 3339, for people; nothing is ordered by
//! them.
//!
//! ```
//! use api::{AssignmentSpec, Problem};
//! use serde_json::json;
//!
//! let body = json!({ "app": { "id": "hello", "version": "1.0.0" }, "targets": { "sites": ["plant"] } });
//! let spec: AssignmentSpec = serde_json::from_value(body.clone())?;
//! assert_eq!(serde_json::to_value(&spec)?, body);
//!
//! let problem = Problem::new(503, "the bus is not connected; try again when it is");
//! assert!(problem.retryable);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod app;
mod assignment;
mod deployment;
mod node;
mod problem;
mod repository;
mod system;

pub use app::*;
pub use assignment::*;
pub use deployment::*;
pub use node::*;
pub use problem::*;
pub use repository::*;
pub use system::*;
