//! The JSON of the REST interface under `/api/v1`, and of service requests on the bus: the same types.
//!
//! A field that is absent is absent, never `null`. Times are RFC 3339, for people; order never comes from them.

mod app;
mod assignment;
mod deployment;
mod node;
mod problem;
mod system;

pub use app::*;
pub use assignment::*;
pub use deployment::*;
pub use node::*;
pub use problem::*;
pub use system::*;
