//! The local orchestrator between a real hub and a real site server.

#![expect(clippy::unwrap_used, reason = "what tests share may fail as they do")]

mod adoption;
mod fleet;
mod nodes;
mod reports;
mod world;
