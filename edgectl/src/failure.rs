//! Why a command did not do what it was told, and what to do next.

use std::{fmt, path::PathBuf};

use api::Problem;

/// Why a command ends without having done its work. [`Failure::exit_code`] tells scripts which kind it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line, the context or a file of the user is wrong; repeating the command would not help.
    #[error("{0}")]
    Usage(String),
    /// The platform answered with a problem.
    #[error("{attempt}: {problem}{}", Next(.problem))]
    Refused { attempt: String, problem: Box<Problem> },
    /// An accepted order did not come out as ordered, or something on this machine failed.
    #[error("{0}")]
    Failed(String),
    /// Nobody answers at the address, or something that is not the platform.
    #[error(
        "{attempt}: {url} cannot be reached: {reason}\n  \
         next: see that the platform runs (`edgewright up` starts one), or name another address: --api of the platform, \
         --url of a site"
    )]
    Unreachable { attempt: String, url: String, reason: String },
    /// The wait ended before the order was carried out, which may still happen.
    #[error("{0}\n  next: it goes on without you; `edgectl co list deployments` shows how far it is")]
    TimedOut(String),
}

impl Failure {
    /// The exit code of the process: 1 refused or failed, 2 wrong usage, 3 unreachable, 4 timed out waiting.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { .. } | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable { .. } => 3,
            Self::TimedOut(_) => 4,
        }
    }

    pub(crate) fn refused(attempt: impl Into<String>, problem: Problem) -> Self {
        Self::Refused { attempt: attempt.into(), problem: Box::new(problem) }
    }

    /// Whether the platform may have done what was asked all the same: its answer was lost, or was an error of its own.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { problem, .. } => problem.status >= 500,
            Self::Usage(_) | Self::Failed(_) | Self::TimedOut(_) => false,
        }
    }

    /// A file of the user could not be used as attempted.
    pub(crate) fn file(attempt: &str, path: impl Into<PathBuf>, reason: impl fmt::Display) -> Self {
        Self::Failed(format!("{attempt} {}: {reason}", path.into().display()))
    }
}

/// Shows what to do next about a problem, on a line of its own; nothing when the problem says it all.
struct Next<'a>(&'a Problem);

impl fmt::Display for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = match self.0.status {
            401 => "name the file of a valid token with --token-file or in the context",
            403 => "use a token with that role",
            404 => "`edgectl co list …` shows what there is",
            412 => "somebody changed it meanwhile: look at it with `edgectl co show assignment …`, then repeat",
            _ if self.0.retryable => "try again in a moment; `edgectl co status` shows which services answer",
            _ => return Ok(()),
        };
        write!(f, "\n  next: {next}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_attempted_why_not_and_what_next() {
        let field = api::FieldError { field: "parameters.times".to_owned(), message: "must be an integer".to_owned() };
        let failure = Failure::refused("deploying hello", Problem::invalid("parameters do not fit", vec![field]));
        assert_eq!(
            failure.to_string(),
            "deploying hello: parameters do not fit\n  parameters.times: must be an integer"
        );
        let failure = Failure::refused("updating hello", Problem::precondition_failed("hello is at revision 3"));
        assert!(failure.to_string().contains("\n  next: somebody changed it meanwhile"));
    }

    #[test]
    fn each_kind_has_its_exit_code() {
        let lost = Failure::Unreachable { attempt: String::new(), url: String::new(), reason: String::new() };
        let refused = |status| Failure::refused("", Problem::new(status, ""));
        let codes = [
            (refused(409), 1),
            (Failure::Failed(String::new()), 1),
            (Failure::Usage(String::new()), 2),
            (lost, 3),
            (Failure::TimedOut(String::new()), 4),
        ];
        for (failure, code) in codes {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
        }
        assert!(refused(504).is_open() && !refused(409).is_open());
    }
}
