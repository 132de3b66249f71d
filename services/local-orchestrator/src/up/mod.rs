//! Site → hub: what nodes report is stored at the site, then relayed.

mod relay;
mod reports;
mod telemetry;
mod turn;

pub use relay::{Relay, waiting};
pub use reports::Reporter;
pub use telemetry::Telemetry;
