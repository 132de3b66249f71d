//! What the site answers: people without the hub, and its other services.

mod endpoints;
mod http;

pub use endpoints::run as endpoints;
pub use http::{View, serve as http};
