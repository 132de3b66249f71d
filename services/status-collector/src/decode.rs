//! From bytes on the bus to what this service stores. What a report may hold, and what is malformed, `bus::report` says.

use api::{ActualComponent, Failure};
use bus::{Subject, report};
use margo::NodeId;

use crate::{
    domain::{DeploymentStatus, EventReport, Refusal, Report, StatusReport, Transition},
    error::Malformed,
};

/// Reads a message by its subject: that alone says which node it is about.
pub fn decode(subject: &str, payload: &[u8]) -> Result<Report, Malformed> {
    match subject.parse()? {
        Subject::Status(node) => Ok(Report::Status(status(node, report::status(payload)?))),
        Subject::Event(node) => Ok(Report::Events(events(node, report::events(payload)?))),
        other => Err(Malformed::NotAReport(other)),
    }
}

fn status(node: NodeId, read: report::Status) -> StatusReport {
    let deployments = read.deployments.into_iter().map(|read| DeploymentStatus {
        id: read.id,
        digest: read.digest,
        adopted_manifest_version: read.adopted_manifest_version,
        state: read.state,
        failure: read.failure.map(failure),
        components: read.components.into_iter().map(component).collect(),
    });
    let refusals = read.refusals.into_iter();
    StatusReport {
        node,
        position: read.position,
        deployments: deployments.collect(),
        refusals: refusals.map(|report::Refusal { subject, reason, time }| Refusal { subject, reason, time }).collect(),
        time: read.time,
    }
}

fn events(node: NodeId, read: report::Events) -> EventReport {
    let transitions = read.transitions.into_iter().map(|read| Transition {
        number: read.number,
        deployment: read.deployment,
        digest: read.digest,
        component: read.component,
        state: read.state,
        failure: read.failure.map(failure),
        adopted_manifest_version: read.adopted_manifest_version,
        time: read.time,
    });
    EventReport { node, incarnation: read.position.incarnation, transitions: transitions.collect(), lost: read.lost }
}

fn component(read: report::Component) -> ActualComponent {
    let report::Component { name, state, failure: why, endpoint } = read;
    ActualComponent { name, state, failure: why.map(failure), endpoint }
}

fn failure(report::Failure { code, source, message }: report::Failure) -> Failure {
    Failure { code, source, message }
}

#[cfg(test)]
mod tests {
    use bus::proto;
    use prost::Message;

    use super::*;

    #[test]
    fn a_report_is_about_the_node_that_its_subject_names() {
        let raw = proto::NodeStatus { incarnation: 1, sequence: 7, ..Default::default() }.encode_to_vec();
        let Report::Status(report) = decode("state.plant.node.press.status", &raw).unwrap() else {
            panic!("a status was sent");
        };
        assert_eq!(report.node.to_string(), "plant/press");
        assert_eq!(report.position, report::Position { incarnation: 1, sequence: 7 });
        for other in ["state.plant.node.Press.status", "state.plant.health", "desired.plant.head", ">"] {
            assert!(decode(other, &raw).is_err(), "{other}");
        }
    }
}
