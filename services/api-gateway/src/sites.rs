//! Routes to sites and nodes, and to their keys; node-capabilities owns all of them.

use std::{collections::HashMap, sync::Arc};

use api::{
    ByName, CreateNode, CreateSite, KeyRevoked, Node, NodeAdmitted, ReplaceKeyRequest, ReplaceNodeKey, ReplaceSiteKey,
    RepositoryAccess, RepositoryAccessAsked, RevokeKeyRequest, Site, SiteAdmitted, SiteLogin,
};
use axum::{Json, extract::State};
use bus::{Caller, ServiceName};
use http::StatusCode;
use margo::{Identity, NodeId, NodeName, SiteName};

use service::ProblemResponse;

use crate::{
    Gateway,
    access::Authenticated,
    assignments::Why,
    extract::{FromJson, FromPath, FromQuery},
};

/// Add a site
#[utoipa::path(
    post, path = "/sites", tag = "sites", security(("token" = ["supplier"])),
    request_body = CreateSite, responses((status = 201, body = SiteAdmitted)),
)]
pub(crate) async fn create_site(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromJson(site): FromJson<CreateSite>,
) -> Result<(StatusCode, Json<SiteAdmitted>), ProblemResponse> {
    let created: SiteAdmitted = gateway.ask(ServiceName::NodeCapabilities, "create-site", &site, &caller).await?;
    let repository = repository(&gateway, &site.name, Some(&site.identity), &caller).await.ok();
    Ok((StatusCode::CREATED, Json(SiteAdmitted { repository, ..created })))
}

/// Where the repository of a site's desired state is read, with a token
#[utoipa::path(
    get, path = "/sites/{site}/repository", tag = "sites", security(("token" = ["supplier"])),
    params(("site" = String, Path)),
    responses((status = 200, body = RepositoryAccess)),
)]
pub(crate) async fn get_repository(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(site): FromPath<SiteName>,
) -> Result<Json<RepositoryAccess>, ProblemResponse> {
    repository(&gateway, &site, None, &caller).await.map(Json)
}

/// Asks for the access to a site's repository. `identity` is one that Git may not know yet.
async fn repository(
    gateway: &Gateway,
    site: &SiteName,
    identity: Option<&Identity>,
    caller: &Caller,
) -> Result<RepositoryAccess, ProblemResponse> {
    let key = identity.map(|Identity::Nkey(key)| key.clone());
    let asked = RepositoryAccessAsked { client: site.client(), key };
    gateway.ask(ServiceName::GitWriter, "access", &asked, caller).await
}

/// List the sites
#[utoipa::path(get, path = "/sites", tag = "sites", security(("token" = ["viewer"])), responses((status = 200, body = Vec<Site>)))]
pub(crate) async fn list_sites(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<Vec<Site>>, ProblemResponse> {
    // Without identity there is still everything else to tell.
    let logins: Result<Vec<SiteLogin>, _> = gateway.ask(ServiceName::Identity, "logins", &(), &caller).await;
    let mut sites: Vec<Site> = gateway.ask(ServiceName::NodeCapabilities, "sites", &(), &caller).await?;
    let expires: HashMap<_, _> =
        logins.into_iter().flatten().filter_map(|login| Some((login.client, login.expires?))).collect();
    for site in &mut sites {
        site.login_expires = expires.get(site.name.as_str()).cloned();
    }
    Ok(Json(sites))
}

/// Add a node
#[utoipa::path(
    post, path = "/nodes", tag = "nodes", security(("token" = ["supplier"])),
    request_body = CreateNode, responses((status = 201, body = NodeAdmitted)),
)]
pub(crate) async fn create_node(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromJson(node): FromJson<CreateNode>,
) -> Result<(StatusCode, Json<NodeAdmitted>), ProblemResponse> {
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
    gateway.ask(ServiceName::NodeCapabilities, "node", &ByName { name }, &caller).await.map(Json)
}

/// Replace the key of a site
///
/// The key that was in force is cut off at once and never accepted again, and the new one is let in. The same key again is
/// answered as before; 409: the key is, or was, that of a site or node.
#[utoipa::path(
    put, path = "/sites/{site}/key", tag = "sites", security(("token" = ["supplier"])),
    params(("site" = String, Path)),
    request_body = ReplaceSiteKey, responses((status = 202, body = SiteAdmitted)),
)]
pub(crate) async fn replace_site_key(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(name): FromPath<SiteName>,
    FromJson(replace): FromJson<ReplaceSiteKey>,
) -> Result<(StatusCode, Json<SiteAdmitted>), ProblemResponse> {
    let order = ReplaceKeyRequest { name, replace };
    let answer: SiteAdmitted = gateway.ask(ServiceName::NodeCapabilities, "replace-site-key", &order, &caller).await?;
    let repository = repository(&gateway, &order.name, Some(&order.replace.identity), &caller).await.ok();
    Ok((StatusCode::ACCEPTED, Json(SiteAdmitted { repository, ..answer })))
}

/// Revoke the key of a site
///
/// The site is cut off at once, until its key is replaced. Its nodes go on with what they have.
#[utoipa::path(
    delete, path = "/sites/{site}/key", tag = "sites", security(("token" = ["supplier"])),
    params(("site" = String, Path), Why),
    responses((status = 202, body = KeyRevoked)),
)]
pub(crate) async fn revoke_site_key(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(name): FromPath<SiteName>,
    FromQuery(Why { reason }): FromQuery<Why>,
) -> Result<(StatusCode, Json<KeyRevoked>), ProblemResponse> {
    let order = RevokeKeyRequest { name, reason };
    let answer = gateway.ask(ServiceName::NodeCapabilities, "revoke-site-key", &order, &caller).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Replace the key of a node
///
/// As soon as the node's site has heard of it, the key that was in force is cut off and never accepted again, and the new one is
/// let in. The same key again is answered as before; 409: the key is, or was, that of a site or node.
#[utoipa::path(
    put, path = "/nodes/{site}/{node}/key", tag = "nodes", security(("token" = ["supplier"])),
    params(("site" = String, Path), ("node" = String, Path)),
    request_body = ReplaceNodeKey, responses((status = 202, body = NodeAdmitted)),
)]
pub(crate) async fn replace_node_key(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath((site, node)): FromPath<(SiteName, NodeName)>,
    FromJson(replace): FromJson<ReplaceNodeKey>,
) -> Result<(StatusCode, Json<NodeAdmitted>), ProblemResponse> {
    let order = ReplaceKeyRequest { name: NodeId::new(site.client(), node), replace };
    let answer = gateway.ask(ServiceName::NodeCapabilities, "replace-node-key", &order, &caller).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Revoke the key of a node
///
/// As soon as the node's site has heard of it, the node is cut off, until its key is replaced.
#[utoipa::path(
    delete, path = "/nodes/{site}/{node}/key", tag = "nodes", security(("token" = ["supplier"])),
    params(("site" = String, Path), ("node" = String, Path), Why),
    responses((status = 202, body = KeyRevoked)),
)]
pub(crate) async fn revoke_node_key(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath((site, node)): FromPath<(SiteName, NodeName)>,
    FromQuery(Why { reason }): FromQuery<Why>,
) -> Result<(StatusCode, Json<KeyRevoked>), ProblemResponse> {
    let order = RevokeKeyRequest { name: NodeId::new(site.client(), node), reason };
    let answer = gateway.ask(ServiceName::NodeCapabilities, "revoke-node-key", &order, &caller).await?;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
