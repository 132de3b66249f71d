//! The platform as a whole. What does not answer is named and counts as nothing: a status is wanted most when parts fail.

use std::sync::Arc;

use api::{Deployment, Node, PlatformStatus, Reachability, RefusalInfo, ServiceStatus, Site};
use async_nats::jetstream::{
    ErrorCode,
    context::{GetStreamError, GetStreamErrorKind},
};
use axum::{Json, extract::State};
use bus::{Bus, ServiceName, streams};
use margo::State as DeploymentState;
use tracing::warn;

use crate::{Gateway, access::Caller, deployments, discovery, error::Refusal};

/// The platform as a whole
#[utoipa::path(get, path = "/status", tag = "platform", security(("token" = ["viewer"])), responses((status = 200, body = PlatformStatus)))]
pub(crate) async fn get_status(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
) -> Result<Json<PlatformStatus>, Refusal> {
    let sites = gateway.ask::<_, Vec<Site>>(ServiceName::NodeCapabilities, "sites", &(), &caller);
    let nodes = gateway.ask::<_, Vec<Node>>(ServiceName::NodeCapabilities, "nodes", &(), &caller);
    let observed = gateway.ask::<_, Vec<RefusalInfo>>(ServiceName::GitObserver, "refusals", &(), &caller);
    let collected = gateway.ask::<_, Vec<RefusalInfo>>(ServiceName::StatusCollector, "refusals", &(), &caller);
    let (services, sites, nodes, deployments, observed, collected, dead_letters) = tokio::join!(
        discovery::services(&gateway.bus),
        sites,
        nodes,
        deployments::load(&gateway, &caller),
        observed,
        collected,
        dead_letters(&gateway.bus),
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
        dead_letters,
        refusals,
    )))
}

fn summary(
    services: Vec<ServiceStatus>,
    sites: u64,
    nodes: &[Node],
    deployments: &[Deployment],
    dead_letters: u64,
    mut refusals: Vec<RefusalInfo>,
) -> PlatformStatus {
    // RFC 3339 in UTC sorts as text.
    refusals.sort_by(|left, right| left.at.cmp(&right.at));
    PlatformStatus {
        missing: discovery::missing(&services),
        services,
        sites,
        nodes: nodes.len() as u64,
        reachable: nodes.iter().filter(|node| node.reachability == Reachability::Reachable).count() as u64,
        deployments: deployments.iter().filter(|it| it.desired.digest.is_some()).count() as u64,
        installed: deployments.iter().filter(|it| it.state == DeploymentState::Installed).count() as u64,
        dead_letters,
        refusals,
    }
}

/// How many messages nobody could handle. None, as long as the stream was not made.
async fn dead_letters(bus: &Bus) -> u64 {
    if !bus.is_connected() {
        return 0;
    }
    match bus.jetstream().get_stream(streams::DEAD_LETTERS).await {
        Ok(stream) => stream.cached_info().state.messages,
        Err(error) if is_not_there(&error) => 0,
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "dead letters not counted");
            0
        }
    }
}

fn is_not_there(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
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
        assert_eq!(status.missing.len(), discovery::CENTRAL.len() - 1);
        assert!(!status.missing.contains(&"git-writer".to_owned()));
    }

    #[test]
    fn refusals_of_all_services_are_told_oldest_first() {
        let refusal = |at: &str| RefusalInfo { subject: String::new(), reason: String::new(), at: at.to_owned() };
        let [early, late] = ["2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"].map(refusal);
        let status = summary(Vec::new(), 0, &[], &[], 0, vec![late.clone(), early.clone()]);
        assert_eq!(status.refusals, [early, late]);
    }
}
