//! The route table names every handler once. The attributes over the handlers say method, path, role and forms; router,
//! OpenAPI document and access check are all made from them.

use std::{sync::Arc, time::Duration};

use api::Problem;
use axum::{Router, extract::State, middleware::from_fn_with_state};
use bytes::Bytes;
use http::{HeaderName, header};
use utoipa::{
    Modify, OpenApi as _,
    openapi::{
        Content, OpenApi, Ref, RefOr, Response,
        path::Operation,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway, apps, assignments, calls, deployments,
    edge::{Limit, limit},
    sites, status,
};

/// How many JSON requests are in work at once. Each holds a body of at most 1 MiB and waits for another service.
const REQUESTS: usize = 256;

/// How many of them may be one token's: a token in foreign hands holds up nobody else.
const REQUESTS_OF_CALLER: usize = 64;

/// The longest time for a JSON request. A request on the bus takes at most 10 s, and some handlers make two.
const REQUEST_TIME: Duration = Duration::from_secs(30);

/// How many uploads are in work at once. Each holds one connection to app-registry and a few chunks.
const UPLOADS: usize = 8;

/// How many of them may be one token's.
const UPLOADS_OF_CALLER: usize = 4;

/// The longest time for an upload: the largest one at 300 kB/s.
const UPLOAD_TIME: Duration = Duration::from_secs(3_600);

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Edgewright",
        description = "Brings applications to edge nodes and keeps them as ordered. Every refusal is an RFC 9457 problem.",
    ),
    components(schemas(Problem)),
    modifiers(&TokenScheme),
)]
struct Document;

struct TokenScheme;

impl Modify for TokenScheme {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A named token. A route lists the role that it demands; `admin` covers all, everyone reads.",
            ))
            .build();
        document.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// Makes the router of all routes, and the OpenAPI document that describes them.
pub(crate) fn router() -> (Router<Arc<Gateway>>, OpenApi) {
    let requests = OpenApiRouter::default()
        .routes(routes!(apps::list_apps))
        .routes(routes!(apps::get_app))
        .routes(routes!(sites::create_site, sites::list_sites))
        .routes(routes!(sites::create_node, sites::list_nodes))
        .routes(routes!(sites::get_node))
        .routes(routes!(sites::get_repository))
        .routes(routes!(calls::ping_node))
        .routes(routes!(sites::replace_site_key, sites::revoke_site_key))
        .routes(routes!(sites::replace_node_key, sites::revoke_node_key))
        .routes(routes!(assignments::create_assignment, assignments::list_assignments))
        .routes(routes!(assignments::get_assignment, assignments::update_assignment, assignments::remove_assignment))
        .routes(routes!(assignments::list_orders))
        .routes(routes!(deployments::list_deployments))
        .routes(routes!(deployments::get_deployment))
        .routes(routes!(deployments::get_history))
        .routes(routes!(calls::get_logs))
        .routes(routes!(calls::restart_deployment))
        .routes(routes!(calls::retry_deployment))
        .routes(routes!(status::get_status))
        .routes(routes!(get_openapi))
        .layer(from_fn_with_state(Limit::new(REQUESTS, REQUESTS_OF_CALLER, REQUEST_TIME), limit));
    let uploads = OpenApiRouter::default()
        .routes(routes!(apps::add_app))
        .layer(from_fn_with_state(Limit::new(UPLOADS, UPLOADS_OF_CALLER, UPLOAD_TIME), limit));
    let all = OpenApiRouter::with_openapi(Document::openapi()).nest("/api/v1", requests.merge(uploads));
    let (router, mut document) = all.split_for_parts();
    for operation in operations(&mut document) {
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && response.description.is_empty()
            {
                response.description = meaning(status).to_owned();
            }
        }
        let problem = Content::new(Some(Ref::from_schema_name("Problem")));
        let mut refusal = Response::new("Refused, and why.");
        refusal.content.insert(service::PROBLEM_JSON.to_owned(), problem.into());
        operation.responses.responses.insert("default".to_owned(), refusal.into());
    }
    (router, document)
}

/// The description of an answer that its handler does not describe, because OpenAPI 3.1 demands one.
fn meaning(status: &str) -> &'static str {
    match status {
        "201" => "Added.",
        "202" => "Accepted: the order is durable and will be carried out.",
        _ => "As asked.",
    }
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document
        .paths
        .paths
        .values_mut()
        .flat_map(|item| [&mut item.get, &mut item.post, &mut item.put, &mut item.delete].into_iter().flatten())
}

/// The OpenAPI 3.1 document, as `GET /api/v1/openapi.json` answers it and `docs/openapi.json` keeps it.
pub fn openapi() -> String {
    router().1.to_pretty_json().expect("an OpenAPI document always has a JSON form")
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "platform", security(()), responses((status = 200, description = "OpenAPI 3.1.")))]
async fn get_openapi(State(gateway): State<Arc<Gateway>>) -> ([(HeaderName, &'static str); 1], Bytes) {
    ([(header::CONTENT_TYPE, "application/json")], gateway.openapi.clone())
}
