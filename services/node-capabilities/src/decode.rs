//! From bytes on the bus to reports of nodes and sites. What a report may hold, and what is malformed, `bus::report`
//! says.

use bus::{
    Subject,
    report::{self, Capabilities, SiteHealth},
};
use margo::{ClientName, NodeId};

use crate::error::Malformed;

/// What is on the bus about a site and its nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// What a node can do. Whether the document names the device that the node is, only the store can tell.
    Capabilities(NodeId, Capabilities),
    /// What an LO says of its site. It replaces what the LO said before.
    Health(ClientName, SiteHealth),
}

/// Reads a message by its subject: that alone says whom it is about.
pub fn decode(subject: &str, payload: &[u8]) -> Result<Report, Malformed> {
    match subject.parse()? {
        Subject::Capabilities(node) => Ok(Report::Capabilities(node, report::capabilities(payload)?)),
        Subject::Health(client) => Ok(Report::Health(client, report::health(payload)?)),
        other => Err(Malformed::NotOurs(other)),
    }
}

#[cfg(test)]
mod tests {
    use bus::proto;
    use prost::Message;

    use super::*;

    #[test]
    fn health_is_about_the_client_that_its_subject_names() {
        let raw = proto::SiteHealth { adopted_manifest_version: 7, ..Default::default() }.encode_to_vec();
        let Report::Health(client, health) = decode("state.plant.health", &raw).unwrap() else {
            panic!("health was sent");
        };
        assert_eq!((client.as_str(), health.adopted.map(|version| version.get())), ("plant", Some(7)));
        for other in ["state.plant.node.press.status", "state.Plant.health", "alive.plant.press"] {
            assert!(decode(other, &raw).is_err(), "{other}");
        }
    }
}
