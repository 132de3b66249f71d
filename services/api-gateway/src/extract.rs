//! What requests carry, taken out so that every mistake becomes a problem that names field, rule and place.

use api::{FieldError, Problem};
use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    response::IntoResponse,
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::{domain, error::Refusal};

/// A body of JSON. Its length is limited by the route.
pub(crate) struct FromJson<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for FromJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        require_media_type(request.headers(), "application/json")?;
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            let text = rejection.body_text();
            Refusal::new(rejection.into_response().status(), format!("the body could not be read: {text}"))
        })?;
        parse(&body).map(Self).map_err(Refusal::from)
    }
}

/// 415 unless the body is what the route takes. Parameters such as `charset` are left alone.
pub(crate) fn require_media_type(headers: &HeaderMap, wanted: &str) -> Result<(), Refusal> {
    let found = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Content-Type must be {wanted}, not {found}")))
}

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

/// Segments of the path.
pub(crate) struct FromPath<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for FromPath<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(segments)| Self(segments))
            .map_err(|rejection| Problem::bad_request(rejection.body_text()).into())
    }
}

/// The query.
pub(crate) struct FromQuery<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for FromQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::from_request_parts(parts, state).await;
        query.map(|Query(query)| Self(query)).map_err(|rejection| Problem::bad_request(rejection.body_text()).into())
    }
}

/// The revision that `If-Match` names.
pub(crate) struct IfMatch(pub(crate) u64);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let mut values = parts.headers.get_all(header::IF_MATCH).iter();
        let Some(value) = values.next() else {
            return Err(Refusal::new(
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
