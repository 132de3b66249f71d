//! Calls: what a person asks a node itself, through its site.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::{Members, Pinged, Problem, Targets};
use axum::{Json, extract::State};
use bus::{CallVerb, ServiceName};
use margo::{NodeId, NodeName, SiteName};
use service::ProblemResponse;
use tokio::time::timeout;

use crate::{Gateway, access::Authenticated, extract::FromPath};

/// How long a node has to answer that it is there.
const PATIENCE: Duration = Duration::from_secs(10);

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
    let mut answer = gateway.calls.call(&node, CallVerb::Ping).await?;
    match timeout(PATIENCE, answer.next()).await {
        Ok(Some(part)) if part.failed.is_empty() => {
            Ok(Json(Pinged { milliseconds: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX) }))
        }
        Ok(Some(part)) => Err(Problem::new(502, format!("node {node} failed: {}", part.failed)).into()),
        Ok(None) | Err(_) => {
            let seconds = PATIENCE.as_secs();
            let detail = format!("node {node} did not answer within {seconds} s; it, its site or the line is away");
            Err(Problem::new(504, detail).into())
        }
    }
}
