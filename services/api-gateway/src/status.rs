//! The route to the status of the platform as a whole. A service that does not answer is named, and what only it knows
//! counts as zero: people want a status most when parts fail.

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
    let collected = gateway.ask::<_, Vec<Refusal>>(ServiceName::StatusCollector, "refusals", &(), &caller);
    let dead_letters = gateway.ask::<_, u64>(ServiceName::StatusCollector, "dead-letters", &(), &caller);
    let (services, sites, nodes, deployments, observed, collected, dead_letters) = tokio::join!(
        discovery::services(&gateway.bus),
        sites,
        nodes,
        deployments::load(&gateway, &caller),
        observed,
        collected,
        dead_letters,
    );
    let services = services.unwrap_or_else(|error| {
        warn!(error = error.as_ref() as &dyn std::error::Error, "services not asked");
        Vec::new()
    });
    let refusals = [observed, collected].into_iter().flat_map(Result::unwrap_or_default).collect();
    Ok(Json(summary(
        services,
        sites.unwrap_or_default().len() as u64,
        &nodes.unwrap_or_default(),
        &deployments.unwrap_or_default(),
        dead_letters.unwrap_or_default(),
        refusals,
    )))
}

fn summary(
    services: Vec<ServiceStatus>,
    sites: u64,
    nodes: &[Node],
    deployments: &[Deployment],
    dead_letters: u64,
    mut refusals: Vec<Refusal>,
) -> PlatformStatus {
    // RFC 3339 in UTC sorts as text.
    refusals.sort_by(|left, right| left.at.cmp(&right.at));
    PlatformStatus {
        missing: discovery::missing(&services),
        services,
        sites,
        nodes: nodes.len() as u64,
        reachable: nodes.iter().filter(|node| node.reachability == Reachability::Reachable).count() as u64,
        deployments: deployments.iter().filter(|deployment| deployment.desired.digest.is_some()).count() as u64,
        installed: deployments.iter().filter(|deployment| deployment.state == DeploymentState::Installed).count()
            as u64,
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
        let status = summary(vec![writer], 0, &[], &[], 0, Vec::new());
        assert_eq!(status.missing.len(), bus::ServiceName::at(bus::Tier::Hub).count() - 1);
        assert!(!status.missing.contains(&"git-writer".to_owned()));
    }

    #[test]
    fn refusals_of_all_services_are_told_oldest_first() {
        let refusal = |at: &str| Refusal { subject: String::new(), reason: String::new(), at: at.to_owned() };
        let [early, late] = ["2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"].map(refusal);
        let status = summary(Vec::new(), 0, &[], &[], 0, vec![late.clone(), early.clone()]);
        assert_eq!(status.refusals, [early, late]);
    }
}
