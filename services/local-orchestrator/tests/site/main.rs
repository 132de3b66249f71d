//! The local orchestrator between a real hub and a real site server.

#![expect(clippy::unwrap_used, reason = "what tests share may fail as they do")]

mod adoption;
mod commits;
mod fleet;
mod folder_road;
mod hostile;
mod nodes;
mod observer;
mod reports;
mod roads;
mod world;
