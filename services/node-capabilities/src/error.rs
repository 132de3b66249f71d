//! What can go wrong, and how the bus is answered.

use std::{error::Error, time::Duration};

use api::Problem;
use bus::{AckKind, Subject};
use margo::{ClientName, DeviceId, NodeId};
use store::StoreError;
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
    /// It breaks a rule for reports.
    #[error(transparent)]
    Report(#[from] bus::report::Malformed),
}

/// How the bus is answered when the database fails.
pub fn store_problem(error: StoreError) -> Problem {
    error!(error = &error as &dyn Error, "the database failed");
    match error {
        StoreError::Unreachable { .. } => Problem::unavailable("the database of nodes cannot be used now; try again"),
        // No order here is decided on an earlier reading, and its commit is a few lines.
        StoreError::Refused { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Conflict { .. }
        | StoreError::TooLarge { .. } => Problem::internal(),
    }
}

impl From<Refused> for Problem {
    fn from(reason: Refused) -> Self {
        let text = reason.to_string();
        match reason {
            Refused::Invalid(errors) => Self::invalid(text, errors),
            Refused::NameTaken(_) | Refused::IdentityTaken(_) | Refused::TooManyKeys(_) => Self::conflict(text),
            Refused::NoSite(_) | Refused::NoOwner(_) => Self::not_found(text),
        }
    }
}

/// Why a report was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The message is no report, or breaks a rule for reports.
    #[error("the report is malformed")]
    Malformed(#[from] Malformed),
    /// No order has added the node that is reported of.
    #[error("node {0} does not exist")]
    UnknownNode(NodeId),
    /// No order has added the client that reports.
    #[error("client {0} does not exist")]
    UnknownClient(ClientName),
    /// The document names another device than the node is.
    #[error("document: properties.id: must be {wanted}, is {found}")]
    OtherDevice {
        /// The device that the document names.
        found: DeviceId,
        /// The device that the node is.
        wanted: DeviceId,
    },
    /// The database failed; the report comes again.
    #[error("recording the report")]
    Store(#[from] StoreError),
}

impl ObserveError {
    /// How to answer the bus.
    pub fn ack(&self) -> AckKind {
        match self {
            // A site may speak of its nodes as soon as they were added, and of no others.
            Self::Malformed(_) | Self::UnknownNode(_) | Self::UnknownClient(_) | Self::OtherDevice { .. } => {
                AckKind::Term
            }
            Self::Store(_) => AckKind::Nak(Some(RETRY_DELAY)),
        }
    }
}
