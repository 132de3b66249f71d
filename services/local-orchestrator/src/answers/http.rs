//! `GET /api/v1/status`: what the site knows without the hub; and `GET /v1/jwt/<public key>`, the logins of its nodes.

use std::{collections::BTreeSet, sync::Arc};

use api::{Problem, Reachability, SiteNodeStatus, SiteStatus};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use bus::{Subject, proto, streams};
use margo::NodeName;
use prost::Message as _;
use service::{BearerToken, ProblemResponse, ServerConfig};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    down::InForce,
    nodes::{Incarnations, Pulses},
    site::Site,
    up::waiting,
};

/// What the answer is made from.
pub struct View {
    pub site: Arc<Site>,
    /// What is in force; `None` before the first adoption.
    pub in_force: watch::Receiver<Option<Arc<InForce>>>,
    /// Who of its nodes is heard.
    pub pulses: Arc<Pulses>,
    /// Which lives of its nodes are the present ones.
    pub incarnations: Arc<Incarnations>,
    /// When the site's login at the hub expires, in seconds since 1970, if it does.
    pub login_expires: Option<watch::Receiver<Option<u64>>>,
    /// The bearer token that a reader has to present.
    pub token: BearerToken,
}

/// Answers `GET /api/v1/status` until shutdown, to readers that present the token of the view, and what `logins` answers.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    view: View,
    logins: Router,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new().route("/api/v1/status", get(status)).with_state(Arc::new(view)).merge(logins);
    service::http::serve(listener, tls, router, shutdown).await
}

async fn status(State(view): State<Arc<View>>, headers: HeaderMap) -> Response {
    if !view.token.admits(&headers) {
        let detail = "the site's status needs its bearer token; edgectl reads it from the site's folder";
        return ProblemResponse::new(StatusCode::UNAUTHORIZED, detail).into_response();
    }
    match view.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => {
            warn!(error = format!("{error:#}"), "status");
            let problem = Problem::unavailable("the site's NATS server does not answer; is it running?");
            ProblemResponse::from(problem).into_response()
        }
    }
}

impl View {
    async fn status(&self) -> anyhow::Result<SiteStatus> {
        let site = &self.site;
        let in_force = self.in_force.borrow().clone();
        let mut names: BTreeSet<NodeName> = self.pulses.nodes();
        let list = in_force.as_ref().map(|in_force| &in_force.set.list);
        names.extend(list.into_iter().flat_map(|list| list.nodes().map(|(node, _)| node.clone())));
        let mut nodes = Vec::with_capacity(names.len());
        for node in names {
            let desired = list.and_then(|list| list.get(&node));
            nodes.push(SiteNodeStatus {
                reachability: reachability(self.pulses.reachability(&node)),
                incarnation: self.incarnations.get(&node).map_or(0, |life| life.incarnation),
                desired: desired.map_or(0, |desired| desired.deployments.len() as u64),
                installed: self.installed(&node).await?,
                name: node.into(),
            });
        }
        Ok(SiteStatus {
            site: site.name.to_string(),
            hub_connected: site.hub.is_connected(),
            login_expires: self.login_expires(),
            manifest_version: in_force.as_ref().map(|in_force| in_force.set.head.version.get()),
            commit: in_force.map(|in_force| in_force.commit.clone()).filter(|commit| !commit.is_empty()),
            waiting: self.waiting().await?,
            nodes,
            refusals: site.refusals.for_people(),
        })
    }

    /// When the login at the hub expires, as people read it.
    fn login_expires(&self) -> Option<String> {
        let seconds = (*self.login_expires.as_ref()?.borrow())?;
        let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
        Some(time.to_string())
    }

    /// Deployments that the node last reported as installed.
    async fn installed(&self, node: &NodeName) -> anyhow::Result<u64> {
        let subject = Subject::Status(self.site.node(node));
        let Some(message) = self.site.bus.last(streams::STATE, &subject).await? else { return Ok(0) };
        let status = proto::NodeStatus::decode(message.payload)?;
        let installed = status.deployments.iter().filter(|deployment| deployment.state() == proto::State::Installed);
        Ok(installed.count() as u64)
    }

    /// Messages that the relay has not brought to the hub.
    async fn waiting(&self) -> anyhow::Result<u64> {
        let [events, states] = [streams::EVENTS, streams::STATE].map(|stream| waiting(&self.site, stream));
        Ok(events.await? + states.await?)
    }
}

fn reachability(reachability: proto::Reachability) -> Reachability {
    match reachability {
        proto::Reachability::Reachable => Reachability::Reachable,
        proto::Reachability::Unreachable => Reachability::Unreachable,
        proto::Reachability::Unknown | proto::Reachability::Unspecified => Reachability::Unknown,
    }
}
