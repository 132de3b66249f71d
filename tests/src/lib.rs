//! A whole platform of real processes, for tests and measurements that kill, count or time them.
//!
//! [`Platform`] starts each service, NATS server and agent as a process of its own, on loopback addresses of its own, and
//! ends them when it is dropped. The programs are those that `cargo build --workspace` made in the same target folder.

#![allow(clippy::disallowed_methods, reason = "it serves tests and measurements only")]

pub mod campaign;
mod platform;
mod process;
pub mod random;
mod updates;

pub use platform::{
    Application, Platform, SiteLayout, after, answers, central, edgectl, edgectl_json, edgectl_ok, falls_silent, sample,
};
pub use process::{Process, Runner, Start, kill_runners, last_lines, output, program, runners, starts};
