//! Routes to sites and nodes; node-capabilities owns both.

use std::sync::Arc;

use api::{CreateNode, CreateSite, Node, NodeCreated, Problem, Site, SiteCreated};
use axum::{Json, extract::State};
use bus::ServiceName;
use http::StatusCode;
use margo::{NodeId, NodeName, SiteName};

use service::ProblemResponse;

use crate::{
    Gateway,
    access::Authenticated,
    extract::{FromJson, FromPath},
};

/// Add a site
#[utoipa::path(
    post, path = "/sites", tag = "sites", security(("token" = ["supplier"])),
    request_body = CreateSite, responses((status = 201, body = SiteCreated)),
)]
pub(crate) async fn create_site(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromJson(site): FromJson<CreateSite>,
) -> Result<(StatusCode, Json<SiteCreated>), ProblemResponse> {
    let created = gateway.ask(ServiceName::NodeCapabilities, "create-site", &site, &caller).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// List the sites
#[utoipa::path(get, path = "/sites", tag = "sites", security(("token" = ["viewer"])), responses((status = 200, body = Vec<Site>)))]
pub(crate) async fn list_sites(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<Site>>, ProblemResponse> {
    gateway.ask(ServiceName::NodeCapabilities, "sites", &(), &caller).await.map(Json)
}

/// Add a node
#[utoipa::path(
    post, path = "/nodes", tag = "nodes", security(("token" = ["supplier"])),
    request_body = CreateNode, responses((status = 201, body = NodeCreated)),
)]
pub(crate) async fn create_node(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromJson(node): FromJson<CreateNode>,
) -> Result<(StatusCode, Json<NodeCreated>), ProblemResponse> {
    let created = gateway.ask(ServiceName::NodeCapabilities, "create-node", &node, &caller).await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// List the nodes
#[utoipa::path(get, path = "/nodes", tag = "nodes", security(("token" = ["viewer"])), responses((status = 200, body = Vec<Node>)))]
pub(crate) async fn list_nodes(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<Node>>, ProblemResponse> {
    gateway.ask(ServiceName::NodeCapabilities, "nodes", &(), &caller).await.map(Json)
}

/// One node
#[utoipa::path(
    get, path = "/nodes/{site}/{node}", tag = "nodes", security(("token" = ["viewer"])),
    params(("site" = String, Path), ("node" = String, Path)),
    responses((status = 200, body = Node)),
)]
pub(crate) async fn get_node(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath((site, node)): FromPath<(SiteName, NodeName)>,
) -> Result<Json<Node>, ProblemResponse> {
    let name = NodeId::new(site.client(), node);
    let nodes: Vec<Node> = gateway.ask(ServiceName::NodeCapabilities, "nodes", &(), &caller).await?;
    let found = nodes.into_iter().find(|node| node.name == name);
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no node {name}")).into())
}
