//! Who may do what: the token of a request, and the role that its route demands.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use tracing::Span;
use utoipa::openapi::OpenApi;

use crate::{
    Gateway,
    error::Refusal,
    tokens::{Role, TokenName},
};

/// Whose token a request carries.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: TokenName,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // Missing only on a route that demands no token and asks for the caller all the same.
        parts.extensions.get().cloned().ok_or_else(unknown_token)
    }
}

/// What a route demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// No token.
    Nothing,
    /// A token with a role that covers this one.
    Role(Role),
}

/// What each route demands.
#[derive(Debug)]
pub(crate) struct Demands(HashMap<String, Vec<(Method, Demand)>>);

impl Demands {
    /// Read from the OpenAPI document, so that what is told and what is done are the same.
    ///
    /// # Panics
    ///
    /// When a route says nothing of what it demands: a mistake in an attribute, found by the first start.
    pub(crate) fn of(document: &OpenApi) -> Self {
        // utoipa keeps the content of a security requirement to itself, except in JSON.
        let document = serde_json::to_value(document).expect("an OpenAPI document always has a JSON form");
        let paths = document["paths"].as_object().into_iter().flatten();
        let demands = paths.map(|(path, operations)| {
            let operations = operations.as_object().into_iter().flatten();
            let demands = operations.filter_map(|(method, operation)| {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).ok()?;
                let security = operation.pointer("/security/0").and_then(|it| it.as_object());
                let security = security.unwrap_or_else(|| panic!("{method} {path} does not say which role it demands"));
                let role = security.get("token").map(|roles| {
                    let role = roles[0].as_str().and_then(|role| role.parse().ok());
                    role.unwrap_or_else(|| panic!("{method} {path} demands an unknown role"))
                });
                Some((method, role.map_or(Demand::Nothing, Demand::Role)))
            });
            (path.clone(), demands.collect())
        });
        Self(demands.collect())
    }

    /// `None`: there is no such route.
    fn get(&self, method: &Method, route: &str) -> Option<Demand> {
        // axum answers HEAD with the handler of GET.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(route)?.iter().find(|(known, _)| known == method).map(|(_, demand)| *demand)
    }
}

/// Lets a request pass whose token covers what its route demands.
pub(crate) async fn check(
    State((gateway, demands)): State<(Arc<Gateway>, Arc<Demands>)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let route = request.extensions().get::<MatchedPath>();
    // Of what is not there, the fallbacks say so.
    let demand = route.and_then(|route| demands.get(request.method(), route.as_str())).unwrap_or(Demand::Nothing);
    if let Demand::Role(role) = demand {
        let token = bearer(request.headers()).and_then(|token| gateway.tokens.find(token)).ok_or_else(unknown_token)?;
        Span::current().record("actor", token.name.as_str());
        if !token.role.covers(role) {
            let (name, held) = (token.name.as_str(), token.role);
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                format!("this needs a token with the role {role} or admin; the token {name} has the role {held}"),
            ));
        }
        request.extensions_mut().insert(Caller { name: token.name });
    }
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn unknown_token() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "a valid token is required: send it as `Authorization: Bearer ew_…`; an administrator gives tokens",
    )
}
