//! Calls: what a person asks a node itself, or has it do at once, through its site.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::{Deployment, Done, Logs, Members, Pinged, Problem, Targets, WorkloadCall};
use axum::{Json, extract::State};
use bus::{CallVerb, Caller, ServiceName, calls::About};
use margo::{ComponentName, DeploymentId, NodeId, NodeName, SiteName};
use serde::Deserialize;
use service::ProblemResponse;
use tokio::time::timeout;
use tracing::info;
use utoipa::IntoParams;

use crate::{
    Gateway,
    access::Authenticated,
    deployments,
    extract::{FromJson, FromPath, FromQuery},
};

/// How long a node has to answer that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a node has to send a log, or to have a workload started again: a little longer than it takes itself.
const WORK_PATIENCE: Duration = Duration::from_secs(18);

/// Bytes of an answer in all its parts. A node sends half as much; a node that sends more is cut off.
const MAX_ANSWER: usize = 1 << 20;

/// Lines of a log when nobody says how many.
const LINES: u32 = 100;

/// Ask a node whether it can be reached
#[utoipa::path(
    post, path = "/nodes/{site}/{node}/ping", tag = "nodes", security(("token" = ["deployer"])),
    params(("site" = String, Path), ("node" = String, Path)),
    responses((status = 200, body = Pinged)),
)]
pub(crate) async fn ping_node(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath((site, node)): FromPath<(SiteName, NodeName)>,
) -> Result<Json<Pinged>, ProblemResponse> {
    let node = NodeId::new(site.client(), node);
    let targets = Targets { nodes: [node.clone()].into(), ..Targets::default() };
    let known: Members = gateway.ask(ServiceName::NodeCapabilities, "members", &targets, &caller).await?;
    if known.nodes.is_empty() {
        return Err(Problem::not_found(format!("there is no node {node}")).into());
    }
    let begun = Instant::now();
    let about = About { actor: caller.name.to_string(), ..About::default() };
    call(&gateway, &node, CallVerb::Ping, about, PATIENCE).await?;
    Ok(Json(Pinged { milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) }))
}

/// What is wanted of a log.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsAsked {
    /// The component whose log it is. It may be left out when the deployment has one.
    #[param(value_type = Option<String>)]
    component: Option<ComponentName>,
    /// How many of the last lines, at most 1,000; 100 when left out.
    #[param(maximum = 1000, minimum = 1)]
    lines: Option<u32>,
}

/// The last lines that a workload wrote, from its node
///
/// Logs may hold what an application should not have written into them, so reading them takes the role of a deployer.
#[utoipa::path(
    get, path = "/deployments/{id}/logs", tag = "deployments", security(("token" = ["deployer"])),
    params(("id" = String, Path), LogsAsked),
    responses((status = 200, body = Logs)),
)]
pub(crate) async fn get_logs(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(id): FromPath<DeploymentId>,
    FromQuery(asked): FromQuery<LogsAsked>,
) -> Result<Json<Logs>, ProblemResponse> {
    let lines = asked.lines.unwrap_or(LINES);
    if !(1..=1_000).contains(&lines) {
        return Err(Problem::bad_request("lines: must be 1 to 1000").into());
    }
    let deployment = deployments::find(&gateway, id, &caller).await?;
    let component = component(&deployment, asked.component)?;
    let about = About { lines, ..about(id, Some(component), &caller) };
    let text = call(&gateway, &deployment.desired.node, CallVerb::Logs, about, WORK_PATIENCE).await?;
    Ok(Json(Logs { lines: String::from_utf8_lossy(&text).lines().map(str::to_owned).collect() }))
}

/// Stop what runs of a deployment and start the same revision again
///
/// Its history says who had it done.
#[utoipa::path(
    post, path = "/deployments/{id}/restart", tag = "deployments", security(("token" = ["deployer"])),
    params(("id" = String, Path)), request_body = WorkloadCall,
    responses((status = 200, body = Done)),
)]
pub(crate) async fn restart_deployment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(id): FromPath<DeploymentId>,
    FromJson(asked): FromJson<WorkloadCall>,
) -> Result<Json<Done>, ProblemResponse> {
    operate(&gateway, CallVerb::Restart, id, asked.component, &caller).await
}

/// Try again what failed of a deployment, also a revision that its node has refused
///
/// Its history says who had it done.
#[utoipa::path(
    post, path = "/deployments/{id}/retry", tag = "deployments", security(("token" = ["deployer"])),
    params(("id" = String, Path)),
    responses((status = 200, body = Done)),
)]
pub(crate) async fn retry_deployment(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
    FromPath(id): FromPath<DeploymentId>,
) -> Result<Json<Done>, ProblemResponse> {
    operate(&gateway, CallVerb::Retry, id, None, &caller).await
}

async fn operate(
    gateway: &Gateway,
    verb: CallVerb,
    id: DeploymentId,
    component: Option<ComponentName>,
    caller: &Caller,
) -> Result<Json<Done>, ProblemResponse> {
    let node = deployments::find(gateway, id, caller).await?.desired.node;
    let begun = Instant::now();
    let done = call(gateway, &node, verb, about(id, component, caller), WORK_PATIENCE).await;
    info!(deployment = %id, %node, %verb, actor = %caller.name, done = done.is_ok(), "called");
    done?;
    Ok(Json(Done { node, milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) }))
}

fn about(id: DeploymentId, component: Option<ComponentName>, caller: &Caller) -> About {
    About { deployment: Some(id), component, lines: 0, actor: caller.name.to_string() }
}

/// The component that is meant: the one that is named, or the only one that the node has reported.
fn component(deployment: &Deployment, named: Option<ComponentName>) -> Result<ComponentName, Problem> {
    if let Some(named) = named {
        return Ok(named);
    }
    let reported = deployment.actual.iter().flat_map(|actual| &actual.components);
    let names: Vec<&str> = reported.map(|component| component.name.as_str()).collect();
    match names.as_slice() {
        [only] => only.parse().map_err(|_| Problem::bad_request("component: name one, the node's own word is none")),
        [] => Err(Problem::bad_request("component: name one, because its node has not reported any yet")),
        several => Err(Problem::bad_request(format!("component: name one of {}", several.join(", ")))),
    }
}

/// Calls a node and waits for its whole answer.
async fn call(
    gateway: &Gateway,
    node: &NodeId,
    verb: CallVerb,
    about: About,
    patience: Duration,
) -> Result<Vec<u8>, Problem> {
    let mut answer = gateway.calls.call(node, verb, about).await?;
    let whole = async {
        let mut bytes = Vec::new();
        while let Some(part) = answer.next().await {
            if !part.failed.is_empty() {
                return Some(Err(Problem::new(502, format!("node {node} failed: {}", part.failed))));
            }
            bytes.extend_from_slice(&part.body);
            if bytes.len() > MAX_ANSWER {
                return Some(Err(Problem::new(502, format!("node {node} answers with more than {MAX_ANSWER} bytes"))));
            }
            if part.last {
                return Some(Ok(bytes));
            }
        }
        None
    };
    match timeout(patience, whole).await {
        Ok(Some(answered)) => answered,
        Ok(None) | Err(_) => {
            let seconds = patience.as_secs();
            let detail = format!("node {node} did not answer within {seconds} s; it, its site or the line is away");
            Err(Problem::new(504, detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_need_not_be_named_where_there_is_one() {
        let deployment = |names: &[&str]| -> Deployment {
            let components: Vec<_> =
                names.iter().map(|name| serde_json::json!({ "name": name, "state": "installed" })).collect();
            let mut deployment = crate::domain::tests::deployment();
            let actual = deployment.actual.as_mut().unwrap();
            actual.components = serde_json::from_value(components.into()).unwrap();
            deployment
        };
        let named = |names: &[&str]| component(&deployment(names), None).map(|name| name.to_string());
        assert_eq!(named(&["hello"]).unwrap(), "hello");
        assert!(named(&["hello", "also"]).unwrap_err().to_string().contains("hello, also"));
        assert!(named(&[]).is_err() && named(&["No name"]).is_err());
        let wanted = component(&deployment(&["hello", "also"]), Some("also".parse().unwrap()));
        assert_eq!(wanted.unwrap().as_str(), "also");
    }
}
