//! What tests share: real servers of their own, lines that a test can cut, and waiting for a state.

mod address;
mod nats;
mod proxy;
mod wait;

pub use address::loopback;
pub use nats::{NatsServer, nats_server_binary};
pub use proxy::Proxy;
pub use wait::{wait_for, wait_for_within};
