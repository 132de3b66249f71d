//! From bytes on the bus to what this service stores. What a report may hold, and what is malformed, `bus::report` says.

use api::{Reachability, Refusal};
use bus::{Subject, proto, report};
use margo::{ClientName, NodeId};

use crate::{
    domain::{Capabilities, Health, NodeHealth},
    error::Malformed,
};

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
        Subject::Capabilities(node) => Ok(Report::Capabilities(capabilities(node, report::capabilities(payload)?))),
        Subject::Health(client) => Ok(Report::Health(health(client, report::health(payload)?))),
        other => Err(Malformed::NotOurs(other)),
    }
}

/// Whether the document names the device that the node is, only the store can tell.
fn capabilities(node: NodeId, read: report::Capabilities) -> Capabilities {
    let report::Capabilities { position, device, document } = read;
    Capabilities { node, position, device, document }
}

fn health(client: ClientName, read: report::SiteHealth) -> Health {
    let nodes = read.nodes.into_iter().map(|read| NodeHealth {
        node: read.node,
        reachability: match read.reachability {
            proto::Reachability::Reachable => Reachability::Reachable,
            proto::Reachability::Unreachable => Reachability::Unreachable,
            proto::Reachability::Unknown | proto::Reachability::Unspecified => Reachability::Unknown,
        },
        since: read.since,
    });
    let refusals = read.refusals.into_iter().map(|report::Refusal { subject, reason, time }| Refusal {
        subject,
        reason,
        at: time.to_string(),
    });
    Health { client, nodes: nodes.collect(), adopted: read.adopted, refusals: refusals.collect(), time: read.time }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn health_is_about_the_client_that_its_subject_names() {
        let raw = proto::SiteHealth { adopted_manifest_version: 7, ..Default::default() }.encode_to_vec();
        let Report::Health(health) = decode("state.plant.health", &raw).unwrap() else { panic!("health was sent") };
        assert_eq!((health.client.as_str(), health.adopted.map(|version| version.get())), ("plant", Some(7)));
        for other in ["state.plant.node.press.status", "state.Plant.health", "alive.plant.press"] {
            assert!(decode(other, &raw).is_err(), "{other}");
        }
    }
}
