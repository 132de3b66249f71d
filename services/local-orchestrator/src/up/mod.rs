//! Site → hub: what nodes report is stored at the site, then relayed in windows.

mod lane;
mod relay;
mod reports;
mod telemetry;
mod turn;

pub use lane::waiting;
pub use relay::Relay;
pub use reports::Reporter;
pub use telemetry::Telemetry;
