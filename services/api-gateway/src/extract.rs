//! Extractors for what requests carry. Each turns a mistake of the caller into a problem that names field, rule and
//! place, where axum's own ones would answer with a plain text.

use api::{FieldError, Problem};
use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::IntoResponse,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use service::ProblemResponse;

use crate::domain;

/// A JSON body. It has to be sent as `application/json`; its length is limited around all routes (`edge.rs`).
pub(crate) struct FromJson<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for FromJson<T> {
    type Rejection = ProblemResponse;

    async fn from_request(request: Request, state: &S) -> Result<Self, ProblemResponse> {
        require_media_type(request.headers(), "application/json")?;
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            let text = rejection.body_text();
            ProblemResponse::new(rejection.into_response().status(), format!("the body could not be read: {text}"))
        })?;
        parse(&body).map(Self).map_err(ProblemResponse::from)
    }
}

/// Fails with 415 unless the body has the media type that the route takes. Parameters such as `charset` do not matter.
pub(crate) fn require_media_type(headers: &HeaderMap, wanted: &str) -> Result<(), ProblemResponse> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(ProblemResponse::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Content-Type must be {wanted}, not {found}")))
}

/// Reads a body. Fails with 400 and the place when it is no JSON, and with 422 and the path of the field when it is
/// JSON of another form.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            Category::Data => {
                let errors = vec![FieldError { field, message: error.to_string() }];
                Problem::invalid("the body breaks the rules of its fields", errors)
            }
            Category::Syntax | Category::Eof | Category::Io => {
                Problem::bad_request(format!("the body is not JSON: {error}"))
            }
        }
    })?;
    deserializer.end().map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    Ok(parsed)
}

/// The named segments of the path, as types that check them.
pub(crate) struct FromPath<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for FromPath<T> {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Self(segments))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()).into())
    }
}

/// The query of the URL.
pub(crate) struct FromQuery<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for FromQuery<T> {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ProblemResponse> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| Problem::bad_request(rejection.body_text()).into())
    }
}

/// The revision that the header `If-Match` names. It is required: 428 when it is missing, 400 when it is not one ETag
/// as GET gave it. Whether the revision is still held is decided by deployment-registry.
pub(crate) struct IfMatch(pub(crate) u64);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let Some(value) = values.next() else {
            return Err(ProblemResponse::new(
                StatusCode::PRECONDITION_REQUIRED,
                "If-Match is required: GET the assignment and send back its ETag, so that nobody's change is overwritten",
            ));
        };
        let revision = value.to_str().ok().and_then(domain::revision).filter(|_| values.next().is_none());
        let malformed = || Problem::bad_request("If-Match must be one ETag as GET gave it, such as \"3\"").into();
        revision.map(Self).ok_or_else(malformed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_wrong_field_is_told_with_its_path_and_place() {
        let problem = parse::<BTreeMap<String, Vec<u8>>>(b"{\n \"a\": [1, true]}").unwrap_err();
        assert_eq!(problem.status, 422);
        assert_eq!(problem.errors[0].field, "a[1]");
        assert!(problem.errors[0].message.ends_with("at line 2 column 14"), "{problem}");
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for bad in ["", "{", "{} {}", "{\"a\" 1}"] {
            let problem = parse::<BTreeMap<String, u8>>(bad.as_bytes()).unwrap_err();
            assert_eq!(problem.status, 400, "{bad}");
            assert!(problem.detail.unwrap().contains("line 1 column"), "{bad}");
        }
    }
}
