//! What can go wrong, and how the bus is answered.

use std::{error::Error, time::Duration};

use api::Problem;
use bus::{AckKind, Subject};
use margo::{ClientName, NodeId};
use tracing::error;

use crate::domain::Refused;

/// Pause before a message comes again that the database could not take.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A message that will be just as malformed next time.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The subject names no node and no client.
    #[error(transparent)]
    Subject(#[from] bus::InvalidSubject),
    /// A subject of the platform that carries something else.
    #[error("{0} carries neither capabilities nor a site's health")]
    NotOurs(Subject),
    /// Not this protobuf message.
    #[error("decoding the report")]
    Proto(#[from] prost::DecodeError),
    /// A field breaks a rule.
    #[error("{field}: {rule}")]
    Field {
        /// Its path.
        field: String,
        /// The rule, and what is there instead.
        rule: String,
    },
}

/// Why the database could not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused, or cannot be reached.
    #[error("asking the database")]
    Database(#[from] sqlx::Error),
    /// It holds what we never write.
    #[error("the database holds a {what} that is not valid: {reason}")]
    Corrupt {
        /// Which column.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<StoreError> for Problem {
    fn from(failure: StoreError) -> Self {
        error!(error = &failure as &dyn Error, "the database failed");
        match failure {
            StoreError::Database(_) => Self::unavailable("the database of nodes cannot be used now; try again"),
            StoreError::Corrupt { .. } => Self::internal(),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Invalid(errors) => Self::invalid(text, errors),
            Refused::NameTaken(_) | Refused::KeyTaken(_) => Self::conflict(text),
            Refused::NoSite(_) => Self::not_found(text),
        }
    }
}

/// Why a report was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// It is no report.
    #[error("the report is malformed")]
    Malformed(#[from] Malformed),
    /// Nobody added this node.
    #[error("node {0} does not exist")]
    UnknownNode(NodeId),
    /// Nobody added this client.
    #[error("client {0} does not exist")]
    UnknownClient(ClientName),
    /// It may be recorded later.
    #[error("recording the report")]
    Store(#[from] StoreError),
}

impl ObserveError {
    /// How to answer the bus.
    pub fn ack(&self) -> AckKind {
        match self {
            // A site may speak of its nodes as soon as they were added, and of no others.
            Self::Malformed(_) | Self::UnknownNode(_) | Self::UnknownClient(_) => AckKind::Term,
            Self::Store(_) => AckKind::Nak(Some(RETRY_DELAY)),
        }
    }
}
