//! What the answers of all HTTP listeners have in common: problems, and the check of a bearer token.

use api::Problem;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use margo::Digest;

/// The media type of a problem (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not carried out, as `application/problem+json`. The problem is boxed because it travels in many
/// results and is seldom there.
#[derive(Debug)]
pub struct ProblemResponse(Box<Problem>);

impl ProblemResponse {
    /// Makes a problem of this status. `detail` tells people what is wrong.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem::new(status.as_u16(), detail).into()
    }
}

impl ProblemResponse {
    /// Returns the HTTP status of the answer.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Problem> for ProblemResponse {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for ProblemResponse {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self.0).expect("a problem is strings and numbers");
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

/// Reads the bearer token of a request, and returns `None` when there is none in the form of RFC 6750.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A token that admits to one listener. Only its hash is kept.
#[derive(Clone, Copy, Debug)]
pub struct BearerToken(Digest);

impl BearerToken {
    /// Takes the token that has to be presented.
    pub fn new(token: &str) -> Self {
        Self(Digest::of(token.as_bytes()))
    }

    /// Tells whether the presented text is the token. Hashes are compared, so that the time this takes tells nothing
    /// about the token.
    pub fn is(&self, presented: &str) -> bool {
        Digest::of(presented.as_bytes()) == self.0
    }

    /// Tells whether a request carries the token.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        bearer(headers).is_some_and(|presented| self.is(presented))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_admitted() {
        let token = BearerToken::new("secret");
        let with = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
        assert!(token.admits(&with("Bearer secret")));
        assert!(token.admits(&with("bearer secret")));
        for bad in ["", "secret", "Basic secret", "Bearer", "Bearer Secret", "Bearer secret2"] {
            assert!(!token.admits(&with(bad)), "{bad}");
        }
        assert!(!token.admits(&HeaderMap::new()));
    }
}
