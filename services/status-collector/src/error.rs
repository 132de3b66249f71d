//! What can go wrong, and how the bus is answered.

use std::error::Error;

use api::Problem;
use bus::Subject;
use store::StoreError;
use tracing::error;

/// A message that will be just as malformed next time: it goes to the dead letters with this text.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The subject names no node.
    #[error(transparent)]
    Subject(#[from] bus::InvalidSubject),
    /// A subject of the platform that carries something else.
    #[error("{0} carries no report of a node")]
    NotAReport(Subject),
    /// It breaks a rule for reports.
    #[error(transparent)]
    Report(#[from] bus::report::Malformed),
}

/// How the bus is answered when the database fails.
pub fn store_problem(error: &StoreError) -> Problem {
    error!(error = error as &dyn Error, "statuses not read");
    match error {
        StoreError::Unreachable { .. } => {
            Problem::unavailable("the database of statuses cannot be read now; try again")
        }
        // The last two are about writing, and requests only read.
        StoreError::Refused { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Conflict { .. }
        | StoreError::TooLarge { .. } => Problem::internal(),
    }
}
