//! The bus: what crosses it, who may say what, and the loops around it.
//!
//! - [`Subject`] and [`Pattern`] are all subjects of the platform; they are built and parsed here and nowhere else.
//! - [`service`] is the one table of services: where each runs, and which streams, folders and services it may
//!   touch.
//! - [`User`] and [`Permissions`] say what each NATS user may publish and subscribe; they are made from the same
//!   types.
//! - [`proto`] has the messages, and [`encode`] and [`decode`] are for those that travel compressed.
//! - [`report`] reads what nodes and sites say of themselves; types and limits stand there once for LO and hub.
//! - [`server`] makes the configuration of a NATS server; [`User::mint`] makes the JWTs of its users, and [`Members`] the
//!   templates of those that join.
//! - [`streams`] has the JetStream streams with their limits and reasons; [`bootstrap`] makes those of the hub, and the
//!   consumers of its services.
//! - [`OwnStream`] tells the only writer of a stream whether it is still the one that it was.
//! - [`Bus`] is a connection with typed requests, atomic batches and service endpoints.
//! - [`Front`] is a service's second connection, on which it hears and answers the tier below, to each asker its share.
//! - [`Bus::messages`] opens a durable consumer, and [`consume`] is the loop around it, which handles a message and then
//!   answers it.
//! - [`trace`] carries the OpenTelemetry context in message headers.
//!
//! ```
//! use bus::{NodeVerb, Subject, User};
//! use margo::NodeId;
//!
//! let node: NodeId = "plant/press".parse()?;
//! let report = Subject::Node(node.clone(), NodeVerb::Report);
//! assert_eq!(report.to_string(), "node.plant.press.report");
//! assert_eq!("node.plant.press.report".parse::<Subject>()?, report);
//!
//! // A node speaks for itself, and for nobody else.
//! let permissions = User::Node(node).permissions();
//! assert!(permissions.publish.contains(&"node.plant.press.>".to_owned()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "this crate alone turns subjects into texts, and hands them to the client"
)]

mod batch;
pub mod bootstrap;
mod call_id;
mod caller;
pub mod calls;
mod codec;
mod connection;
mod consume;
mod endpoint;
mod fair;
mod front;
mod groups;
mod hub_streams;
mod inbox;
mod last;
mod login;
mod mint;
mod own_stream;
mod permission;
pub mod report;
pub mod server;
pub mod service;
mod service_name;
pub mod streams;
mod subject;
pub mod trace;
mod words;

pub use batch::{BatchError, MAX_BATCH, Outgoing, more_follow};
pub use bootstrap::Bootstrap;
pub use call_id::CallId;
pub use caller::{Caller, CallerName, InvalidCallerName, Role};
pub use codec::{Assembler, DecodeError, MAX_PLAIN, decode, decode_within, encode, into_parts};
pub use connection::Bus;
pub use consume::{AckKind, Handle, consume, terminate};
pub use endpoint::{Call, ServiceEndpoints};
pub use front::{Ask, Asks, Dropped, Front, Rules, Shares};
pub use groups::Published;
pub use inbox::Asker;
pub use login::{Jwt, Login};
pub use mint::Members;
pub use own_stream::{Content, Known, Look, OwnStream};
pub use permission::{Permissions, RELAY, User};
pub use service::Tier;
pub use service_name::ServiceName;
pub use subject::{CallVerb, NodeVerb, Pattern, SiteVerb, Subject};
pub use words::InvalidSubject;

/// The messages of `proto/edgewright/v1`.
#[allow(missing_docs, rustdoc::invalid_html_tags, reason = "the .proto files carry the documentation")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/edgewright.v1.rs"));
}
