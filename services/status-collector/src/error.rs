//! What can go wrong.

use bus::Subject;

/// A message that will be just as malformed next time: it goes to the dead letters with this text.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The subject names no node.
    #[error(transparent)]
    Subject(#[from] bus::InvalidSubject),
    /// A subject of the platform that carries something else.
    #[error("{0} carries no report of a node")]
    NotAReport(Subject),
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
