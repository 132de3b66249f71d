//! Who may do what: the token that a request carries, held against the role that its route demands.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use bus::{Caller, Role};
use http::{Method, StatusCode, request::Parts};
use tracing::Span;
use utoipa::openapi::OpenApi;

use service::{ProblemResponse, bearer};

use crate::Gateway;

/// The caller of a request. A handler that takes one only runs when the caller's token is known and its role covers
/// what the route demands.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Authenticated {
    type Rejection = ProblemResponse;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ProblemResponse> {
        // `check` puts the caller there, unless the route demands no token: then its handler must not ask for a caller.
        parts.extensions.get().cloned().ok_or_else(unknown_token)
    }
}

/// What a route demands of its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    /// Anybody may call the route, also without a token.
    Nothing,
    /// The caller needs a token with this role or one that covers it.
    Role(Role),
}

/// What each method of each route demands, by the path of the route.
#[derive(Debug)]
pub(crate) struct Demands(HashMap<String, Vec<(Method, Demand)>>);

impl Demands {
    /// Reads the demands from the OpenAPI document, so that what callers are told and what is done are the same.
    ///
    /// # Panics
    ///
    /// Panics when a route does not say what it demands, or demands an unknown role. That is a mistake in an attribute
    /// over a handler, which the first start finds.
    pub(crate) fn of(document: &OpenApi) -> Self {
        // utoipa keeps the content of a security requirement to itself, except in JSON.
        let document = serde_json::to_value(document).expect("an OpenAPI document always has a JSON form");
        let paths = document["paths"].as_object().into_iter().flatten();
        let demands = paths.map(|(path, operations)| {
            let operations = operations.as_object().into_iter().flatten();
            let demands = operations.filter_map(|(method, operation)| {
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).ok()?;
                let security = operation.pointer("/security/0").and_then(|security| security.as_object());
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

    /// Returns `None` when there is no such route or it does not know the method.
    fn get(&self, method: &Method, route: &str) -> Option<Demand> {
        // axum answers HEAD with the handler of GET.
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(route)?.iter().find(|(known, _)| known == method).map(|(_, demand)| *demand)
    }
}

/// Lets a request pass whose token covers what its route demands; others are answered with 401 or 403.
pub(crate) async fn check(
    State((gateway, demands)): State<(Arc<Gateway>, Arc<Demands>)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let route = request.extensions().get::<MatchedPath>();
    // A request to a route that does not exist passes too: the fallbacks answer it.
    let demand = route.and_then(|route| demands.get(request.method(), route.as_str())).unwrap_or(Demand::Nothing);
    if let Demand::Role(role) = demand {
        let token = bearer(request.headers()).and_then(|token| gateway.tokens.find(token)).ok_or_else(unknown_token)?;
        Span::current().record("caller", token.name.as_str());
        if !token.role.covers(role) {
            let (name, held) = (token.name.as_str(), token.role);
            return Err(ProblemResponse::new(
                StatusCode::FORBIDDEN,
                format!("this needs a token with the role {role} or admin; the token {name} has the role {held}"),
            ));
        }
        let caller = Caller { tenant: gateway.tenant.clone(), name: token.name, roles: vec![token.role] };
        request.extensions_mut().insert(Authenticated(caller));
    }
    Ok(next.run(request).await)
}

fn unknown_token() -> ProblemResponse {
    ProblemResponse::new(
        StatusCode::UNAUTHORIZED,
        "a valid token is required: send it as `Authorization: Bearer ew_…`; an administrator gives tokens",
    )
}
