//! Whether a report may be stored. No bus, no disk, no clock.

use bus::proto::{self, State};
use margo::{DeploymentId, Digest};

/// Deployments of one node. More run on no node that we know; a message of the largest size would hold a hundred times
/// as many.
const DEPLOYMENTS: usize = 2_000;
/// Components of one deployment.
const COMPONENTS: usize = 200;
/// Transitions in one report: a node that was alone for weeks sends its spool in several.
const TRANSITIONS: usize = 20_000;
/// Refusals that a node lists.
const REFUSALS: usize = 20;
/// Metrics in one report.
const METRICS: usize = 500;
/// Bytes of a DeviceCapabilitiesManifest.
const CAPABILITIES: usize = 256 << 10;
/// Bytes of any one text.
const TEXT: usize = 8 << 10;

/// Where in a node's history a report stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub incarnation: u64,
    pub sequence: u64,
}

/// Why a report is not stored, ever.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the report is malformed: {0}")]
    Malformed(String),
    #[error("the report is of incarnation {found}, {held} is in force")]
    OtherIncarnation { found: u64, held: u64 },
    #[error("the report has sequence {found}, {held} is stored")]
    Overtaken { found: u64, held: u64 },
}

/// Checks everything that can be checked without knowing the node.
pub fn shape(report: &proto::ReportRequest) -> Result<Position, Refused> {
    let malformed = |rule: &str| Err(Refused::Malformed(rule.to_owned()));
    let Some(status) = &report.status else { return malformed("status is missing") };
    let position = Position { incarnation: status.incarnation, sequence: status.sequence };
    if position.incarnation == 0 || position.sequence == 0 {
        return malformed("status.incarnation and status.sequence start at 1");
    }
    if status.deployments.len() > DEPLOYMENTS || status.refusals.len() > REFUSALS || status.agent.len() > TEXT {
        return malformed("status is too large");
    }
    if status.refusals.iter().any(|it| it.subject.len() > TEXT || it.reason.len() > TEXT) {
        return malformed("status.refusals is too large");
    }
    for deployment in &status.deployments {
        subject(&deployment.id, &deployment.digest)?;
        state(deployment.state)?;
        failure(deployment.failure.as_ref())?;
        if deployment.components.len() > COMPONENTS {
            return malformed("status.deployments.components has too many entries");
        }
        for component in &deployment.components {
            state(component.state)?;
            failure(component.failure.as_ref())?;
            if component.name.len() > TEXT || component.endpoint.len() > TEXT {
                return malformed("status.deployments.components is too large");
            }
        }
    }
    if let Some(capabilities) = &report.capabilities {
        if capabilities.document.len() > CAPABILITIES {
            return malformed("capabilities.document is too large");
        }
        if capabilities.incarnation != position.incarnation {
            return malformed("capabilities.incarnation is not the status's");
        }
    }
    if let Some(events) = &report.events {
        if events.transitions.len() > TRANSITIONS {
            return malformed("events.transitions has too many entries");
        }
        if events.incarnation != position.incarnation {
            return malformed("events.incarnation is not the status's");
        }
        for transition in &events.transitions {
            subject(&transition.deployment, &transition.digest)?;
            state(transition.state)?;
            failure(transition.failure.as_ref())?;
            if transition.component.len() > TEXT {
                return malformed("events.transitions is too large");
            }
        }
    }
    if report.metrics.len() > METRICS {
        return malformed("metrics has too many entries");
    }
    Ok(position)
}

fn subject(deployment: &str, digest: &str) -> Result<(), Refused> {
    let id = deployment.parse::<DeploymentId>().map_err(|error| error.to_string());
    let digest = digest.parse::<Digest>().map_err(|error| error.to_string());
    id.and(digest.map(|_| ())).map_err(Refused::Malformed)
}

fn state(state: i32) -> Result<(), Refused> {
    match State::try_from(state) {
        Ok(State::Unspecified) | Err(_) => Err(Refused::Malformed(format!("{state} is no state"))),
        Ok(_) => Ok(()),
    }
}

fn failure(failure: Option<&proto::Failure>) -> Result<(), Refused> {
    match failure {
        Some(it) if it.code.len() > TEXT || it.source.len() > TEXT || it.message.len() > TEXT => {
            Err(Refused::Malformed("failure is too large".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Whether a well-formed report is the node's next one. `incarnation`: the one that is in force; `stored`: the last that
/// was stored. The same report once more is stored once more: its answer may have been lost, and readers compare.
pub fn order(incarnation: u64, stored: Position, found: Position) -> Result<(), Refused> {
    if found.incarnation != incarnation {
        return Err(Refused::OtherIncarnation { found: found.incarnation, held: incarnation });
    }
    if found < stored {
        return Err(Refused::Overtaken { found: found.sequence, held: stored.sequence });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> proto::ReportRequest {
        let deployment = proto::DeploymentStatus {
            id: "00000000-0000-4000-8000-000000000001".to_owned(),
            digest: Digest::of(b"").to_string(),
            state: State::Installed.into(),
            ..proto::DeploymentStatus::default()
        };
        let status = proto::NodeStatus {
            incarnation: 2,
            sequence: 7,
            deployments: vec![deployment],
            ..proto::NodeStatus::default()
        };
        proto::ReportRequest { status: Some(status), ..proto::ReportRequest::default() }
    }

    fn at(incarnation: u64, sequence: u64) -> Position {
        Position { incarnation, sequence }
    }

    #[test]
    fn a_report_is_read_with_its_position() {
        assert_eq!(shape(&report()), Ok(at(2, 7)));
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        let break_it = |change: fn(&mut proto::NodeStatus)| {
            let mut report = report();
            change(report.status.as_mut().unwrap());
            shape(&report)
        };
        let breaks: [fn(&mut proto::NodeStatus); 5] = [
            |status| status.sequence = 0,
            |status| status.deployments[0].id = "press".to_owned(),
            |status| status.deployments[0].digest = "md5:1".to_owned(),
            |status| status.deployments[0].state = 99,
            |status| status.deployments = vec![status.deployments[0].clone(); DEPLOYMENTS + 1],
        ];
        for change in breaks {
            assert!(matches!(break_it(change), Err(Refused::Malformed(_))));
        }
        assert!(matches!(shape(&proto::ReportRequest::default()), Err(Refused::Malformed(_))));
    }

    #[test]
    fn transitions_of_another_life_do_not_ride_on_a_report() {
        let events = Some(proto::NodeEvents { incarnation: 1, ..proto::NodeEvents::default() });
        assert!(matches!(shape(&proto::ReportRequest { events, ..report() }), Err(Refused::Malformed(_))));
    }

    #[test]
    fn only_the_present_incarnation_reports_and_never_backwards() {
        assert_eq!(order(2, at(2, 6), at(2, 7)), Ok(()));
        assert_eq!(order(2, at(2, 7), at(2, 7)), Ok(()));
        assert_eq!(order(2, at(1, 99), at(2, 1)), Ok(()));
        assert_eq!(order(2, at(2, 8), at(2, 7)), Err(Refused::Overtaken { found: 7, held: 8 }));
        assert_eq!(order(3, at(2, 8), at(2, 9)), Err(Refused::OtherIncarnation { found: 2, held: 3 }));
        assert_eq!(order(1, at(1, 8), at(2, 1)), Err(Refused::OtherIncarnation { found: 2, held: 1 }));
    }
}
