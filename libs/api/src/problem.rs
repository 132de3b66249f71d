//! Problems (`application/problem+json`, RFC 9457): the one form in which a request is refused.

use std::fmt;

use process::escaped;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a request was not carried out, in the form of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `about:blank`, or a URI that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What was attempted, what is wrong, and what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The fields of the request that are wrong, each with its rule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Whether the same request may succeed later without being changed.
    #[serde(default)]
    pub retryable: bool,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The path of the field in the request.
    pub field: String,
    /// The rule that the field breaks.
    pub message: String,
}

impl Problem {
    /// Makes a problem of this status with its usual title. `detail` tells people what is wrong and what to do.
    pub fn new(status: u16, detail: impl Into<String>) -> Self {
        let title = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            408 => "Request Timeout",
            409 => "Conflict",
            412 => "Precondition Failed",
            413 => "Content Too Large",
            415 => "Unsupported Media Type",
            422 => "Unprocessable Content",
            428 => "Precondition Required",
            429 => "Too Many Requests",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "Internal Server Error",
        };
        Self {
            kind: "about:blank".to_owned(),
            title: title.to_owned(),
            status,
            detail: Some(detail.into()),
            errors: Vec::new(),
            retryable: matches!(status, 408 | 429 | 500 | 503 | 504),
        }
    }

    /// The request cannot be read (400).
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400, detail)
    }

    /// Nothing has this name, or nothing stands at this path (404).
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, detail)
    }

    /// The request contradicts what is there, such as a name that is taken (409).
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, detail)
    }

    /// What is there no longer has the revision that `If-Match` names (412).
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(412, detail)
    }

    /// The request can be read, but the fields in `errors` break rules (422).
    pub fn invalid(detail: impl Into<String>, errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(422, detail) }
    }

    /// The request cannot be carried out now and may succeed later (503).
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(503, detail)
    }

    /// The service itself failed (500). The cause is told in its log and not to the caller.
    pub fn internal() -> Self {
        Self::new(500, "the request failed inside the service; its log has the cause")
    }
}

/// Shows the detail on a line, and each field on one of its own. The texts may hold names that somebody sent, so what could
/// break a line or steer a terminal is escaped in them.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escaped(self.detail.as_deref().unwrap_or(&self.title)))?;
        for error in &self.errors {
            write!(f, "\n  {}: {}", escaped(&error.field), escaped(&error.message))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_problem_breaks_no_line_and_steers_no_terminal() {
        let field = FieldError { field: "a\n  next: rm\u{1b}[2J".to_owned(), message: "must\rgo".to_owned() };
        let problem = Problem::invalid("no\nINFO forged", vec![field]);
        assert_eq!(problem.to_string(), "no\\nINFO forged\n  a\\n  next: rm\\u{1b}[2J: must\\rgo");
    }
}
