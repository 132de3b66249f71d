//! From bytes on the bus to what a site says. The generated protobuf types stop here, and so does what is malformed.

use api::{Reachability, RefusalInfo};
use bus::{Subject, proto};
use jiff::Timestamp;
use margo::{ClientName, ManifestVersion, NodeId};
use prost::Message;

use crate::{
    domain::{Capabilities, Health, NodeHealth, Position, check_capabilities},
    error::Malformed,
};

/// More than any site has.
const MAX_NODES: usize = 10_000;

/// What a site may remember of what it refused; of a longer list, the newest.
const MAX_REFUSALS: usize = 20;

/// Characters of a text for people; a longer one is cut.
const MAX_TEXT: usize = 4_000;

/// Counters stay exact as JSON numbers and as SQL integers.
const MAX_COUNTER: u64 = (1 << 53) - 1;

/// What is on the bus about a site and its nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// What a node can do.
    Capabilities(Capabilities),
    /// What an LO says of its site.
    Health(Health),
}

/// Reads a message by its subject: that alone says whom it is about.
pub fn decode(subject: &str, payload: &[u8]) -> Result<Report, Malformed> {
    match subject.parse()? {
        Subject::Capabilities(node) => {
            capabilities(node, proto::NodeCapabilities::decode(payload)?).map(Report::Capabilities)
        }
        Subject::Health(client) => health(client, proto::SiteHealth::decode(payload)?).map(Report::Health),
        other => Err(Malformed::NotOurs(other)),
    }
}

fn capabilities(node: NodeId, raw: proto::NodeCapabilities) -> Result<Capabilities, Malformed> {
    if raw.incarnation == 0 {
        // A node has its incarnation before its first report.
        return Err(field("incarnation", "must be at least 1"));
    }
    let position = Position {
        incarnation: counter("incarnation", raw.incarnation)?,
        sequence: counter("sequence", raw.sequence)?,
    };
    let document = check_capabilities(&node, &raw.document).map_err(|rule| field("document", rule))?;
    Ok(Capabilities { node, position, document })
}

fn health(client: ClientName, raw: proto::SiteHealth) -> Result<Health, Malformed> {
    if raw.nodes.len() > MAX_NODES {
        return Err(field("nodes", format!("{} entries are more than {MAX_NODES}", raw.nodes.len())));
    }
    let adopted = match raw.adopted_manifest_version {
        0 => None,
        version => {
            let version = ManifestVersion::try_from(version);
            Some(version.map_err(|error| field("adopted_manifest_version", error.to_string()))?)
        }
    };
    let known = raw.refusals.len().saturating_sub(MAX_REFUSALS);
    Ok(Health {
        client,
        nodes: raw.nodes.into_iter().enumerate().map(node_health).collect::<Result<_, _>>()?,
        adopted,
        refusals: raw.refusals.into_iter().skip(known).map(refusal).collect(),
        time: time(raw.time),
    })
}

fn node_health((at, raw): (usize, proto::NodeHealth)) -> Result<NodeHealth, Malformed> {
    let path = |name: &str| format!("nodes[{at}].{name}");
    let reachability = match proto::Reachability::try_from(raw.reachability) {
        Ok(proto::Reachability::Reachable) => Reachability::Reachable,
        Ok(proto::Reachability::Unreachable) => Reachability::Unreachable,
        Ok(proto::Reachability::Unknown) => Reachability::Unknown,
        Ok(proto::Reachability::Unspecified) | Err(_) => {
            return Err(field(path("reachability"), format!("{} is no reachability", raw.reachability)));
        }
    };
    let node = raw.node.parse().map_err(|error: margo::InvalidName| field(path("node"), error.to_string()))?;
    Ok(NodeHealth { node, reachability, since: time(raw.since) })
}

fn refusal(raw: proto::Refusal) -> RefusalInfo {
    RefusalInfo { subject: text(raw.subject), reason: text(raw.reason), at: time(raw.time).to_string() }
}

fn counter(path: &str, raw: u64) -> Result<u64, Malformed> {
    if raw > MAX_COUNTER { Err(field(path, format!("{raw} is more than 2^53 - 1"))) } else { Ok(raw) }
}

fn field(path: impl Into<String>, rule: impl Into<String>) -> Malformed {
    Malformed::Field { field: path.into(), rule: rule.into() }
}

/// A clock of a site is only shown; what lies beyond the year 2262 is shown as that.
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

    const HEALTH: &str = "state.plant.health";
    const CAPABILITIES: &str = "state.plant.node.press.capabilities";

    fn raw_health() -> proto::SiteHealth {
        proto::SiteHealth {
            nodes: vec![proto::NodeHealth {
                node: "press".into(),
                reachability: proto::Reachability::Reachable.into(),
                since: 1,
            }],
            adopted_manifest_version: 7,
            ..Default::default()
        }
    }

    fn refused(subject: &str, message: &impl Message) -> String {
        decode(subject, &message.encode_to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn health_is_about_the_client_that_its_subject_names() {
        let Report::Health(health) = decode(HEALTH, &raw_health().encode_to_vec()).unwrap() else {
            panic!("health was sent");
        };
        assert_eq!(health.client.as_str(), "plant");
        assert_eq!(health.adopted.map(ManifestVersion::get), Some(7));
        assert_eq!(health.nodes[0].reachability, Reachability::Reachable);
        for other in ["state.plant.node.press.status", "state.Plant.health", "alive.plant.press"] {
            assert!(decode(other, &raw_health().encode_to_vec()).is_err(), "{other}");
        }
    }

    #[test]
    fn a_site_that_adopted_nothing_yet_is_healthy_too() {
        let health = proto::SiteHealth { adopted_manifest_version: 0, ..raw_health() };
        let Report::Health(health) = decode(HEALTH, &health.encode_to_vec()).unwrap() else {
            panic!("health was sent");
        };
        assert_eq!(health.adopted, None);
    }

    #[test]
    fn every_refusal_names_its_field() {
        let mut health = raw_health();
        health.nodes[0].reachability = 0;
        assert_eq!(refused(HEALTH, &health), "nodes[0].reachability: 0 is no reachability");
        let mut health = raw_health();
        health.nodes[0].node = "no node".into();
        assert!(refused(HEALTH, &health).starts_with("nodes[0].node: "));
        let health = proto::SiteHealth { adopted_manifest_version: 1 << 53, ..raw_health() };
        assert!(refused(HEALTH, &health).starts_with("adopted_manifest_version: "));
        let capabilities = proto::NodeCapabilities { incarnation: 0, sequence: 1, document: "{}".into() };
        assert_eq!(refused(CAPABILITIES, &capabilities), "incarnation: must be at least 1");
        let capabilities = proto::NodeCapabilities { incarnation: 1, sequence: 1, document: "{".into() };
        assert!(refused(CAPABILITIES, &capabilities).starts_with("document: "));
    }
}
