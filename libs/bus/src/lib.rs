//! The bus: what crosses it, who may say what, and the loops around it.
//!
//! - [`Subject`] and [`Pattern`]: every subject of the platform, built and parsed here and nowhere else;
//! - [`Role`] and [`Permissions`]: what each NATS user may publish and subscribe, made from the same types;
//! - [`proto`]: the messages; [`encode`] and [`decode`] for those that travel compressed;
//! - [`streams`]: the JetStream streams with their limits and reasons;
//! - [`Bus`]: a connection with typed requests, atomic batches and service endpoints;
//! - [`consume`]: the loop of a durable consumer: handle, then answer;
//! - [`trace`]: OpenTelemetry context in message headers.

mod batch;
mod codec;
mod connection;
mod consume;
mod endpoint;
mod permission;
mod reload;
pub mod streams;
mod subject;
pub mod trace;

pub use batch::{BatchError, MAX_BATCH, Outgoing};
pub use codec::{Assembler, DecodeError, MAX_PLAIN, decode, encode, into_parts};
pub use connection::{Bus, Endpoint};
pub use consume::{AckKind, Handle, consume, terminate};
pub use endpoint::{Call, ServiceEndpoints};
pub use permission::{Permissions, Role, SYSTEM_ACCOUNT};
pub use subject::{CallVerb, InvalidSubject, Pattern, Repository, ServiceName, SiteVerb, Subject};

/// The messages of `proto/edgewright/v1`.
#[allow(missing_docs, rustdoc::invalid_html_tags, reason = "the .proto files carry the documentation")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/edgewright.v1.rs"));
}
