//! From bytes on the bus to reports of nodes. What a report may hold, and what is malformed, `bus::report` says.

use bus::{Subject, report};

use crate::{domain::Report, error::Malformed};

/// Reads a message by its subject: that alone says which node it is about.
pub fn decode(subject: &str, payload: &[u8]) -> Result<Report, Malformed> {
    match subject.parse()? {
        Subject::Status(node) => Ok(Report::Status(node, report::status(payload)?)),
        Subject::Event(node) => Ok(Report::Events(node, report::events(payload)?)),
        other => Err(Malformed::NotAReport(other)),
    }
}

#[cfg(test)]
mod tests {
    use bus::proto;
    use prost::Message;

    use super::*;

    #[test]
    fn a_report_is_about_the_node_that_its_subject_names() {
        let raw = proto::NodeStatus { incarnation: 1, sequence: 7, ..Default::default() }.encode_to_vec();
        let Report::Status(node, status) = decode("state.plant.node.press.status", &raw).unwrap() else {
            panic!("a status was sent");
        };
        assert_eq!(node.to_string(), "plant/press");
        assert_eq!(status.position, report::Position { generation: 0, incarnation: 1, sequence: 7 });
        for other in ["state.plant.node.Press.status", "state.plant.health", "desired.plant.head", ">"] {
            assert!(decode(other, &raw).is_err(), "{other}");
        }
    }
}
