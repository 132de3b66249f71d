//! What tests share: real servers of their own, services that run on them, lines that a test can cut, samples, and
//! waiting for a state.
//!
//! ```no_run
//! use bus::{ServiceName, User};
//! use testkit::{NatsServer, wait_for};
//!
//! # async fn example() {
//! let mut server = NatsServer::start(&[User::Central(ServiceName::GitWriter)]).await;
//! let bus = server.connect_central(ServiceName::GitWriter).await;
//!
//! server.kill().await;
//! wait_for("the connection to be lost", async || {
//!     if bus.is_connected() { Err("connected") } else { Ok(()) }
//! })
//! .await;
//! # }
//! ```

#![allow(clippy::disallowed_methods, reason = "it serves tests only")]

mod address;
mod certificates;
mod docker;
mod nats;
mod postgres;
mod programs;
mod proxy;
mod registry;
mod running;
mod samples;
mod telemetry;
mod wait;

pub use address::loopback;
pub use certificates::Certificates;
pub use docker::{BusyboxImage, DockerEngine, NotRun, docker_compose_binary};
pub use nats::{NatsServer, connect, credentials, nats_server_binary};
pub use postgres::{Postgres, on_each_database};
pub use programs::kill_programs_of;
pub use proxy::Proxy;
pub use registry::DockerRegistry;
pub use running::Running;
pub use samples::{HELLO, ada};
pub use telemetry::start_traces;
pub use wait::{wait_for, wait_for_within};
