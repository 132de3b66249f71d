//! A window: what a site asks the hub to store, many messages at once.

use bytes::Bytes;
use margo::{ClientName, DeviceId, NodeId};

use super::{
    Capabilities, Events, Malformed, Position, SiteHealth, Status, capabilities, events, health,
    limits::{
        MAX_STREAM_ID, MAX_TRACEPARENT, MAX_WINDOW, MAX_WINDOW_MESSAGES, at_most, counter, decode_at_most, field, parse,
    },
    status,
};
use crate::{Subject, proto};

/// The number of the protocol that windows and questions for positions speak. Whoever answers uses none newer than that of
/// the question.
pub const PROTOCOL: u32 = 1;

/// Makes a text that stands for one life of a site's orchestrator.
pub fn new_session() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// What says which window it is, without its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowHead {
    /// Stands for one life of the site's orchestrator.
    pub session: String,
    /// Rises with every window of a session.
    pub number: u64,
}

/// A window whose frame was read; its messages are read one by one, for one that is malformed spoils no other.
#[derive(Debug)]
pub struct Window {
    /// Which window it is.
    pub head: WindowHead,
    /// The identity of the hub's stream STATE and its sequence, as the site was last told them.
    pub stream: (String, u64),
    /// What is to be stored, in its order.
    pub messages: Vec<proto::WindowMessage>,
}

/// A message of a window that was read as the site's nodes' reports are, and belongs on the subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Where it is stored. It names the client that asks, and the node.
    pub subject: Subject,
    /// Where it stands among the reports of its node; `None` for what an LO says of its site.
    pub position: Option<Position>,
    /// The device that capabilities name. Whoever knows the node's device compares.
    pub device: Option<DeviceId>,
}

/// The part of a window that [`window_head`] decodes; everything else is skipped.
#[derive(Clone, PartialEq, prost::Message)]
struct RawHead {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "2")]
    session: String,
    #[prost(uint64, tag = "3")]
    number: u64,
}

/// Reads which window this is, and nothing else of it.
pub fn window_head(payload: &[u8]) -> Result<WindowHead, Malformed> {
    let raw: RawHead = decode_at_most(payload, MAX_WINDOW)?;
    head(raw.protocol, raw.session, raw.number)
}

fn head(protocol: u32, session: String, number: u64) -> Result<WindowHead, Malformed> {
    if protocol != PROTOCOL {
        return Err(field("protocol", format!("{protocol} is not spoken here, but {PROTOCOL} is")));
    }
    if session.is_empty() || session.len() > MAX_STREAM_ID {
        return Err(field("session", format!("must have 1 to {MAX_STREAM_ID} bytes")));
    }
    Ok(WindowHead { session, number: counter("number", number)? })
}

/// Reads the frame of a window.
pub fn window(payload: &[u8]) -> Result<Window, Malformed> {
    let raw: proto::Window = decode_at_most(payload, MAX_WINDOW)?;
    at_most("messages", raw.messages.len(), MAX_WINDOW_MESSAGES)?;
    if raw.state_stream.len() > MAX_STREAM_ID {
        return Err(field("state_stream", format!("{} bytes are more than {MAX_STREAM_ID}", raw.state_stream.len())));
    }
    Ok(Window {
        head: head(raw.protocol, raw.session, raw.number)?,
        stream: (raw.state_stream, counter("state_sequence", raw.state_sequence)?),
        messages: raw.messages,
    })
}

impl Item {
    /// Reads a message of a window of this client with the same eyes as a site reads its nodes' reports. The subject is made
    /// of the client that asks and the name of the node, so nobody writes for another client.
    pub fn read(client: &ClientName, message: &proto::WindowMessage) -> Result<Self, Malformed> {
        // It becomes a header, and nothing else may.
        let is_trace = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if message.traceparent.len() > MAX_TRACEPARENT || !message.traceparent.bytes().all(is_trace) {
            return Err(field("traceparent", format!("must be at most {MAX_TRACEPARENT} of 0-9, a-f and -")));
        }
        let node = || Ok::<_, Malformed>(NodeId::new(client.clone(), parse("node".to_owned(), &message.node)?));
        let payload = &message.payload;
        let mut of_device = None;
        let (subject, position) = match message.kind() {
            proto::ReportKind::Status => {
                let Status { position, .. } = status(payload)?;
                (Subject::Status(node()?), Some(position))
            }
            proto::ReportKind::Capabilities => {
                let Capabilities { position, device, .. } = capabilities(payload)?;
                of_device = Some(device);
                (Subject::Capabilities(node()?), Some(position))
            }
            proto::ReportKind::Events => {
                let Events { position, .. } = events(payload)?;
                (Subject::Event(node()?), Some(position))
            }
            proto::ReportKind::Health => {
                let SiteHealth { .. } = health(payload)?;
                (Subject::Health(client.clone()), None)
            }
            proto::ReportKind::Unspecified => return Err(field("kind", "is none that is known here")),
        };
        Ok(Self { subject, position, device: of_device })
    }
}

/// Makes the message of a window from one that a site has stored on this subject; `None` for subjects that carry no report.
pub fn wrap(subject: &Subject, payload: Bytes, traceparent: String) -> Option<proto::WindowMessage> {
    let (kind, node) = match subject {
        Subject::Status(node) => (proto::ReportKind::Status, node.node.to_string()),
        Subject::Capabilities(node) => (proto::ReportKind::Capabilities, node.node.to_string()),
        Subject::Event(node) => (proto::ReportKind::Events, node.node.to_string()),
        Subject::Health(_) => (proto::ReportKind::Health, String::new()),
        _ => return None,
    };
    Some(proto::WindowMessage { kind: kind.into(), node, payload, traceparent })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn plant() -> ClientName {
        "plant".parse().unwrap()
    }

    fn raw() -> proto::Window {
        proto::Window { protocol: PROTOCOL, session: "life".into(), number: 7, ..Default::default() }
    }

    fn message(subject: &str, payload: impl prost::Message) -> proto::WindowMessage {
        wrap(&subject.parse().unwrap(), payload.encode_to_vec().into(), String::new()).unwrap()
    }

    #[test]
    fn the_head_is_read_without_the_messages() {
        // The messages are no messages at all; whoever reads the head does not look.
        let mut bytes = raw().encode_to_vec();
        bytes.extend([0x32, 3, 0xff, 0xff, 0xff]);
        assert_eq!(window_head(&bytes).unwrap(), WindowHead { session: "life".into(), number: 7 });
        assert!(window(&bytes).is_err());
    }

    #[test]
    fn a_window_has_limits_and_a_protocol() {
        let refused = |change: fn(&mut proto::Window)| {
            let mut raw = raw();
            change(&mut raw);
            window(&raw.encode_to_vec()).unwrap_err().to_string()
        };
        assert_eq!(refused(|raw| raw.protocol = 2), "protocol: 2 is not spoken here, but 1 is");
        assert!(refused(|raw| raw.session.clear()).starts_with("session: "));
        let many = refused(|raw| raw.messages = vec![Default::default(); MAX_WINDOW_MESSAGES + 1]);
        assert_eq!(many, "messages: 1001 entries are more than 1000");
        assert!(matches!(window(&vec![0; MAX_WINDOW + 1]), Err(Malformed::TooLarge { .. })));
    }

    #[test]
    fn a_message_belongs_to_the_client_that_asks_and_to_the_node_that_it_names() {
        let status = proto::NodeStatus { incarnation: 2, sequence: 3, generation: 1, ..Default::default() };
        // What another client's site would have stored, sent by this one.
        let item = Item::read(&plant(), &message("state.other.node.press.status", status.clone())).unwrap();
        assert_eq!(item.subject.to_string(), "state.plant.node.press.status");
        assert_eq!(item.position, Some(Position { generation: 1, incarnation: 2, sequence: 3 }));
        let health = Item::read(&plant(), &message("state.plant.health", proto::SiteHealth::default())).unwrap();
        assert_eq!((health.subject, health.position), (Subject::Health(plant()), None));
        for wrong in ["", "a.b", "*", ">"] {
            let message =
                proto::WindowMessage { node: wrong.into(), ..message("state.x.node.y.status", status.clone()) };
            assert!(Item::read(&plant(), &message).unwrap_err().to_string().starts_with("node: "), "{wrong}");
        }
        let unknown = proto::WindowMessage { kind: 9, ..message("state.x.node.y.status", status) };
        assert_eq!(Item::read(&plant(), &unknown).unwrap_err().to_string(), "kind: is none that is known here");
    }

    #[test]
    fn a_trace_brings_no_header_of_its_own() {
        let health = message("state.plant.health", proto::SiteHealth::default());
        let forged = proto::WindowMessage { traceparent: "00\r\nNats-Rollup: all".into(), ..health };
        assert!(Item::read(&plant(), &forged).unwrap_err().to_string().starts_with("traceparent: "));
    }

    #[test]
    fn only_reports_go_up() {
        assert_eq!(wrap(&Subject::DesiredHead(plant()), Bytes::new(), String::new()), None);
    }
}
