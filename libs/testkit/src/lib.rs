//! What tests share: real servers of their own, lines that a test can cut, and waiting for a state.
//!
//! ```no_run
//! use bus::{Bus, ServiceName, User};
//! use testkit::{NatsServer, wait_for};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let user = User::Central(ServiceName::GitWriter);
//! let mut server = NatsServer::start(std::slice::from_ref(&user)).await;
//! let bus = Bus::connect(&server.login(&user)).await?;
//! bus.connected().await;
//!
//! server.kill().await;
//! wait_for("the connection to be lost", async || {
//!     if bus.is_connected() { Err("connected") } else { Ok(()) }
//! })
//! .await;
//! # Ok(())
//! # }
//! ```

mod address;
mod nats;
mod postgres;
mod proxy;
mod wait;

pub use address::loopback;
pub use nats::{NatsServer, nats_server_binary};
pub use postgres::{Postgres, on_each_database};
pub use proxy::Proxy;
pub use wait::{wait_for, wait_for_within};
