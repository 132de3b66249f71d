//! From bytes on the bus to reports. The generated protobuf types stop here, and so does what is malformed.

use api::{ActualComponent, FailureInfo};
use bus::{Subject, proto};
use jiff::Timestamp;
use margo::{NodeId, State};
use prost::Message;

use crate::{
    domain::{DeploymentStatus, EventReport, Position, Refusal, Report, StatusReport, Transition},
    error::Malformed,
};

/// More than any node can run, and few enough to be stored in one transaction.
const MAX_DEPLOYMENTS: usize = 10_000;
const MAX_COMPONENTS: usize = 1_000;
const MAX_TRANSITIONS: usize = 10_000;

/// What a node may remember of what it refused; of a longer list, the newest.
const MAX_REFUSALS: usize = 20;

/// Characters of a text for people; a longer one is cut, for the state beside it matters more.
const MAX_TEXT: usize = 4_000;

/// Counters stay exact as JSON numbers and as SQL integers.
const MAX_COUNTER: u64 = (1 << 53) - 1;

/// Reads a message by its subject: that alone says which node it is about.
pub fn decode(subject: &str, payload: &[u8]) -> Result<Report, Malformed> {
    match subject.parse()? {
        Subject::Status(node) => status(node, proto::NodeStatus::decode(payload)?).map(Report::Status),
        Subject::Event(node) => events(node, proto::NodeEvents::decode(payload)?).map(Report::Events),
        other => Err(Malformed::NotAReport(other)),
    }
}

fn status(node: NodeId, raw: proto::NodeStatus) -> Result<StatusReport, Malformed> {
    let time = time(raw.time);
    let position =
        Position { incarnation: incarnation(raw.incarnation)?, sequence: counter("sequence", raw.sequence)? };
    at_most("deployments", raw.deployments.len(), MAX_DEPLOYMENTS)?;
    let deployments: Vec<_> = raw.deployments.into_iter().enumerate().map(deployment).collect::<Result<_, _>>()?;
    let mut ids: Vec<_> = deployments.iter().map(|deployment| deployment.id).collect();
    ids.sort_unstable();
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(field("deployments", format!("{} is listed twice", pair[0])));
    }
    let known = raw.refusals.len().saturating_sub(MAX_REFUSALS);
    let refusals = raw.refusals.into_iter().skip(known).map(refusal).collect();
    Ok(StatusReport { node, position, deployments, refusals, time })
}

fn deployment((at, raw): (usize, proto::DeploymentStatus)) -> Result<DeploymentStatus, Malformed> {
    let path = |name: &str| format!("deployments[{at}].{name}");
    at_most(path("components"), raw.components.len(), MAX_COMPONENTS)?;
    let component = |(number, raw): (usize, proto::ComponentStatus)| {
        Ok(ActualComponent {
            state: state(path(&format!("components[{number}].state")), raw.state)?,
            name: text(raw.name),
            failure: raw.failure.map(failure),
            endpoint: Some(text(raw.endpoint)).filter(|endpoint| !endpoint.is_empty()),
        })
    };
    Ok(DeploymentStatus {
        id: parse(path("id"), &raw.id)?,
        digest: parse(path("digest"), &raw.digest)?,
        adopted_manifest_version: counter(path("adopted_manifest_version"), raw.adopted_manifest_version)?,
        state: state(path("state"), raw.state)?,
        failure: raw.failure.map(failure),
        components: raw.components.into_iter().enumerate().map(component).collect::<Result<_, Malformed>>()?,
    })
}

fn events(node: NodeId, raw: proto::NodeEvents) -> Result<EventReport, Malformed> {
    at_most("transitions", raw.transitions.len(), MAX_TRANSITIONS)?;
    let transitions = raw.transitions.into_iter().enumerate().map(transition).collect::<Result<_, _>>()?;
    Ok(EventReport { node, incarnation: incarnation(raw.incarnation)?, transitions, lost: raw.lost })
}

fn transition((at, raw): (usize, proto::Transition)) -> Result<Transition, Malformed> {
    let path = |name: &str| format!("transitions[{at}].{name}");
    Ok(Transition {
        number: counter(path("number"), raw.number)?,
        deployment: parse(path("deployment"), &raw.deployment)?,
        digest: parse(path("digest"), &raw.digest)?,
        component: Some(text(raw.component)).filter(|component| !component.is_empty()),
        state: state(path("state"), raw.state)?,
        failure: raw.failure.map(failure),
        adopted_manifest_version: counter(path("adopted_manifest_version"), raw.adopted_manifest_version)?,
        time: time(raw.time),
    })
}

fn refusal(raw: proto::Refusal) -> Refusal {
    Refusal { subject: text(raw.subject), reason: text(raw.reason), time: time(raw.time) }
}

fn failure(raw: proto::Failure) -> FailureInfo {
    FailureInfo { code: text(raw.code), source: text(raw.source), message: text(raw.message) }
}

/// Unspecified or unknown is malformed: to guess a state would be worse than to keep the last one.
fn state(path: String, raw: i32) -> Result<State, Malformed> {
    match proto::State::try_from(raw) {
        Ok(proto::State::Pending) => Ok(State::Pending),
        Ok(proto::State::Installing) => Ok(State::Installing),
        Ok(proto::State::Installed) => Ok(State::Installed),
        Ok(proto::State::Failed) => Ok(State::Failed),
        Ok(proto::State::Removing) => Ok(State::Removing),
        Ok(proto::State::Removed) => Ok(State::Removed),
        Ok(proto::State::Unspecified) | Err(_) => Err(field(path, format!("{raw} is no state"))),
    }
}

/// A node has its incarnation before its first report.
fn incarnation(raw: u64) -> Result<u64, Malformed> {
    if raw == 0 { Err(field("incarnation", "must be at least 1")) } else { counter("incarnation", raw) }
}

fn counter(path: impl Into<String>, raw: u64) -> Result<u64, Malformed> {
    if raw > MAX_COUNTER { Err(field(path, format!("{raw} is more than 2^53 - 1"))) } else { Ok(raw) }
}

fn at_most(path: impl Into<String>, count: usize, limit: usize) -> Result<(), Malformed> {
    if count > limit { Err(field(path, format!("{count} entries are more than {limit}"))) } else { Ok(()) }
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(path: String, raw: &str) -> Result<T, Malformed> {
    raw.parse().map_err(|error: T::Err| field(path, error.to_string()))
}

fn field(path: impl Into<String>, rule: impl Into<String>) -> Malformed {
    Malformed::Field { field: path.into(), rule: rule.into() }
}

/// A node's clock is only shown; what lies beyond the year 2262 is shown as that.
fn time(nanoseconds: u64) -> Timestamp {
    let nanoseconds = i64::try_from(nanoseconds).unwrap_or(i64::MAX);
    Timestamp::from_nanosecond(nanoseconds.into()).expect("every i64 of nanoseconds is a time that jiff knows")
}

fn text(mut raw: String) -> String {
    if let Some((end, _)) = raw.char_indices().nth(MAX_TEXT) {
        raw.truncate(end);
    }
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "9db79949-86fb-5e45-910d-8a83dd7391cc";
    const SUBJECT: &str = "state.plant.node.press.status";

    fn raw_status() -> proto::NodeStatus {
        proto::NodeStatus {
            incarnation: 1,
            sequence: 7,
            version: 3,
            deployments: vec![proto::DeploymentStatus {
                id: ID.into(),
                digest: margo::Digest::of(b"document").to_string(),
                adopted_manifest_version: 3,
                state: proto::State::Installed.into(),
                failure: None,
                components: vec![proto::ComponentStatus {
                    name: "hello".into(),
                    state: proto::State::Installed.into(),
                    failure: None,
                    endpoint: "http://192.0.2.7:8080/".into(),
                }],
            }],
            refusals: vec![],
            time: 1_000_000_000,
            agent: "0.1.0".into(),
        }
    }

    fn refused(change: impl FnOnce(&mut proto::NodeStatus)) -> String {
        let mut raw = raw_status();
        change(&mut raw);
        decode(SUBJECT, &raw.encode_to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn a_report_is_about_the_node_that_its_subject_names() {
        let Report::Status(report) = decode(SUBJECT, &raw_status().encode_to_vec()).unwrap() else {
            panic!("a status was sent");
        };
        assert_eq!(report.node.to_string(), "plant/press");
        assert_eq!(report.position, Position { incarnation: 1, sequence: 7 });
        assert_eq!(report.deployments[0].state, State::Installed);
        assert_eq!(report.time.to_string(), "1970-01-01T00:00:01Z");
        for other in ["state.plant.node.Press.status", "state.plant.health", "desired.plant.head", ">"] {
            assert!(decode(other, &raw_status().encode_to_vec()).is_err(), "{other}");
        }
    }

    #[test]
    fn a_state_that_we_do_not_know_is_not_guessed() {
        assert_eq!(refused(|raw| raw.deployments[0].state = 0), "deployments[0].state: 0 is no state");
        assert_eq!(
            refused(|raw| raw.deployments[0].components[0].state = 99),
            "deployments[0].components[0].state: 99 is no state"
        );
    }

    #[test]
    fn every_refusal_names_its_field() {
        assert_eq!(refused(|raw| raw.incarnation = 0), "incarnation: must be at least 1");
        assert_eq!(refused(|raw| raw.sequence = 1 << 53), "sequence: 9007199254740992 is more than 2^53 - 1");
        assert!(refused(|raw| raw.deployments[0].id = "x".into()).starts_with("deployments[0].id: "));
        assert!(refused(|raw| raw.deployments[0].digest = "md5:1".into()).starts_with("deployments[0].digest: "));
        let twice = refused(|raw| raw.deployments.push(raw.deployments[0].clone()));
        assert_eq!(twice, format!("deployments: {ID} is listed twice"));
        let many = refused(|raw| raw.deployments[0].components = vec![Default::default(); MAX_COMPONENTS + 1]);
        assert_eq!(many, "deployments[0].components: 1001 entries are more than 1000");
    }

    #[test]
    fn a_long_text_is_cut_and_the_state_beside_it_kept() {
        let mut raw = raw_status();
        raw.deployments[0].failure = Some(proto::Failure { message: "é".repeat(MAX_TEXT + 1), ..Default::default() });
        let Report::Status(report) = decode(SUBJECT, &raw.encode_to_vec()).unwrap() else {
            panic!("a status was sent");
        };
        assert_eq!(report.deployments[0].failure.as_ref().unwrap().message.chars().count(), MAX_TEXT);
    }

    #[test]
    fn fields_of_a_later_version_are_no_reason_to_refuse() {
        // Field 100, a varint: none of ours.
        let mut bytes = raw_status().encode_to_vec();
        bytes.extend([0xa0, 0x06, 0x01]);
        assert!(decode(SUBJECT, &bytes).is_ok());
    }
}
