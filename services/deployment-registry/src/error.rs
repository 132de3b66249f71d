//! What can go wrong with an order, and how it is answered.

use std::error::Error;

use api::{FieldError, Problem};
use bus::{Repository, ServiceName};
use margo::{AssignmentName, NodeId};
use tracing::error;

/// Why an order was not accepted. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Readable, but against the rules.
    #[error("the order is not valid: {0:?}")]
    Invalid(Vec<FieldError>),
    /// Names are never reused.
    #[error("there is an assignment {0}")]
    NameTaken(AssignmentName),
    /// Never heard of.
    #[error("there is no assignment {0}")]
    Unknown(AssignmentName),
    /// It was removed for good.
    #[error("assignment {0} was removed")]
    Removed(AssignmentName),
    /// Somebody else was faster.
    #[error("assignment {name} is at revision {held}, not {named}")]
    Stale {
        /// Which.
        name: AssignmentName,
        /// Its revision.
        held: u64,
        /// What `If-Match` named.
        named: u64,
    },
    /// All documents of the node are more than the one message to it holds.
    #[error("node {0} would have to hold too much")]
    NodeTooLarge(NodeId),
    /// The order writes more into a repository than git-writer takes at once.
    #[error("the order writes too much into {0}")]
    WriteTooLarge(Repository),
    /// The name of who orders cannot stand in a commit.
    #[error("the name of who orders is not valid")]
    Actor,
    /// Another service did not answer, or refused.
    #[error("asking {service}")]
    Neighbour {
        /// Which.
        service: ServiceName,
        /// Its answer.
        source: Problem,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The revision that the change starts from is no longer held.
    #[error("assignment {0} has changed meanwhile")]
    Conflict(AssignmentName),
    /// SQL failed.
    #[error("using the database")]
    Sql(#[from] sqlx::Error),
    /// A row does not hold what was written.
    #[error("{column} of {row} in the database is not valid")]
    Corrupt {
        /// Whose.
        row: String,
        /// Which.
        column: &'static str,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl From<OrderError> for Problem {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Invalid(errors) => Problem::invalid("the order breaks rules", errors),
            OrderError::NameTaken(name) => {
                Problem::conflict(format!("the name {name} is taken; names are never reused, also not after a removal"))
            }
            OrderError::Unknown(name) => Problem::not_found(format!("there is no assignment {name}")),
            OrderError::Removed(name) => {
                Problem::conflict(format!("assignment {name} was removed; create one with another name"))
            }
            OrderError::Stale { name, held, named } => Problem::precondition_failed(format!(
                "assignment {name} is at revision {held}, If-Match names {named}: read it again and decide anew"
            )),
            OrderError::NodeTooLarge(node) => {
                too_large(format!("all documents of node {node} would be larger than 4 MiB compressed or 32 MiB plain"))
            }
            OrderError::WriteTooLarge(repository) => too_large(format!(
                "the order would write more than 32 MiB into {repository}: divide the targets between several assignments"
            )),
            OrderError::Actor => Problem::bad_request("the name of who orders must be one line without < and >"),
            OrderError::Neighbour { service, source } => {
                Problem::unavailable(format!("{service} is needed for this order and did not help: {source}"))
            }
            OrderError::Store(StoreError::Conflict(name)) => {
                Problem::precondition_failed(format!("assignment {name} has changed meanwhile: read it again"))
            }
            OrderError::Store(error @ (StoreError::Sql(_) | StoreError::Corrupt { .. })) => {
                error!(error = &error as &dyn Error, "order not stored");
                Problem::internal()
            }
        }
    }
}

fn too_large(message: String) -> Problem {
    Problem::invalid("the order is too large", vec![FieldError { field: "targets".to_owned(), message }])
}
