//! The route to the status of the platform as a whole. A service that does not answer is named, and what only it knows is
//! left out: people want a status most when parts fail.

use std::sync::Arc;

use api::{Deployment, Node, PlatformStatus, Reachability, Refusal, ServiceStatus, Site};
use axum::{Json, extract::State};
use bus::ServiceName;
use margo::State as DeploymentState;
use tracing::warn;

use service::ProblemResponse;

use crate::{Gateway, access::Authenticated, deployments, discovery};

/// The platform as a whole
#[utoipa::path(get, path = "/status", tag = "platform", security(("token" = ["viewer"])), responses((status = 200, body = PlatformStatus)))]
pub(crate) async fn get_status(
    State(gateway): State<Arc<Gateway>>,
    Authenticated(caller): Authenticated,
) -> Result<Json<PlatformStatus>, ProblemResponse> {
    let sites = gateway.ask::<_, Vec<Site>>(ServiceName::NodeCapabilities, "sites", &(), &caller);
    let nodes = gateway.ask::<_, Vec<Node>>(ServiceName::NodeCapabilities, "nodes", &(), &caller);
    let observed = gateway.ask::<_, Vec<Refusal>>(ServiceName::GitObserver, "refusals", &(), &caller);
    let written = gateway.ask::<_, Vec<Refusal>>(ServiceName::GitWriter, "refusals", &(), &caller);
    let collected = gateway.ask::<_, Vec<Refusal>>(ServiceName::StatusCollector, "refusals", &(), &caller);
    let dead_letters = gateway.ask::<_, u64>(ServiceName::StatusCollector, "dead-letters", &(), &caller);
    let (services, sites, nodes, deployments, observed, written, collected, dead_letters) = tokio::join!(
        discovery::services(&gateway.bus),
        sites,
        nodes,
        deployments::load(&gateway, &caller),
        observed,
        written,
        collected,
        dead_letters,
    );
    let services = services.unwrap_or_else(|error| {
        warn!(error = error.as_ref() as &dyn std::error::Error, "services not asked");
        Vec::new()
    });
    let refusals = [observed, written, collected].into_iter().flat_map(Result::unwrap_or_default).collect();
    Ok(Json(summary(
        services,
        sites.ok().map(|sites| sites.len() as u64),
        nodes.ok().as_deref(),
        deployments.ok().as_deref(),
        dead_letters.ok(),
        refusals,
    )))
}

fn summary(
    services: Vec<ServiceStatus>,
    sites: Option<u64>,
    nodes: Option<&[Node]>,
    deployments: Option<&[Deployment]>,
    dead_letters: Option<u64>,
    mut refusals: Vec<Refusal>,
) -> PlatformStatus {
    // RFC 3339 in UTC sorts as text.
    refusals.sort_by(|left, right| left.at.cmp(&right.at));
    let is_reachable = |node: &&Node| node.reachability == Reachability::Reachable;
    let is_wanted = |deployment: &&Deployment| deployment.desired.digest.is_some();
    let is_installed = |deployment: &&Deployment| deployment.state == DeploymentState::Installed;
    PlatformStatus {
        missing: discovery::missing(&services),
        services,
        sites,
        nodes: nodes.map(|nodes| nodes.len() as u64),
        reachable: nodes.map(|nodes| nodes.iter().filter(is_reachable).count() as u64),
        deployments: deployments.map(|deployments| deployments.iter().filter(is_wanted).count() as u64),
        installed: deployments.map(|deployments| deployments.iter().filter(is_installed).count() as u64),
        dead_letters,
        refusals,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_does_not_answer_is_named() {
        let writer = ServiceStatus {
            name: "git-writer".to_owned(),
            id: "1".to_owned(),
            version: "0.1.0".to_owned(),
            started: String::new(),
            requests: 3,
            errors: 0,
        };
        let status = summary(vec![writer], None, Some(&[]), None, Some(0), Vec::new());
        assert_eq!(status.missing.len(), bus::ServiceName::at(bus::Tier::Hub).count() - 1);
        assert!(!status.missing.contains(&"git-writer".to_owned()));
        // What nobody tells is not zero.
        assert_eq!((status.sites, status.nodes, status.reachable), (None, Some(0), Some(0)));
        assert_eq!((status.deployments, status.installed, status.dead_letters), (None, None, Some(0)));
    }

    #[test]
    fn refusals_of_all_services_are_told_oldest_first() {
        let refusal = |at: &str| Refusal { subject: String::new(), reason: String::new(), at: at.to_owned() };
        let [early, late] = ["2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"].map(refusal);
        let status = summary(Vec::new(), None, None, None, None, vec![late.clone(), early.clone()]);
        assert_eq!(status.refusals, [early, late]);
    }
}
