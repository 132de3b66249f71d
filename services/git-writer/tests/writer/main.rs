//! git-writer as a whole, on a real NATS server with the users and permissions of production.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod mirrors;
mod rows;
mod serving;
mod stage;
