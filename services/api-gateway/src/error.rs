//! A problem as an HTTP answer.

use api::Problem;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

/// The media type of every refusal.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// Why a request was not carried out. Boxed: it travels in many results and is seldom there.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem::new(status.as_u16(), detail).into()
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("a problem is strings and numbers");
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM)], body).into_response();
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
