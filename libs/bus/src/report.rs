//! Reports, read: what nodes and sites say of themselves, on its way up.
//!
//! A report is read at a site before it is stored there, and again at the hub before it is stored there. Both use these
//! functions, so that the hub never refuses what a site has acknowledged. Every limit on a report stands here and nowhere
//! else; lengths are checked before anything is decoded. Fields of a later version are no reason to refuse.
//!
//! ```
//! use bus::{proto, report};
//! use prost::Message as _;
//!
//! let status = proto::NodeStatus { incarnation: 1, sequence: 7, ..Default::default() };
//! let status = report::status(&status.encode_to_vec()).unwrap();
//! assert_eq!(status.position, report::Position { generation: 0, incarnation: 1, sequence: 7 });
//! assert!(report::status(&proto::NodeStatus::default().encode_to_vec()).is_err());
//! ```

mod health;
mod limits;
mod node;
mod request;
mod window;

pub use health::{NodeHealth, SiteHealth, health};
pub use limits::{
    MAX_COUNTER, MAX_DEPLOYMENTS, MAX_POSITIONS_REQUEST, MAX_REFUSALS, MAX_REPORT, MAX_TRACES, MAX_WINDOW,
    MAX_WINDOW_MESSAGES, shown,
};
pub use node::{Capabilities, Deployment, Events, Refusal, Status, Transition, capabilities, events, status};
pub use request::{Request, request};
pub use window::{Item, PROTOCOL, Window, WindowHead, new_session, window, window_head, wrap};

/// Where a report stands among all reports of its node. Those of a later key, and of a later life of the node, come after
/// all earlier ones, so the order of the fields is the order of positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Counts the former keys of the node: one with a new key begins anew.
    pub generation: u64,
    /// Counts the lives of a node: rises when the node begins anew without its disk.
    pub incarnation: u64,
    /// Rises with every report of one incarnation.
    pub sequence: u64,
}

/// Why a message is no report. The same bytes will be just as malformed next time.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The message is larger than any report may be; it was not decoded.
    #[error("the message has {size} bytes, more than {limit}")]
    TooLarge {
        /// The length of the message in bytes.
        size: usize,
        /// The most bytes that such a message may have.
        limit: usize,
    },
    /// The bytes are no such protobuf message.
    #[error("decoding the report")]
    Proto(#[from] prost::DecodeError),
    /// A field breaks a rule.
    #[error("{field}: {rule}")]
    Field {
        /// The path of the field, such as `deployments[0].digest`.
        field: String,
        /// The rule, and what is there instead.
        rule: String,
    },
}
