//! The platform as its users run it: the real programs, on loopback addresses of their own for each test.
//!
//! [`up`] runs everything with `edgewright up`; the others run one process for each service, so that each can be
//! killed by itself. They need the programs that `cargo build --workspace` makes (`make test` does).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod init;
mod keys;
mod kills;
mod logins;
mod offline;
mod receiver;
mod refusals;
mod repositories;
mod tls;
mod trace;
mod up;
mod way_back;
