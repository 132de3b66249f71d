//! Routes to deployments: what is wanted (from deployment-registry) and what nodes say (from status-collector) in one
//! answer.

use std::sync::Arc;

use api::{ActualDeployment, ByName, Deployment, DesiredDeployment, HistoryAsked, HistoryEntry, Problem, StatusAsked};
use axum::{Json, extract::State};
use bus::ServiceName::{DeploymentRegistry, StatusCollector};
use margo::{AssignmentName, DeploymentId, NodeId, SiteName};
use serde::Deserialize;
use utoipa::IntoParams;

use service::ProblemResponse;

use crate::{
    Gateway,
    access::Authenticated,
    domain::merge,
    extract::{FromPath, FromQuery},
};

/// Asks for all deployments. Fails when one of the two services does not answer: half an answer would show deployments
/// in a wrong state.
pub(crate) async fn load(gateway: &Gateway, caller: &bus::Caller) -> Result<Vec<Deployment>, ProblemResponse> {
    let desired = gateway.ask::<_, Vec<DesiredDeployment>>(DeploymentRegistry, "deployments", &(), caller);
    let actual = gateway.ask::<_, Vec<ActualDeployment>>(StatusCollector, "list", &(), caller);
    let (desired, actual) = tokio::try_join!(desired, actual)?;
    Ok(merge(desired, actual))
}

/// Asks for one deployment, whose row alone the two services read. Fails when nobody ever ordered it.
pub(crate) async fn find(
    gateway: &Gateway,
    id: DeploymentId,
    caller: &bus::Caller,
) -> Result<Deployment, ProblemResponse> {
    let unknown = || Problem::not_found(format!("there is no deployment {id}"));
    let desired = desired(gateway, id, caller).await?.ok_or_else(unknown)?;
    let asked = StatusAsked { id, node: desired.node.clone() };
    let actual: Option<ActualDeployment> = gateway.ask(StatusCollector, "status", &asked, caller).await?;
    let merged = merge(vec![desired], actual.into_iter().collect()).into_iter().next();
    Ok(merged.ok_or_else(unknown)?)
}

/// Asks for what is wanted of one deployment.
async fn desired(
    gateway: &Gateway,
    id: DeploymentId,
    caller: &bus::Caller,
) -> Result<Option<DesiredDeployment>, ProblemResponse> {
    gateway.ask(DeploymentRegistry, "deployment", &ByName { name: id }, caller).await
}

/// Which deployments are listed: those that fit all that is given, so without anything all.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// Those that follow from this assignment.
    #[param(value_type = Option<String>)]
    assignment: Option<AssignmentName>,
    /// Those of this node, `SITE/NODE`.
    #[param(value_type = Option<String>)]
    node: Option<NodeId>,
    /// Those of this site.
    #[param(value_type = Option<String>)]
    site: Option<SiteName>,
}

impl Filter {
    fn takes(&self, DesiredDeployment { assignment, node, .. }: &DesiredDeployment) -> bool {
        self.assignment.as_ref().is_none_or(|wanted| wanted == assignment)
            && self.node.as_ref().is_none_or(|wanted| wanted == node)
            && self.site.as_ref().is_none_or(|wanted| wanted.client() == node.client)
    }
}

/// List the deployments
#[utoipa::path(
    get, path = "/deployments", tag = "deployments", security(("token" = ["viewer"])),
    params(Filter),
    responses((status = 200, body = Vec<Deployment>)),
)]
pub(crate) async fn list_deployments(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromQuery(filter): FromQuery<Filter>,
) -> Result<Json<Vec<Deployment>>, ProblemResponse> {
    let mut deployments = load(&gateway, &caller).await?;
    deployments.retain(|deployment| filter.takes(&deployment.desired));
    Ok(Json(deployments))
}

/// One deployment
#[utoipa::path(
    get, path = "/deployments/{id}", tag = "deployments", security(("token" = ["viewer"])),
    params(("id" = String, Path)),
    responses((status = 200, body = Deployment)),
)]
pub(crate) async fn get_deployment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(id): FromPath<DeploymentId>,
) -> Result<Json<Deployment>, ProblemResponse> {
    find(&gateway, id, &caller).await.map(Json)
}

/// What a node said of a deployment, oldest first
#[utoipa::path(
    get, path = "/deployments/{id}/history", tag = "deployments", security(("token" = ["viewer"])),
    params(("id" = String, Path)),
    responses((status = 200, body = Vec<HistoryEntry>)),
)]
pub(crate) async fn get_history(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(id): FromPath<DeploymentId>,
) -> Result<Json<Vec<HistoryEntry>>, ProblemResponse> {
    let node = desired(&gateway, id, &caller).await?.map(|desired| desired.node);
    gateway.ask(StatusCollector, "history", &HistoryAsked { id, node }, &caller).await.map(Json)
}
