//! `GET /api/v1/status`: what the site knows without the hub.

use std::{collections::BTreeSet, sync::Arc};

use api::{Problem, Reachability, SiteNodeStatus, SiteStatus};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bus::{Subject, proto, streams};
use margo::{Digest, NodeName};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    health::Pulses,
    incarnations::Incarnations,
    site::{Site, last},
};

/// What the answer is made from.
pub struct View {
    pub site: Arc<Site>,
    pub pulses: Arc<Pulses>,
    pub incarnations: Arc<Incarnations>,
    /// The bearer token.
    pub token: String,
}

/// Answers until shutdown.
pub async fn serve(listener: TcpListener, view: View, shutdown: CancellationToken) -> anyhow::Result<()> {
    let router = Router::new().route("/api/v1/status", get(status)).with_state(Arc::new(view));
    service::http::serve(listener, router, shutdown).await
}

async fn status(State(view): State<Arc<View>>, headers: HeaderMap) -> Response {
    if !view.admits(&headers) {
        let detail = "the site's status needs its bearer token; edgectl reads it from the site's folder";
        let problem = problem(Problem::new(401, detail));
        return ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response();
    }
    match view.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => {
            warn!(error = format!("{error:#}"), "status");
            problem(Problem::unavailable("the site's NATS server does not answer; is it running?")).into_response()
        }
    }
}

fn problem(problem: Problem) -> impl IntoResponse {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(problem))
}

impl View {
    fn admits(&self, headers: &HeaderMap) -> bool {
        let presented =
            headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        // Digests, so that the time this takes tells nothing about the token.
        presented.is_some_and(|token| Digest::of(token.as_bytes()) == Digest::of(self.token.as_bytes()))
    }

    async fn status(&self) -> anyhow::Result<SiteStatus> {
        let site = &self.site;
        let in_force = site.in_force.borrow().clone();
        let mut names: BTreeSet<NodeName> = self.pulses.nodes();
        names.extend(in_force.iter().flat_map(|it| it.desired.keys().cloned()));
        let mut nodes = Vec::with_capacity(names.len());
        for node in names {
            let desired = in_force.as_ref().and_then(|it| it.desired.get(&node)).copied().unwrap_or(0);
            nodes.push(SiteNodeStatus {
                reachability: reachability(self.pulses.reachability(&node)),
                incarnation: self.incarnations.get(&node).unwrap_or(0),
                desired,
                installed: self.installed(&node).await?,
                name: node.into(),
            });
        }
        Ok(SiteStatus {
            site: site.name.to_string(),
            hub_connected: site.hub.is_connected(),
            manifest_version: in_force.as_ref().map(|it| it.version.get()),
            commit: in_force.map(|it| it.commit).filter(|commit| !commit.is_empty()),
            waiting: self.waiting().await?,
            nodes,
            refusals: site.refusals.for_people(),
        })
    }

    /// Deployments that the node last reported as installed.
    async fn installed(&self, node: &NodeName) -> anyhow::Result<u64> {
        let subject = Subject::Status(self.site.node(node));
        let Some(message) = last(&self.site.bus, streams::STATE, &subject).await? else { return Ok(0) };
        let status = proto::NodeStatus::decode(message.payload)?;
        let installed = status.deployments.iter().filter(|deployment| deployment.state() == proto::State::Installed);
        Ok(installed.count() as u64)
    }

    /// Messages that the relay has not brought to the hub.
    async fn waiting(&self) -> anyhow::Result<u64> {
        let mut waiting = 0;
        for stream in [streams::EVENTS, streams::STATE] {
            waiting += crate::relay::waiting(&self.site, stream).await?;
        }
        Ok(waiting)
    }
}

fn reachability(reachability: proto::Reachability) -> Reachability {
    match reachability {
        proto::Reachability::Reachable => Reachability::Reachable,
        proto::Reachability::Unreachable => Reachability::Unreachable,
        proto::Reachability::Unknown | proto::Reachability::Unspecified => Reachability::Unknown,
    }
}
