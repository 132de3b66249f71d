//! What can go wrong with an order, and how it is answered.

use std::error::Error;

use api::{FieldError, Problem};
use bus::ServiceName;
use margo::{AssignmentName, NodeId, RepositoryName, Revision};
use store::StoreError;
use tracing::error;

/// Why an order was not accepted. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The order can be read and breaks rules.
    #[error("the order is not valid: {0:?}")]
    Invalid(Vec<FieldError>),
    /// There is, or was, an assignment with this name, and names are never used again.
    #[error("there is an assignment {0}")]
    NameTaken(AssignmentName),
    /// There never was an assignment with this name.
    #[error("there is no assignment {0}")]
    Unknown(AssignmentName),
    /// The assignment was removed, for good.
    #[error("assignment {0} was removed")]
    Removed(AssignmentName),
    /// Another order came first and changed the assignment.
    #[error("assignment {name} is at revision {held}, not {named}")]
    Stale {
        /// The assignment that was to be changed.
        name: AssignmentName,
        /// The revision that is held now.
        held: Revision,
        /// The revision that `If-Match` named.
        named: Revision,
    },
    /// All documents of the node are more than the one message to it holds.
    #[error("node {0} would have to hold too much")]
    NodeTooLarge(NodeId),
    /// The order writes more into a repository than git-writer takes at once.
    #[error("the order writes too much into {0}")]
    WriteTooLarge(RepositoryName),
    /// Another service did not answer, or refused.
    #[error("asking {service}")]
    Neighbour { service: ServiceName, source: Problem },
    /// The order could not be stored, or what it depends on could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
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
            OrderError::Neighbour { service, source } => {
                Problem::unavailable(format!("{service} is needed for this order and did not help: {source}"))
            }
            OrderError::Store(StoreError::Conflict { place, .. }) => {
                Problem::precondition_failed(format!("assignment {place} has changed meanwhile: read it again"))
            }
            OrderError::Store(error @ StoreError::Unreachable { .. }) => {
                error!(error = &error as &dyn Error, "order not stored");
                Problem::unavailable("the database of orders cannot be used now; try again")
            }
            // A write that is too large was refused before, by its repository.
            OrderError::Store(
                error @ (StoreError::Refused { .. } | StoreError::Corrupt { .. } | StoreError::TooLarge { .. }),
            ) => {
                error!(error = &error as &dyn Error, "order not stored");
                Problem::internal()
            }
        }
    }
}

fn too_large(message: String) -> Problem {
    Problem::invalid("the order is too large", vec![FieldError { field: "targets".to_owned(), message }])
}
