//! What a report holds when there is more to tell than fits into it. No disk and no bus.
//!
//! The site takes no report that is longer than [`MAX_REPORT`]. A status is whole: every deployment stays in it, and what
//! people read gives way first. Transitions and spans that do not fit go with the next report.

use bus::{
    proto,
    report::{MAX_REPORT, MAX_TRACES},
};
use prost::Message;

/// Bytes of a status. It leaves room for capabilities (64 KiB at most) and for some transitions.
const STATUS: usize = MAX_REPORT - (64 << 10) - TRANSITIONS - REST;

/// Bytes that transitions have in any case: more than the longest of them.
const TRANSITIONS: usize = 16 << 10;

/// Bytes for everything else, such as metrics.
const REST: usize = 32 << 10;

/// Characters of a message that was cut.
const CUT: usize = 80;

/// Cuts a status until it fits: first the messages of failures, then the parts of components and all messages, then where
/// components answer, and at last the components.
pub fn status(mut status: proto::NodeStatus) -> proto::NodeStatus {
    let steps: [fn(&mut proto::DeploymentStatus); 4] = [
        |deployment| failures(deployment, |failure| failure.message = failure.message.chars().take(CUT).collect()),
        |deployment| {
            failures(deployment, |failure| failure.message.clear());
            deployment.components.iter_mut().for_each(|component| component.parts.clear());
        },
        |deployment| deployment.components.iter_mut().for_each(|component| component.endpoint.clear()),
        |deployment| deployment.components.clear(),
    ];
    for step in steps {
        if status.encoded_len() <= STATUS {
            break;
        }
        status.deployments.iter_mut().for_each(step);
    }
    status
}

fn failures(deployment: &mut proto::DeploymentStatus, change: impl Fn(&mut proto::Failure)) {
    deployment.failure.iter_mut().for_each(&change);
    for component in &mut deployment.components {
        component.failure.iter_mut().for_each(&change);
        for part in &mut component.parts {
            part.failure.iter_mut().for_each(&change);
        }
    }
}

/// Bytes that are left for transitions.
pub fn room_for_transitions(report: &proto::ReportRequest) -> usize {
    MAX_REPORT.saturating_sub(report.encoded_len() + REST)
}

/// The first transitions that fit into so many bytes.
pub fn transitions(waiting: impl Iterator<Item = proto::Transition>, room: usize) -> Vec<proto::Transition> {
    let mut bytes = 0;
    let fits = |transition: &proto::Transition| {
        // A field in protobuf has a tag and a length of at most four bytes before it.
        bytes += transition.encoded_len() + 5;
        bytes <= room
    };
    waiting.take_while(fits).collect()
}

/// Bytes that are left for spans.
pub fn room_for_traces(report: &proto::ReportRequest) -> usize {
    MAX_REPORT.saturating_sub(report.encoded_len() + REST).min(MAX_TRACES)
}

#[cfg(test)]
mod tests {
    use bus::report::{self, MAX_DEPLOYMENTS};

    use super::*;

    fn failure() -> Option<proto::Failure> {
        let runs = margo::Digest::of(b"before").to_string();
        Some(proto::Failure { code: "failed".into(), source: "hello".into(), message: "ß".repeat(500), runs })
    }

    fn deployment(number: usize, components: usize) -> proto::DeploymentStatus {
        let state = proto::State::Failed.into();
        let part = proto::PartStatus { name: "x".repeat(100), state, failure: failure(), ..Default::default() };
        let component = |number| proto::ComponentStatus {
            name: format!("component-{number}"),
            state,
            failure: failure(),
            endpoint: "http://192.0.2.7:8080/".into(),
            restarts: 3,
            parts: vec![part.clone(); 3],
            cpu_milliseconds: Some(1 << 52),
            memory_bytes: Some(1 << 52),
        };
        proto::DeploymentStatus {
            id: format!("00000000-0000-4000-8000-{number:012}"),
            digest: margo::Digest::of(b"document").to_string(),
            adopted_manifest_version: 1 << 52,
            state,
            failure: failure(),
            components: (0..components).map(component).collect(),
        }
    }

    #[test]
    fn the_status_of_as_many_deployments_as_a_node_may_have_fits_into_a_report() {
        for components in [1, 5, 20] {
            let deployments = (0..MAX_DEPLOYMENTS).map(|number| deployment(number, components)).collect();
            let all = proto::NodeStatus { incarnation: 1, sequence: 1, deployments, ..Default::default() };
            let cut = status(all);
            assert!(cut.encoded_len() <= STATUS, "{components}: {}", cut.encoded_len());
            assert_eq!(report::status(&cut.encode_to_vec()).unwrap().deployments.len(), MAX_DEPLOYMENTS);
        }
    }

    #[test]
    fn a_status_that_fits_is_not_cut() {
        let small = proto::NodeStatus { deployments: vec![deployment(1, 5)], ..Default::default() };
        assert_eq!(status(small.clone()), small);
    }

    #[test]
    fn as_many_transitions_go_as_fit_and_at_least_one() {
        let transition = proto::Transition { number: 1, failure: failure(), ..Default::default() };
        let deployments = (0..MAX_DEPLOYMENTS).map(|number| deployment(number, 5)).collect();
        let status = status(proto::NodeStatus { incarnation: 1, sequence: 1, deployments, ..Default::default() });
        let document = "x".repeat(64 << 10).into();
        let capabilities = proto::NodeCapabilities { incarnation: 1, sequence: 1, document, generation: 0 };
        let mut full =
            proto::ReportRequest { status: Some(status), capabilities: Some(capabilities), ..Default::default() };
        let transitions = transitions(std::iter::repeat_n(transition, 1_000), room_for_transitions(&full));
        assert!((1..1_000).contains(&transitions.len()), "{}", transitions.len());
        full.events = Some(proto::NodeEvents { incarnation: 1, sequence: 1, transitions, ..Default::default() });
        full.traces = vec![0; room_for_traces(&full)].into();
        assert!(full.encoded_len() <= MAX_REPORT, "{}", full.encoded_len());
    }
}
