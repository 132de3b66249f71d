//! Routes to assignments, and to the orders that made them; deployment-registry owns both.

use std::{collections::BTreeMap, sync::Arc};

use api::{
    Accepted, AppRef, Assignment, AssignmentSpec, ByName, CreateAssignment, Order, Problem, RemoveRequest, Targets,
    UpdateAssignment, UpdateRequest, Volumes,
};
use axum::{
    Json,
    extract::State,
    response::{AppendHeaders, IntoResponse},
};
use bus::ServiceName::DeploymentRegistry;
use http::{StatusCode, header};
use margo::{AssignmentName, ParameterValue};
use serde::Deserialize;
use utoipa::IntoParams;

use service::ProblemResponse;

use crate::{
    Gateway,
    access::Authenticated,
    domain,
    extract::{FromJson, FromPath, FromQuery, IfMatch},
};

/// The body of [`CreateAssignment`] and [`UpdateAssignment`]. It has all fields side by side, although the API types
/// nest them with serde's `flatten`: with that, an unknown field would be accepted, and a wrong one would be told
/// without its path.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Body {
    name: Option<AssignmentName>,
    app: AppRef,
    profile: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, ParameterValue>,
    targets: Targets,
    volumes: Option<Volumes>,
    reason: Option<String>,
}

impl Body {
    fn into_parts(self) -> (Option<AssignmentName>, AssignmentSpec, Option<String>) {
        let Self { name, app, profile, parameters, targets, volumes, reason } = self;
        (name, AssignmentSpec { app, profile, parameters, targets, volumes }, reason)
    }
}

/// Adds the ETag that the next order about this assignment has to name in `If-Match`.
fn with_etag(revision: u64, body: impl IntoResponse) -> impl IntoResponse {
    (AppendHeaders([(header::ETAG, domain::etag(revision))]), body)
}

fn accepted(accepted: Accepted) -> impl IntoResponse {
    (StatusCode::ACCEPTED, with_etag(accepted.assignment.revision, Json(accepted)))
}

/// Create an assignment
///
/// 202: the order is durable and will be carried out.
#[utoipa::path(
    post, path = "/assignments", tag = "assignments", security(("token" = ["deployer"])),
    request_body = CreateAssignment,
    responses((status = 202, body = Accepted, headers(("ETag" = String)))),
)]
pub(crate) async fn create_assignment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromJson(body): FromJson<Body>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let (name, spec, reason) = body.into_parts();
    let name = name.ok_or_else(|| invalid("name", "is required"))?;
    let order = CreateAssignment { name, spec, reason };
    gateway.ask(DeploymentRegistry, "create", &order, &caller).await.map(accepted)
}

/// List the assignments
#[utoipa::path(
    get, path = "/assignments", tag = "assignments", security(("token" = ["viewer"])),
    responses((status = 200, body = Vec<Assignment>)),
)]
pub(crate) async fn list_assignments(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<Assignment>>, ProblemResponse> {
    gateway.ask(DeploymentRegistry, "list", &(), &caller).await.map(Json)
}

/// One assignment
#[utoipa::path(
    get, path = "/assignments/{name}", tag = "assignments", security(("token" = ["viewer"])),
    params(("name" = String, Path)),
    responses((status = 200, body = Assignment, headers(("ETag" = String)))),
)]
pub(crate) async fn get_assignment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(name): FromPath<AssignmentName>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let assignment: Assignment = gateway.ask(DeploymentRegistry, "get", &ByName { name }, &caller).await?;
    Ok(with_etag(assignment.revision, Json(assignment)))
}

/// Update an assignment
///
/// The body says what it means from now on, whole. 202: the order is durable and will be carried out.
#[utoipa::path(
    put, path = "/assignments/{name}", tag = "assignments", security(("token" = ["deployer"])),
    params(
        ("name" = String, Path),
        ("If-Match" = String, Header, description = "The ETag that GET gave. 428 without it, 412 when it is stale."),
    ),
    request_body = UpdateAssignment,
    responses((status = 202, body = Accepted, headers(("ETag" = String)))),
)]
pub(crate) async fn update_assignment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(name): FromPath<AssignmentName>,
    IfMatch(revision): IfMatch,
    FromJson(body): FromJson<Body>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let (in_body, spec, reason) = body.into_parts();
    if in_body.is_some_and(|in_body| in_body != name) {
        return Err(invalid("name", "must be that of the path or absent: a name never changes"));
    }
    let order = UpdateRequest { name, revision, update: UpdateAssignment { spec, reason } };
    gateway.ask(DeploymentRegistry, "update", &order, &caller).await.map(accepted)
}

/// The query of DELETE, which has no body that could carry a reason.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Why {
    /// Why, for the audit.
    pub(crate) reason: Option<String>,
}

/// Remove an assignment
///
/// 202: the order is durable and will be carried out. The name stays taken.
#[utoipa::path(
    delete, path = "/assignments/{name}", tag = "assignments", security(("token" = ["deployer"])),
    params(
        ("name" = String, Path),
        ("If-Match" = String, Header, description = "The ETag that GET gave. 428 without it, 412 when it is stale."),
        Why,
    ),
    responses((status = 202, body = Accepted, headers(("ETag" = String)))),
)]
pub(crate) async fn remove_assignment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(name): FromPath<AssignmentName>,
    IfMatch(revision): IfMatch,
    FromQuery(Why { reason }): FromQuery<Why>,
) -> Result<impl IntoResponse, ProblemResponse> {
    let order = RemoveRequest { name, revision, reason };
    gateway.ask(DeploymentRegistry, "remove", &order, &caller).await.map(accepted)
}

/// List the orders, newest first
#[utoipa::path(get, path = "/orders", tag = "assignments", security(("token" = ["viewer"])), responses((status = 200, body = Vec<Order>)))]
pub(crate) async fn list_orders(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<Order>>, ProblemResponse> {
    gateway.ask(DeploymentRegistry, "orders", &(), &caller).await.map(Json)
}

fn invalid(field: &str, rule: &str) -> ProblemResponse {
    let error = api::FieldError { field: field.to_owned(), message: rule.to_owned() };
    Problem::invalid("the body breaks the rules of its fields", vec![error]).into()
}
